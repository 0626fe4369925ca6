"""compressor: an edge model-compression compiler."""

__version__ = "0.1.0"
