"""The parity ladder, and the bundle, which is good only after it ran from disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.core import Artifact, Context, Json, OnnxModel, PlanContext, Result, VerificationFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Batch = NDArray[np.float32]

__all__ = ["Verify"]

_EXPORT_TOLERANCE = 1e-3
"""Of the outputs' largest magnitude: what fp32 summed in another order may differ by."""

_PACKED = "model.packed"
_IMAGES = 2
"""Golden samples where they are images in and out: megabytes each, and far more within."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_AROUND = ("Cast", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Verify:
    """Compare torch, its export and the result on ``samples`` samples, step by step; write the bundle.

    A step that should be exact and is not fails the run. Quantisation is judged, not failed: label
    agreement, signal-to-noise in dB, and the first layer whose own falls under ``drift_db``.
    ``golden`` samples and their outputs travel with the bundle, and where ``packed`` is set the model in its
    smallest form, which ``run.py`` unpacks where that alone was sent.
    """

    samples: int = 256
    golden: int = 8
    drift_db: float = 15.0
    packed: bool = False

    kind: ClassVar[str] = "verify"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "reference", "onnx", "engine", "measurements"})
    produces: ClassVar[frozenset[str]] = frozenset({"bundle", "engine"})
    volatile: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self, plan_context: PlanContext) -> tuple[str, ...]:
        if not 1 <= self.golden <= self.samples:
            return (f"verify.golden = {self.golden}: it takes 1 to verify.samples ({self.samples})",)
        return ()

    def run(self, artifact: Artifact, context: Context) -> Result:
        import numpy as np

        from compressor import catalog
        from compressor.bench.machine import can_run, machine

        assert artifact.reference is not None
        assert artifact.onnx is not None
        assert artifact.engine is not None
        backend = catalog.find("backends", context.target.backend)()
        batch = self._batch(artifact, context)
        exact = not can_run(context.target, machine())

        def outputs(model: OnnxModel) -> Batch:
            context.progress(f"verify {model.precision}", 0, 1)
            session = backend.open(model.path, threads=1, exact=exact)
            return np.concatenate([session(batch[i : i + 32]) for i in range(0, len(batch), 32)])

        ladder: list[dict[str, Json]] = []
        chain = artifact.onnx.chain()
        expected = {"torch": self._torch(artifact, batch)}
        for model in chain:
            below = next(reversed(expected))
            above = model.precision if model.precision != below else f"{below} of codes"
            expected[above] = outputs(model)
            ladder.append(_rung(below, above, expected[below], expected[above]))
        if not (differs := ladder[0]["relative_error"]) <= _EXPORT_TOLERANCE:  # NaN is no match either
            raise VerificationFailed(
                f"the ONNX export differs from the torch model by {differs:.2g} of its largest output",
                hint="look for operations in the model's forward that behave differently in eval mode or when traced",
            )
        result = expected[next(reversed(expected))]
        if not np.all(np.isfinite(result)):
            raise VerificationFailed(
                "the result's outputs are not finite",
                hint="a value is out of the precision's range: try lower.precision = fp32",
            )
        golden = self.golden if artifact.result.enlarges is None else min(self.golden, _IMAGES)
        metrics: dict[str, Json] = {"ladder": ladder}
        warnings = [
            f"{rung['to']} agrees with {rung['from']} on only {rung['agreement']:.1%} of labels"
            for rung in ladder
            if rung["agreement"] is not None and rung["agreement"] < 0.95
        ]
        if len(chain) > 1:
            layers = _drift(chain[0].path, chain[-1].path, batch[:golden])
            first = next((layer for layer in layers if layer["db"] < self.drift_db), None)
            metrics |= {"layers": layers, "first_drift": first}
        graph, engine = artifact.onnx, artifact.engine
        if context.board is not None and engine.path == graph.path:
            # What is left to do on the board is done below: the bundle is good there, or none is made.
            artifact = replace(artifact, engine=replace(engine, status="ready", todo=None))
        bundle = self._bundle(artifact, context, batch[:golden], result[:golden])
        if context.board is not None:
            from compressor.bench.ssh import Board
            from compressor.bench.bench_model import BenchModel
            from compressor.bench.remote import verify_there

            verify_there(Board.parse(context.board), BenchModel.read(bundle.path), context.progress)
            metrics["verified_on"] = context.board
        if self.packed:
            sizes = [path.stat().st_size for path in (graph.path, bundle.path / _PACKED)]
            metrics |= {"packed_bytes_before": sizes[0], "packed_bytes": sizes[1]}
        return Result(replace(artifact, bundle=bundle), metrics, tuple(warnings))

    def _batch(self, artifact: Artifact, context: Context) -> Batch:
        """Evaluation samples, or noise where there is no data."""
        import numpy as np

        rng = np.random.default_rng(context.seed)
        if context.data is None:
            return rng.standard_normal((self.samples, *artifact.teacher.input.shape), np.float32)
        split = context.data.evaluate
        drawn = np.sort(rng.choice(len(split), min(self.samples, len(split)), replace=False))
        return np.concatenate([images for images, _ in split.batches(64, drawn)])

    def _torch(self, artifact: Artifact, batch: Batch) -> Batch:
        import numpy as np
        import torch

        from compressor.frontend import load

        module = load(artifact.result)
        with torch.inference_mode():
            made = np.concatenate(
                [module(torch.from_numpy(batch[i : i + 32])).numpy() for i in range(0, len(batch), 32)]
            )
        return made if artifact.result.enlarges is None else made.clip(0, 1)  # as the graph's own guard does

    def _bundle(self, artifact: Artifact, context: Context, batch: Batch, outputs: Batch) -> Any:
        import numpy as np

        from compressor import __version__, catalog
        from compressor.atomic import write
        from compressor.bench.machine import can_run, machine
        from compressor.bundle import write_bundle
        from compressor.bundle.storage import stored
        from compressor.frontend import load

        assert artifact.onnx is not None
        assert artifact.engine is not None
        assert artifact.measurements is not None
        model, metric = artifact.result, artifact.measurements.result.metric
        backend = catalog.find("backends", context.target.backend)()
        shape: list[Json] = [*model.input.shape]
        if not can_run(context.target, machine()):  # ONNX Runtime spoke for it
            backend = catalog.find("backends", "onnxruntime")()
        output: dict[str, Json] = {"name": "output", "shape": ["batch", *outputs.shape[1:]]}
        task = "classification" if model.enlarges is None else "super-resolution"
        divisor = 1
        if model.enlarges is not None:
            divisor = getattr(load(model), "divisor", 1)
            shape[1:] = ["height", "width"]
            sides = [f"{model.enlarges} * {side}" for side in shape[1:]]
            output = {"name": "output", "shape": ["batch", model.outputs, *sides], "enlarges": model.enlarges}
        elif context.data is not None:
            output["classes"] = list(context.data.classes)
        manifest = {
            "task": task,
            "target": context.target.name,
            "precision": {"asked": [artifact.onnx.precision], "realised": artifact.onnx.precision, "from": "graph"},
            "opset": artifact.onnx.opset,
            "input": {
                "name": "input",
                "shape": ["batch", *shape],
                "dtype": "float32",
                **({} if model.enlarges is None else {"divisor": divisor, "measured": list(model.input.shape[1:])}),
                "layout": "NCHW",
                "range": list(model.normalization.range),
                "mean": list(model.normalization.mean),
                "std": list(model.normalization.std),
            },
            "outputs": [output],
            "versions": {"compressor": __version__, backend.name: backend.version()},
            "provenance": {
                "teacher_sha256": artifact.teacher.sha256,
                "family": model.family,
                "settings": model.settings,
                "profile": context.profile.name,
                "seed": context.seed,
            },
            "evaluation": None if metric is None else {"fingerprint": metric.fingerprint, "metric": asdict(metric)},
            "engine": {
                "status": artifact.engine.status,
                "backend": artifact.engine.backend,
                "todo": artifact.engine.todo,
                **artifact.engine.facts,
            },
        }
        # Other CPUs round and saturate 8-bit sums otherwise: a twentieth of the outputs' span is still
        # far less than any change of a weight does.
        share = 1e-3 if artifact.onnx.precision == "fp32" else 0.05
        span = float(np.max(outputs) - np.min(outputs)) or 1.0
        extra = [artifact.engine.path] if artifact.engine.path != artifact.onnx.path else []
        extra += artifact.engine.files
        if self.packed:
            extra.append(context.workdir / _PACKED)
            write(extra[-1], stored(artifact.onnx.path.read_bytes()))
        return write_bundle(
            context.workdir / "bundle", artifact.onnx.path, manifest, (batch, outputs), share * span, extra
        )


def _rung(below: str, above: str, expected: Batch, got: Batch) -> dict[str, Json]:
    """One step of the ladder: how far ``got`` is from ``expected``."""
    import numpy as np

    worst = float(np.max(np.abs(got - expected)))
    largest = float(np.max(np.abs(expected))) or 1.0
    agreement = float((got.argmax(1) == expected.argmax(1)).mean()) if got.ndim == 2 else None
    return {
        "from": below,
        "to": above,
        "max_abs": worst,
        "relative_error": worst / largest,
        "db": _decibels(expected, got),
        "agreement": agreement,
    }


def _decibels(signal: Batch, noisy: Batch, source: Batch | None = None) -> float:
    """Signal-to-noise ratio in dB, at most 200; the signal is the stronger of ``signal`` and ``source``."""
    import numpy as np

    def power(values: Batch) -> float:
        return float(np.mean(np.square(values, dtype=np.float64)))

    noise = power(noisy - signal)
    strongest = max(power(signal), 0.0 if source is None else power(source))
    return min(200.0, 10 * float(np.log10(max(strongest, 1e-30) / max(noise, 1e-30))))


def _drift(before: Path, after: Path, batch: Batch) -> Sequence[dict[str, Json]]:
    """For each tensor that lives on in the lowered graph, in order: the op that makes it, and how well, in dB.

    Of a layer with weights also their name and number, the type they are computed in and the bits that each takes
    in the file. The placement pass names the twin of ``x`` ``x_dequantized``; FP16 conversion keeps ``x``.
    """
    import numpy as np
    import onnx
    import onnxruntime

    def graph(path: Path) -> Any:
        return onnx.load(str(path))

    first, last = graph(before), graph(after)
    made = {name for node in last.graph.node for name in node.output}
    twins = {}
    for node in first.graph.node:
        for name in node.output:
            twin = next((t for t in (f"{name}_dequantized", name) if t in made), None)
            if twin is not None:
                twins[name] = twin

    def run(model: Any, names: Sequence[str]) -> list[NDArray[Any]]:
        present = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # the graph's error, not this CPU's
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values: list[NDArray[Any]] = session.run(list(names), {"input": batch})
        return values

    ops = {name: node.op_type for node in first.graph.node for name in node.output}
    # Of a rectifier that shuts nearly all, what it was given is the measure: of hardly any signal all noise is much.
    given = {node.output[0]: node.input[0] for node in first.graph.node if node.op_type == "Relu"}
    given = {name: source for name, source in given.items() if name in twins and source in ops}
    stored = _stored(first.graph, last.graph)
    exact, lowered = run(first, [*twins, *given.values()]), run(last, list(twins.values()))
    sources = dict(zip(given, exact[len(twins) :], strict=True))

    def decibels(name: str, signal: Batch, noisy: Batch) -> float:
        return round(_decibels(signal.astype(np.float32), noisy.astype(np.float32), sources.get(name)), 2)

    return [
        {"tensor": name, "op": ops[name], "db": decibels(name, a, b)} | stored.get(name, {})
        for name, a, b in zip(twins, exact[: len(twins)], lowered, strict=True)
        if a.dtype.kind == "f" and a.shape == b.shape
    ]


def _stored(first: Any, last: Any) -> dict[str, dict[str, Json]]:
    """By the tensor that a layer with weights makes: how these are stored in the lowered graph."""
    import onnx

    sizes = {each.name: math.prod(each.dims) for each in first.initializer}
    constants = {each.name: each for each in last.initializer}
    makers = {name: node for node in last.node for name in node.output}
    types = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT8: "int8"}
    found: dict[str, dict[str, Json]] = {}
    for node in first.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2 or node.input[1] not in sizes:
            continue
        name = node.output[0]
        maker = makers.get(f"{name}_unquantized", makers.get(name))
        while maker is not None and maker.op_type in _AROUND:
            maker = makers.get(maker.input[0])
        if maker is None or maker.op_type != node.op_type:
            continue
        source = maker.input[1]
        if (dequantise := makers.get(source)) is not None and dequantise.op_type == "DequantizeLinear":
            source = dequantise.input[0]
        folds_packed_weights = makers.get(source)  # a few levels, by their codes
        constant = constants.get(folds_packed_weights.input[0] if folds_packed_weights is not None else source)
        if constant is None or constant.data_type not in types:
            continue
        kind = types[constant.data_type]
        bits = (constant.dims[0] - 1).bit_length() if folds_packed_weights is not None else int(kind.lstrip("fpint"))
        weight = node.input[1]
        found[name] = {"weight": weight, "elements": sizes[weight], "stored": kind, "bits": max(1, bits)}
    return found
