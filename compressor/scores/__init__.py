"""Scores of untrained students, one a file; higher is better."""
