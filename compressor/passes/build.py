"""From ONNX to what the target's runtime loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from compressor.core import Artifact, Context, Engine, Json, Model, OnnxModel, PlanContext, Result, VerificationFailed

__all__ = ["Build"]


@dataclass(frozen=True)
class Build:
    """Make the engine, or, for a target that builds on its device, the recipe for it.

    Of an INT8 result every layer's precision is told, and the run fails where less of the multiplications is in
    INT8 than the target wants.
    """

    kind: ClassVar[str] = "build"
    needs: ClassVar[frozenset[str]] = frozenset({"onnx"})
    produces: ClassVar[frozenset[str]] = frozenset({"engine"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        return ()

    def run(self, artifact: Artifact, context: Context) -> Result:
        from compressor import catalog

        assert artifact.onnx is not None
        target = context.target
        layers = _audited(artifact.onnx, artifact.result, target.int8_share)
        backend = catalog.find("backends", target.backend)()
        engine: Engine = backend.build(artifact.onnx, artifact.result, target, context.workdir)
        metrics: dict[str, Json] = {
            "backend": engine.backend,
            "status": engine.status,
            "bytes": engine.path.stat().st_size,
            **engine.facts,
            **layers,
        }
        if layers and any(path.name == "build_engine.py" for path in engine.files):
            twin = _twin(artifact.onnx, context.workdir / "float.onnx", backend.rules(target).float_dtype == "float16")
            wanted = {"layers": layers["layers"], "int8_share_wanted": target.int8_share}
            engine = replace(engine, files=(*engine.files, twin), facts={**engine.facts, **wanted})
        return Result(replace(artifact, engine=engine), metrics)


def _audited(model: OnnxModel, network: Model, wanted: float) -> dict[str, Json]:
    """Asked against realised precision of each layer of an INT8 graph. Raises VerificationFailed below ``wanted``."""
    if model.precision != "int8":
        return {}
    import onnx

    from compressor.quant.audit import audit

    found = audit(onnx.load(str(model.path)), network.feed_shapes)
    if found.int8_share < wanted:
        floats = sorted((x for x in found.layers if x.precision != "int8"), key=lambda x: -x.macs)[:3]
        raise VerificationFailed(
            f"{found.int8_share:.0%} of the multiplications are in INT8, and this target wants {wanted:.0%}: "
            f"in float are {', '.join(f'{x.node} ({x.macs / found.macs:.0%})' for x in floats)}",
            hint="widen those layers to a multiple of 8 channels, take --profile float, or lower int8_share "
            "in a copy of the target",
        )
    layers = [
        {"node": x.node, "op": x.op, "macs": x.macs, "asked": model.precision, "realised": x.precision}
        for x in found.layers
    ]
    return {"int8_share": found.int8_share, "precisions_from": "the graph, not an engine", "layers": layers}


def _twin(model: OnnxModel, path: Path, half: bool) -> Path:
    """The float graph that the INT8 one was made from, for the device to time beside it."""
    from compressor.atomic import write
    from compressor.lowering.fp16 import fp16_twin

    source = model.chain()[0]
    if half:
        return fp16_twin(source, path).path
    write(path, source.path.read_bytes())
    return path
