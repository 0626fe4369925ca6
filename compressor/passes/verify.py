"""The parity ladder, and the bundle, which is good only after it ran from disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.core import (
    Artifact,
    Bundle,
    Context,
    Json,
    Model,
    OnnxModel,
    OutputParity,
    PlanContext,
    Result,
    UsageError,
    VerificationFailed,
)

if TYPE_CHECKING:
    from compressor.bundle import Manifest
    from compressor.core.signature import Feeds, Outputs
    from compressor.machine import Judgement

__all__ = ["Verify"]

_VALUES = 1 << 25
"""The most values of the samples that are compared."""
_EXPORT_TOLERANCE = 1e-3
"""What fp32 summed in another order may differ by, of the outputs' largest magnitude."""
_CLEAN_TOLERANCE = 1e-4
"""The same for a graph that was only cleaned."""
_INTEGER_SHARE, _FLOAT_SHARE = 0.05, 1e-3
"""The tolerance of golden outputs, of their span. Other CPUs round and saturate 8-bit sums otherwise: a twentieth is
still far less than any change of a weight does."""
_BATCH = 32
_EXACT_SUMS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""CPU features with one of which sums of products of bytes do not saturate: kernels are then alike on all CPUs."""
_LEAST_DB = 3.0
"""The SNR that a runtime's results have at least against the graph's: wrong ones have about 0, rounded ones over 30.

