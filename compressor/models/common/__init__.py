"""Code that the families share: their protocol, heads, encodings, the search space, and counting without weights."""
