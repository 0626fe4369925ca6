"""Code that the scores share."""
