"""Student search without training: spaces, scores, measured latencies, evolution."""
