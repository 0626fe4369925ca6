"""An engine, or a graph that is built first, on this machine's GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from compressor.backends._named import NamedSession
from compressor.core import Session, Unavailable

__all__ = ["open_engine"]


def open_engine(path: Path, build: Callable[[Path], bytes]) -> Session:
    """Load a plan; of any other file ``build`` makes one first. Raises Unavailable where there is no GPU for it."""
    from compressor.backends._tensorrt_session import Session as Running

    try:
        if path.suffix == ".plan":
            return NamedSession(Running(path), path.with_name("model.onnx"))
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "model.plan"
            plan.write_bytes(build(path))
            return NamedSession(Running(plan), path)
    except RuntimeError as error:
        raise Unavailable(
            f"the engine cannot run here: {error}", hint="open it where its GPU is, with python run.py"
        ) from error
