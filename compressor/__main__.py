"""``compress``, and ``python -m compressor``: signals are heeded before anything slow is imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from compressor.exits import heed_signals

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line."""
    heed_signals()
    from compressor import cli

    try:
        cli.main()
    finally:
        # Where memory or disk are short, what libraries tidy up at the end fails too; the message has been given.
        sys.unraisablehook = lambda _: None


if __name__ == "__main__":
    main()
