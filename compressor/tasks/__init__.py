"""What a model is for: its metric."""
