"""What the scores share."""
