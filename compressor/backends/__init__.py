"""The runtimes, one a file: a target names its own by the file's name."""
