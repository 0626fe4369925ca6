"""A run's ``logs/run.log``: warnings, tracebacks, and one short line for each pass."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from compressor.core import Record
from compressor.figures import format_metric, is_metric

__all__ = ["describe_pass", "log_to"]

_WIDTH = 200
"""Characters of a pass's line at most. ``report.json`` has all metrics."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def log_to(folder: Path) -> Iterator[None]:
    """Write the program's log to ``run.log`` in ``folder``, with the traceback of what ends the block."""
    folder.mkdir(exist_ok=True)
    handler = _Handler(folder / "run.log", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("compressor")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        _log.error("stopped", exc_info=error)
        raise
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk: the last lines could not be written
            handler.close()


def describe_pass(record: Record) -> str:
    """Describe a finished pass in at most 200 characters: its kind, seconds, and those metrics that are one value.

    Metrics that do not fit are left out, and ``…`` takes their place.
    """
    line = f"{record.kind}: {record.seconds:.1f} s{' (cached)' if record.cached else ''}"
    for name, value in record.metrics.items():
        if is_metric(value):
            value = format_metric(value)
        if not isinstance(value, bool | int | float | str):
            continue
        more = f", {name}={value:.4g}" if isinstance(value, float) else f", {name}={value}"
        if len(line) + len(more) > _WIDTH - len(", …"):
            return f"{line}, …"
        line += more
    return line


class _Handler(logging.FileHandler):
    """A log file for which a full disk is no error: whatever else needs the disk reports it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        return
