"""Where the repository, its demo's teacher and the project's shared test data lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
TEACHER = ROOT / "examples" / "digits" / "teacher.pt"
"""The demo's teacher: a small ResNet of 8 x 8 px digits, whose data is built in (``builtin:digits``)."""
SHARED = ROOT.parent / "shared" / "data"
"""The project's shared test data, which is no part of the repository; tests ask for the fixture `shared_data`."""
