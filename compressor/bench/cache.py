"""Results of earlier measurements of devices: one JSON file each, in the user's cache folder."""

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

__all__ = ["ResultCache"]

_KEPT = 500
"""Files of one kind that are kept; the oldest are removed."""


@dataclass(frozen=True, slots=True)
class ResultCache:
    """A folder of cached results. What cannot be written there is measured again the next time."""

    folder: Path

    @classmethod
    def of_user(cls) -> ResultCache:
        """Return the cache in the folder that the XDG base directory specification names."""
        home = os.environ.get("XDG_CACHE_HOME") or ""
        return cls((Path(home) if home.startswith("/") else Path.home() / ".cache") / "compressor")

    def find(self, kind: str, key: Json) -> Json:
        """Return ``{key, when, value}`` as `put` kept it; None where there is none, or the file is damaged."""
        try:
            cached = json.loads(self._path(kind, key).read_text(encoding="utf-8"))
            return cached if cached["key"] == json.loads(json.dumps(key)) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, kind: str, key: Json, value: Json) -> None:
        """Keep ``value`` under ``key``; of each kind the latest 500 stay."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        path = self._path(kind, key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps({"key": key, "when": when, "value": value}) + "\n")
            for old in sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-_KEPT]:
                old.unlink(missing_ok=True)

    def _path(self, kind: str, key: Json) -> Path:
        return self.folder / kind / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
