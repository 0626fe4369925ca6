"""The command line: a file a command, each of which parses, calls and prints. It has no logic of its own."""

from compressor.cli._app import main

__all__ = ["main"]
