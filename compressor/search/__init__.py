"""The search for students without training: evolution, scores, measured latencies."""
