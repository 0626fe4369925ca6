"""From ONNX to what the target's runtime loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressor.core import (
    Artifact,
    Backend,
    Context,
    Engine,
    Json,
    Model,
    OnnxModel,
    PlanContext,
    Result,
)

if TYPE_CHECKING:
    from compressor.quant.audit import Audit

__all__ = ["Build"]


@dataclass(frozen=True)
class Build:
    """Make the engine, or, for a target that builds on its device, the script that does it there.

    The precision of every layer of an INT8 graph is reported, with a warning where a smaller share of the
    multiplications is in INT8 than the target's ``int8_share``.
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
        layers, warnings = _layers(artifact.onnx, artifact.result, target.int8_share)
        backend: Backend = catalog.find("backends", target.backend)()
        engine = backend.build(artifact.onnx, artifact.result, target, context.workdir)
        metrics: dict[str, Json] = {
            "backend": engine.backend,
            "status": engine.status,
            "bytes": engine.path.stat().st_size,
            **engine.facts,
            **layers,
        }
        if layers and any(path.name == "build_engine.py" for path in engine.files):
            fp16 = backend.rules(target).float_dtype == "float16"
            wanted = min(target.int8_share, layers["int8_share"])
            engine = _with_comparison(engine, artifact.onnx, layers["layers"], wanted, fp16, context.workdir)
        return Result(replace(artifact, engine=engine), metrics, warnings)


def _layers(model: OnnxModel, network: Model, min_share: float) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The precision of each layer of an INT8 graph, for the report; nothing of a float graph.

    With it a warning where less than ``min_share`` of the multiplications is in INT8.
    """
    if model.precision != "int8":
        return {}, ()
    import onnx

    from compressor.quant.audit import audit

    audited = audit(onnx.load(str(model.path)), network.feed_shapes)
    warnings = () if audited.int8_share >= min_share else (_too_little_int8(audited, min_share),)
    layers = [
        {"node": x.node, "op": x.op, "macs": x.macs, "asked": model.precision, "realised": x.precision}
        for x in audited.layers
    ]
    facts = {"int8_share": audited.int8_share, "precisions_from": "the graph, not an engine", "layers": layers}
    return facts, warnings


def _too_little_int8(audited: Audit, min_share: float) -> str:
    floats = sorted((x for x in audited.layers if x.precision != "int8"), key=lambda x: -x.macs)[:3]
    told = ", ".join(f"{x.node} ({x.macs / audited.macs:.0%})" for x in floats)
    return (
        f"{audited.int8_share:.0%} of the multiplications are in INT8, and {min_share:.0%} is usual on this target: "
        f"in float are {told}; layers of a multiple of 8 channels would run in integers"
    )


def _with_comparison(
    engine: Engine, model: OnnxModel, layers: Json, min_share: float, fp16: bool, workdir: Path
) -> Engine:
    """Add what the device compares its INT8 engine with: the float graph, the layers and the target's INT8 share."""
    from compressor.atomic import write
    from compressor.lowering.fp16 import fp16_twin

    source, path = model.chain()[0], workdir / "float.onnx"
    if fp16:
        fp16_twin(source, path)
    else:
        write(path, source.path.read_bytes())
    facts = {**engine.facts, "layers": layers, "int8_share_wanted": min_share}
    return replace(engine, files=(*engine.files, path), facts=facts)
