"""From ONNX to what the target's runtime loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compressor.core import Artifact, Context, Prospect, Result

__all__ = ["Build"]


@dataclass(frozen=True)
class Build:
    """Make the engine, or, for a target that builds on its device, the recipe for it."""

    kind: ClassVar[str] = "build"
    needs: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"engine"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, prospect: Prospect) -> tuple[str, ...]:
        return ()

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor import catalog

        assert artifact.onnx is not None
        backend = catalog.find("backends", context.target.backend)()
        engine = backend.build(artifact.onnx, context.target, context.workdir)
        metrics = {"backend": engine.backend, "status": engine.status, "bytes": engine.path.stat().st_size}
        return Result(replace(artifact, engine=engine), metrics)