Of eight saturated answers two may be others by rounding."""
_PACKED = "model.packed"
_ALIKE = 0.95
"""The agreement of labels under which a step is warned of."""


@dataclass(frozen=True)
class Verify:
    """Compare the network, its lowered graph and the result on ``samples`` samples, step by step; write the bundle.

    A step that should be exact and is not fails the run. Quantisation is judged, not failed: agreement of labels,
    signal-to-noise ratio in dB of each output, and the first layer whose own falls under ``drift_db``.
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
        from compressor.feeds import count_samples, first_samples, one_run
        from compressor.quant.drift import drift

        assert artifact.onnx is not None
        assert artifact.engine is not None
        judge = _judgement(context)
        feeds = self._feeds(artifact, context)
        ladder, outputs = self._ladder(artifact, context, feeds, judge)
        _check_finite(outputs)
        golden = min(self.golden, context.task.golden)
        total = count_samples(artifact.result.signature, feeds)
        shown = first_samples(feeds, total, golden)
        metrics: dict[str, Json] = {"ladder": ladder}
        chain = artifact.onnx.chain()
        if len(chain) > 1:
            model = artifact.result
            layers = drift(chain[0].path, chain[-1].path, one_run(model.signature, model.sizes, shown))
            first = next((layer for layer in layers if layer["db"] < self.drift_db), None)
            metrics |= {"layers": layers, "first_drift": first}
            _check_overflow(layers, artifact.onnx.precision)
        graph, engine = artifact.onnx, artifact.engine
        if context.board is not None and engine.path == graph.path:
            # What is left to do on the board is done below: the bundle is good there, or none is made.
            artifact = replace(artifact, engine=replace(engine, status="ready", todo=None))
        expected = first_samples(outputs, total, golden)
        _check_runtime(artifact, context, judge, shown, expected)
        bundle = self._bundle(artifact, context, judge, shown, expected)
        if context.board is not None:
            _verify_on_board(context.board, bundle, context)
            metrics["verified_on"] = context.board
        if self.packed:
            sizes = [path.stat().st_size for path in (graph.path, bundle.path / _PACKED)]
            metrics |= {"packed_bytes_before": sizes[0], "packed_bytes": sizes[1]}
        return Result(replace(artifact, bundle=bundle), metrics, tuple(_warnings(ladder)))

    def _feeds(self, artifact: Artifact, context: Context) -> Feeds:
        """Evaluation samples, or random ones where there is no data."""
        import numpy as np

        from compressor.feeds import concat, random_feeds

        if context.data is None:
            model = artifact.teacher
            return random_feeds(model.signature, model.sizes, _affordable(self.samples, model.macs), context.seed)
        rng, split = np.random.default_rng(context.seed), context.data.evaluate
        values = sum(math.prod(shape) for shape in artifact.teacher.feed_shapes.values())
        count = min(self.samples, len(split), max(self.golden, _VALUES // values))  # all of them are in memory
        drawn = np.sort(rng.choice(len(split), count, replace=False))
        return concat([dict(batch.feeds) for batch in split.batches(64, drawn)])

    def _ladder(
        self, artifact: Artifact, context: Context, feeds: Feeds, judge: Judgement
    ) -> tuple[list[dict[str, Json]], Outputs]:
        """Each step from the network to the result, and the result's outputs.

        The first step, which should be exact, is on fewer samples of heavy torch networks.
        Raises VerificationFailed where it is not.
        """
        from compressor.feeds import count_samples, first_samples, run_in_batches

        def outputs(model: OnnxModel) -> Outputs:
            context.progress(f"verify {model.precision}", 0, 1)
            return run_in_batches(judge.open(model.path, threads=1), feeds, _BATCH)

        assert artifact.onnx is not None
        torch = artifact.result.graph is None
        below = "torch" if torch else "original"
        total = count_samples(artifact.result.signature, feeds)
        compared = _compared(artifact.result, total) if torch else total
        some = first_samples(feeds, total, compared)
        expected = _torch_outputs(artifact, context, some) if torch else _original_outputs(artifact, context, some)
        _check_own(expected, random=context.data is None)
        ladder: list[dict[str, Json]] = []
        for model in artifact.onnx.chain():
            above = model.precision if model.precision != below else f"{below} with other weights"
            got = outputs(model)
            parities = context.task.parity(expected, got if ladder else first_samples(got, total, compared))
            if not ladder:
                _check_exact(
                    parities, _EXPORT_TOLERANCE if torch else _CLEAN_TOLERANCE, "torch model" if torch else "file"
                )
            ladder.append(_rung(below, above, parities))
            below, expected = above, got
        return ladder, expected

    def _bundle(self, artifact: Artifact, context: Context, judge: Judgement, feeds: Feeds, outputs: Outputs) -> Bundle:
        import numpy as np

        from compressor.atomic import write
        from compressor.bundle import write_bundle
        from compressor.bundle.storage import stored

        assert artifact.onnx is not None
        assert artifact.engine is not None
        share = _FLOAT_SHARE if artifact.onnx.precision == "fp32" else _INTEGER_SHARE
        tolerances = {}
        for name, array in outputs.items():
            span = float(np.max(array)) - float(np.min(array)) if array.size else 0.0
            # An integer, such as the place of a maximum, may be any other where rounding decides.
            tolerances[name] = share * (span or 1.0) if array.dtype.kind == "f" else float(span)
        extra = [artifact.engine.path] if artifact.engine.path != artifact.onnx.path else []
        extra += artifact.engine.files
        if self.packed:
            extra.append(context.workdir / _PACKED)
            write(extra[-1], stored(artifact.onnx.path.read_bytes()))
        manifest = _manifest(artifact, context, judge)
        return write_bundle(context.workdir / "bundle", artifact.onnx.path, manifest, feeds, outputs, tolerances, extra)


def _judgement(context: Context) -> Judgement:
    from compressor import catalog
    from compressor.machine import judgement

    return judgement(context.target, catalog.find("backends", context.target.backend)())


def _check_runtime(artifact: Artifact, context: Context, judge: Judgement, feeds: Feeds, expected: Outputs) -> None:
    """Raise VerificationFailed where the target's runtime computes something else than the graph says.

    OpenVINO does for some graphs in integers, a GRU with a free batch among them, without a word. Accuracy that was
    judged in its kernels would show it; here it was judged on ONNX Runtime, as this CPU is not the target's. Samples
    that were made up say nothing: networks answer those by chance.
    """
    from compressor import catalog
    from compressor.feeds import run_in_batches
    from compressor.machine import machine

    alike = judge.exact and judge.runs and _EXACT_SUMS & set(machine().features)
    if context.data is None or not alike:
        return
    assert artifact.engine is not None
    backend = catalog.find("backends", context.target.backend)()
    got = run_in_batches(backend.open(artifact.engine.path, threads=1), feeds, _BATCH)
    floats = {name: array for name, array in expected.items() if array.dtype.kind == "f"}
    for name, parity in context.task.parity(floats, {name: got[name] for name in floats}).items():
        if parity.db < _LEAST_DB:
            raise VerificationFailed(
                f"{backend.name} {backend.version()} computes something else for output {name} than the graph says: "
                f"{parity.db:.1f} dB",
                hint="--profile float, another export of the network (with a fixed batch), or another runtime's target",
            )


def _compared(model: Model, total: int) -> int:
    """The number of samples of ``total`` to run in torch: all where outputs have no row for each."""
    batch = model.signature.batch
    rows = batch is not None and all(spec.shape[:1] == (batch,) for spec in model.signature.outputs)
    return _affordable(total, model.macs) if rows else total


def _affordable(samples: int, macs: int) -> int:
    """The number of samples to compare on: fewer of heavy networks, eight at least."""
    return min(samples, max(8, 20_000_000_000 // max(1, macs)))


def _torch_outputs(artifact: Artifact, context: Context, feeds: Feeds) -> Outputs:
    """The torch network's outputs, clipped as the task clips the graph's."""
    import numpy as np

    from compressor.feeds import run_in_batches
    from compressor.frontend import TorchSession, load_network

    model = artifact.result
    made = run_in_batches(TorchSession(load_network(model), model.signature), feeds, _BATCH)
    bounds = context.task.output_range
    return made if bounds is None else {name: np.clip(array, *bounds) for name, array in made.items()}


def _original_outputs(artifact: Artifact, context: Context, feeds: Feeds) -> Outputs:
    """The outputs of the user's own file on ONNX Runtime, clipped as the task clips the graph's."""
    import numpy as np

    from compressor import catalog
    from compressor.feeds import run_in_batches

    assert artifact.result.graph is not None
    session = catalog.find("backends", "onnxruntime")().open(artifact.result.graph, threads=1)
    made = run_in_batches(session, feeds, _BATCH)
    bounds = context.task.output_range
    return made if bounds is None else {name: np.clip(array, *bounds) for name, array in made.items()}


def _check_exact(parities: Mapping[str, OutputParity], tolerance: float, what: str) -> None:
    """Raise VerificationFailed where an output differs by more than ``tolerance`` x max(1, its largest magnitude)."""
    for name, parity in parities.items():
        differs = min(parity.relative_error, parity.max_abs) if tolerance < _EXPORT_TOLERANCE else parity.relative_error
        if not differs <= tolerance:  # NaN is no match either
            raise VerificationFailed(
                f"output {name} of the lowered graph differs from the {what} by {differs:.2g} of its largest value",
                hint="look for operations that behave differently in eval mode or when traced"
                if what == "torch model"
                else "this is a fault of compress: please report it with the file",
            )


def _check_own(outputs: Outputs, *, random: bool) -> None:
    """Raise UsageError where the network that was given makes no numbers of its samples."""
    if (name := _not_finite(outputs)) is not None:
        samples = "random samples" if random else "these samples"
        hint = "give --data, samples of its real inputs" if random else "look at its weights and the normalisation"
        raise UsageError(f"the network's own output {name} is not finite on {samples}", hint=hint)


def _check_overflow(layers: Sequence[Mapping[str, Json]], precision: str) -> None:
    """Raise VerificationFailed where a tensor within the network is out of the precision's range."""
    name = next((layer["tensor"] for layer in layers if layer.get("overflows")), None)
    if name is not None:
        raise VerificationFailed(
            f"the values of {name} are out of the range of {precision}'s floats: on the target they would be infinite",
            hint="--profile float --set lower.precision=fp32",
        )


def _not_finite(outputs: Outputs) -> str | None:
    import numpy as np

    broken = (name for name, made in outputs.items() if made.dtype.kind == "f" and not np.all(np.isfinite(made)))
    return next(broken, None)


def _check_finite(outputs: Outputs) -> None:
    if _not_finite(outputs) is not None:
        raise VerificationFailed(
            "the result's outputs are not finite",
            hint="a value is out of the precision's range: try lower.precision = fp32",
        )


def _rung(below: str, above: str, parities: Mapping[str, OutputParity]) -> dict[str, Json]:
    """One step of the ladder: the parity of the worst output, and of each."""
    worst = min(parities.values(), key=lambda parity: parity.db)
    agreements = [p.agreement for p in parities.values() if p.agreement is not None]
    return {
        "from": below,
        "to": above,
        "max_abs": worst.max_abs if math.isfinite(worst.max_abs) else None,
        "relative_error": worst.relative_error if math.isfinite(worst.relative_error) else None,
        "db": worst.db,
        "agreement": min(agreements) if agreements else None,
        "outputs": {name: asdict(parity) for name, parity in parities.items()},
    }


def _warnings(ladder: list[dict[str, Json]]) -> list[str]:
    return [
        f"{rung['to']} agrees with {rung['from']} on only {rung['agreement']:.1%} of labels"
        for rung in ladder
        if rung["agreement"] is not None and rung["agreement"] < _ALIKE
    ]


def _verify_on_board(board: str, bundle: Bundle, context: Context) -> None:
    from compressor.bench.bench_model import BenchModel
    from compressor.bench.remote import verify_remotely
    from compressor.bench.ssh import Board

    verify_remotely(Board.parse(board), BenchModel.read(bundle.path), context.progress)


def _manifest(artifact: Artifact, context: Context, judge: Judgement) -> Manifest:
    from compressor import __version__
    from compressor.bundle import EngineEntry, ImageInput, Manifest

    assert artifact.onnx is not None
    assert artifact.engine is not None
    assert artifact.measurements is not None
    model, metric = artifact.result, artifact.measurements.result.metric
    provenance: dict[str, Json] = {"teacher_sha256": artifact.teacher.sha256, "family": "onnx", "settings": {}}
    if model.source is not None:
        provenance |= {"family": model.source.family, "settings": model.source.settings}
    image = None
    if model.normalization is not None:
        image = ImageInput.of(model.signature.input.name, model.normalization)
    return Manifest(
        task={"kind": context.task.kind, **context.task.facts},
        target=context.target.name,
        precision={"asked": [artifact.onnx.precision], "realised": artifact.onnx.precision, "from": "graph"},
        opset=artifact.onnx.opset,
        signature=model.signature,
        sizes=model.sizes,
        ranges=model.ranges,
        engine=EngineEntry.of(artifact.engine, artifact.onnx.path),
        image=image,
        versions={"compressor": __version__, judge.backend.name: judge.backend.version()},
        provenance={**provenance, "profile": context.profile.name, "seed": context.seed},
        evaluation=None if metric is None else {"fingerprint": metric.fingerprint, "metric": asdict(metric)},
    )
