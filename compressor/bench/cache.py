"""What is known of devices from earlier measurements: one JSON file each, in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from compressor.atomic import write
from compressor.core import Json

__all__ = ["Shelf"]

_KEPT = 500
"""Files of one kind that are kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class ResultCache:
    """A folder of the user's. What cannot be kept there is only measured again the next time."""

    folder: Path

    @classmethod
    def of_user(cls) -> ResultCache:
        """Where the XDG base directory specification has a user's caches."""
        home = os.environ.get("XDG_CACHE_HOME") or ""
        return cls((Path(home) if home.startswith("/") else Path.home() / ".cache") / "compressor")

    def find(self, kind: str, key: Json) -> Json:
        """What was put under ``key``, with ``when`` beside it; None where there is nothing, or anything else."""
        try:
            kept = json.loads(self._path(kind, key).read_text(encoding="utf-8"))
            return kept if kept["key"] == json.loads(json.dumps(key)) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, kind: str, key: Json, value: Json) -> None:
        """Keep ``value`` under ``key``: `find` gives ``{key, when, value}``."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        path = self._path(kind, key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps({"key": key, "when": when, "value": value}) + "\n")
            for old in sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-_KEPT]:
                old.unlink(missing_ok=True)

    def _path(self, kind: str, key: Json) -> Path:
        return self.folder / kind / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
