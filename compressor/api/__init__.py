"""What a program calls: the same runs as the command line's, and their bundles."""

from compressor.api._bundle import LoadedBundle, load_bundle
from compressor.api._compress import compress

__all__ = ["LoadedBundle", "compress", "load_bundle"]
