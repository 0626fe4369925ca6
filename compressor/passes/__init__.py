"""The passes, one a file: a profile lists them by the file's name.

A pass's module stays light to import (nothing of torch, NNCF or a runtime at module
level), so that a whole plan is checked in its first second.
"""
