"""Runs and bundles for Python programs: what the command line does, with the same names."""

from compressor.api._bundle import LoadedBundle, load_bundle
from compressor.api._compress import compress

__all__ = ["LoadedBundle", "compress", "load_bundle"]
