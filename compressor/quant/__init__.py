"""Quantisation: ranges, and where the quantisers go."""
