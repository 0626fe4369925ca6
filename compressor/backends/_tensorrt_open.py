"""Sessions on this machine's NVIDIA GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from compressor.backends._named_session import NamedSession
from compressor.core import Session, Unavailable

__all__ = ["open_engine"]


def open_engine(path: Path, build: Callable[[Path], bytes]) -> Session:
    """Load a plan; of an ONNX file ``build`` makes one first. Raises Unavailable where no GPU here can run it."""
    from compressor.backends._tensorrt_session import Session as EngineSession

    try:
        if path.suffix == ".plan":
            return NamedSession(EngineSession(path), path.with_name("model.onnx"))
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "model.plan"
            plan.write_bytes(build(path))
            return NamedSession(EngineSession(plan), path)
    except RuntimeError as error:
        raise Unavailable(
            f"the engine cannot run here: {error}", hint="open it where its GPU is, with python run.py"
        ) from error
