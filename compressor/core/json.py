"""JSON values."""

from typing import Any

__all__ = ["Json"]

Json = Any
"""A JSON value: what may be written to ``report.json`` as it is."""
