"""The contracts of every catalogue, and what each pass does to a very small network."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from tiny import QUICK, Samples, make_pass, through

from compressor import catalog
from compressor.core import (
    SLOTS,
    Artifact,
    Context,
    Engine,
    InputSpec,
    Model,
    Normalization,
    OnnxModel,
    Pass,
    PassSpec,
    PlanContext,
    Profile,
    QdqRules,
    Target,
    TorchSource,
    Unavailable,
    UsageError,
    VerificationFailed,
    image_signature,
)
from compressor.frontend import save_weights
from compressor.machine import judgement, machine, target_mismatch
from compressor.passes import verify
from compressor.passes.verify import _check_overflow
from compressor.tasks.classification import Classification

INPUT = InputSpec(1, 8, 8)
CLASSES = 4
TASK = Classification(("a", "b", "c", "d"))
TASK = Classification(("a", "b", "c", "d"))


# -- a run's surroundings, as small as they get -----------------------------------------------


@dataclasses.dataclass(frozen=True)
class Halves:
    train: Samples | None
    evaluate: Samples
    targets: str = "labels"
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    notes: tuple[str, ...] = ()


def _samples(name: str, count: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *INPUT.shape)).astype(np.float32)
    return Samples(name, images, rng.integers(CLASSES, size=count), f"{name}-{seed}")


DATA = Halves(_samples("train", 40, 1), _samples("test", 60, 2))
HOST = catalog.find_target("host")
PI = catalog.find_target("raspberry-pi-5")
QUIET = {"samples": 32, "golden": 4}


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def memo(name: str, key: Any, compute: Callable[[], Any]) -> Any:
        json.dumps(key)
        return json.loads(json.dumps(compute()))

    def make(target: Target = HOST, data: Any = DATA, name: str = "work", seed: int = 0) -> Context:
        (tmp_path / name).mkdir(exist_ok=True)
        profile = Profile("p", "p", (PassSpec("lower"),))
        return Context(
            target, profile, TASK, data, tmp_path / name, seed, "cpu", lambda *_: None, memo, lambda *_: tmp_path
        )

    return make


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    settings = {"depths": [1, 1], "widths": [4, 8], "outputs": CLASSES, "channels": 1}
    module = catalog.make(catalog.find("models", "cifar-resnet"), settings, "test").build()
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    sha256 = save_weights(module.state_dict(), path)
    params = sum(p.numel() for p in module.parameters())
    plain = Normalization("plain", 1 / 255, (0.0,), (1.0,))
    source = TorchSource("cifar-resnet", settings, path)
    signature, sizes = image_signature(INPUT, CLASSES)
    return Model(source, None, sha256, params, 10_000, signature, sizes, normalization=plain)


@pytest.fixture(scope="module")
def lowered(teacher: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    work = tmp_path_factory.mktemp("lower")
    profile = Profile("p", "p", (PassSpec("lower"),))
    context = Context(HOST, profile, TASK, None, work, 0, "cpu", lambda *_: None, lambda *_: None, lambda *_: work)
    return make_pass("lower").run(Artifact(teacher), context).artifact


# -- contracts --------------------------------------------------------------------------------

PASSES = catalog.names("passes")
TROUBLES = {  # settings that the types allow and sense does not
    "quantize": {"samples": 0},
    "measure": {"blocks": 1},
    "verify": {"golden": 0},
}


@pytest.mark.parametrize("kind", PASSES)
def test_every_pass_is_a_frozen_dataclass_that_says_what_it_needs(kind: str) -> None:
    cls = catalog.find("passes", kind)
    assert dataclasses.is_dataclass(cls)
    made = cls()  # every setting has a default
    assert isinstance(made, Pass)
    assert made.kind == kind
    assert cls.__doc__
    for slots in (made.needs, made.produces):
        assert isinstance(slots, frozenset)
        assert slots <= set(SLOTS)
    assert made.needs
    assert isinstance(made.volatile, bool)
    assert isinstance(made.collective, bool)
    assert made == cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.kind = "other"
    json.dumps(dataclasses.asdict(made))


@pytest.mark.parametrize("target", catalog.toml_names("targets"))
@pytest.mark.parametrize("kind", PASSES)
def test_every_check_tells_each_problem_with_its_mend(kind: str, target: str) -> None:
    where = catalog.find_target(target)
    bare = replace(where, precisions=("fp32",), native_float="fp16")
    settings = [{}, TROUBLES.get(kind, {})]
    told = 0
    for plan_context in (
        PlanContext(where, "labels", True, True),
        PlanContext(bare, None, False, False),
    ):
        for chosen in settings:
            problems = make_pass(kind, **chosen).check(plan_context)
            assert isinstance(problems, tuple)
            for problem in problems:
                what, colon, hint = problem.partition(": ")
                assert what, problem
                assert colon, problem
                assert len(hint.split()) > 2, problem
                told += 1
    if kind != "quantize" or "int8" in where.precisions:
        assert not make_pass(kind).check(PlanContext(where, "labels", True, True))
    assert told or kind not in TROUBLES


def test_importing_every_pass_imports_no_framework() -> None:
    code = (
        "import importlib, pkgutil, sys, compressor.passes as passes\n"
        "for found in pkgutil.iter_modules(passes.__path__):\n"
        "    importlib.import_module(f'compressor.passes.{found.name}')\n"
        "heavy = {'torch', 'nncf', 'onnxruntime', 'onnx', 'onnx_ir', 'onnxscript', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", catalog.names("backends"))
def test_every_backend_has_a_version_and_rules(name: str) -> None:
    backend = catalog.find("backends", name)()
    assert backend.name == name
    if name == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(Unavailable, match="not installed"):
            backend.version()
    else:
        assert backend.version()
    for quirks in ((), ("u8s8-saturates",)):
        rules = backend.rules(replace(_a_target_of(name), quirks=quirks))
        assert isinstance(rules, QdqRules)
        assert rules.activation_dtype in ("uint8", "int8")
        assert rules.weight_bits in (7, 8)
        assert rules.quantize_outputs <= rules.quantizable_ops
        assert rules.per_channel <= rules.quantizable_ops
        assert rules.integer_bias <= rules.quantizable_ops
        assert not rules.passthrough_ops & rules.quantizable_ops


def _a_target_of(backend: str) -> Target:
    """A shipped target with this backend, that reads what the host's exporter writes."""
    found = (catalog.find_target(name) for name in catalog.toml_names("targets"))
    target = next((each for each in found if each.backend == backend), HOST)
    return target if target.runtime_version is None else replace(target, runtime_version="11.4", opset=HOST.opset)


def _skip_without(backend: Any, target: Target) -> None:
    try:
        backend.version()
    except Unavailable as missing:
        if target.builds == "here":
            pytest.skip(missing.what)


@pytest.mark.parametrize("name", catalog.names("backends"))
def test_every_backend_builds_and_opens(name: str, lowered: Artifact, tmp_path: Path) -> None:
    backend, target = catalog.find("backends", name)(), _a_target_of(name)
    _skip_without(backend, target)
    assert lowered.onnx is not None
    engine = backend.build(lowered.onnx, lowered.teacher, target, tmp_path)
    assert (engine.backend, engine.status) == (name, "ready" if target.builds == "here" else "pending")
    assert bool(engine.todo) == (engine.status == "pending")
    assert all(path.is_file() and path.parent == tmp_path for path in engine.files)
    json.dumps(dict(engine.facts), allow_nan=False)
    assert DATA.train is not None
    batch = DATA.train.images[:3]
    for exact in (False, True) if judgement(target, backend).runs else (True,):
        outputs = backend.open(lowered.onnx.path if exact else engine.path, threads=1, exact=exact)({"input": batch})[
            "output"
        ]
        assert outputs.shape == (3, CLASSES)
        assert outputs.dtype == np.float32


def test_the_backends_agree_on_a_float_graph(lowered: Artifact) -> None:
    assert lowered.onnx is not None
    here = [n for n in catalog.names("backends") if judgement(_a_target_of(n), catalog.find("backends", n)()).runs]
    assert {"null", "onnxruntime"} <= set(here)
    first, *others = (
        catalog.find("backends", n)().open(lowered.onnx.path, threads=1)({"input": DATA.evaluate.images[:9]})["output"]
        for n in here
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


def test_a_runtime_that_refuses_the_graph_is_a_failed_verification(teacher: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    broken = OnnxModel(tmp_path / "broken.onnx", "0", "fp32", 21)
    with pytest.raises(VerificationFailed, match="refuses the graph") as caught:
        catalog.find("backends", "onnxruntime")().build(broken, teacher, HOST, tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("name", catalog.names("models"))
def test_every_family_is_frozen_and_builds(name: str) -> None:
    family = catalog.find("models", name)
    assert dataclasses.is_dataclass(family)
    assert family.__doc__
    assert isinstance(family.normalization, str)
    assert family.input_size > 0
    assert callable(family.recognise)
    assert family.recognise({}) is None


# -- lower ------------------------------------------------------------------------------------


def test_lowering_gives_the_reference_and_the_result(lowered: Artifact) -> None:
    assert lowered.onnx == lowered.reference
    assert lowered.onnx is not None
    assert lowered.onnx.precision == "fp32"


@pytest.mark.slow
def test_fp16_keeps_float32_inputs_and_outputs(teacher: Model, context: Callable[..., Context]) -> None:
    here = context(PI)
    result = make_pass("lower", precision="fp16").run(Artifact(teacher), here)
    made, reference = result.artifact.onnx, result.artifact.reference
    assert made is not None
    assert reference is not None
    assert made.made_from == reference
    model = onnx.load(str(made.path))
    onnx.checker.check_model(model, full_check=True)
    for end, name in ((model.graph.input, "input"), (model.graph.output, "output")):
        assert [(v.name, v.type.tensor_type.elem_type) for v in end] == [(name, TensorProto.FLOAT)]
        assert end[0].type.tensor_type.shape.dim[0].dim_param
    weights = [t for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    assert {t.data_type for t in weights} == {TensorProto.FLOAT16}
    assert made.path.stat().st_size < 0.75 * reference.path.stat().st_size
    backend = catalog.find("backends", "onnxruntime")()
    for size in (1, 7):
        a, b = (
            backend.open(m.path, threads=1)({"input": DATA.evaluate.images[:size]})["output"] for m in (reference, made)
        )
        assert b.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.01 * float(np.abs(a).max()))
    again = make_pass("lower", precision="native").run(Artifact(teacher), context(PI, name="again"))
    assert again.artifact.onnx is not None
    assert again.artifact.onnx.path.read_bytes() == made.path.read_bytes()


def test_lower_refuses_a_precision_that_the_target_lacks() -> None:
    (problem,) = make_pass("lower", precision="fp16").check(PlanContext(HOST, "labels", True, True))
    assert "does not run fp16" in problem
    assert not make_pass("lower", precision="native").check(PlanContext(HOST, "labels", True, True))


# -- quantize ---------------------------------------------------------------------------------


def test_quantize_refuses_a_plan_without_training_data_or_int8() -> None:
    quantize = make_pass("quantize")
    (problem,) = quantize.check(PlanContext(HOST, "labels", False, True))
    assert "no training data" in problem
    (problem,) = quantize.check(PlanContext(replace(HOST, precisions=("fp32",)), "labels", True, True))
    assert "does not run int8" in problem


def test_quantising_uses_only_training_samples_drawn_by_the_seed(
    lowered: Artifact, context: Callable[..., Context]
) -> None:
    class Judged(Samples):
        def batches(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("the samples that are judged on were read")

    guarded = replace(DATA, evaluate=Judged(*(getattr(DATA.evaluate, f.name) for f in dataclasses.fields(Samples))))
    made = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        made[name] = make_pass("quantize", samples=8, leave_float=()).run(
            lowered, context(data=guarded, name=name, seed=seed)
        )
    files = {name: result.artifact.onnx.path.read_bytes() for name, result in made.items() if result.artifact.onnx}
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]
    result = made["a"]
    assert result.artifact.onnx is not None
    assert result.artifact.onnx.made_from == lowered.onnx
    assert result.metrics["calibration"] == "8 samples of train"
    assert not result.warnings
    onnx.checker.check_model(onnx.load(str(result.artifact.onnx.path)), full_check=True)


def test_fewer_training_samples_than_asked_for_is_a_warning(lowered: Artifact, context: Callable[..., Context]) -> None:
    result = make_pass("quantize", samples=41, leave_float=()).run(lowered, context())
    assert len(result.warnings) == 1
    assert "40 samples" in result.warnings[0]


def test_quantising_a_graph_that_is_not_fp32_is_a_usage_error(teacher: Model, context: Callable[..., Context]) -> None:
    half = make_pass("lower", precision="fp16").run(Artifact(teacher), context(PI)).artifact
    with pytest.raises(UsageError, match="fp16") as caught:
        make_pass("quantize", samples=4).run(half, context(PI, name="quantize"))
    assert "lower.precision" in (caught.value.hint or "")


# -- build and measure ------------------------------------------------------------------------


def test_an_engine_for_a_board_is_pending_and_says_what_to_do(
    lowered: Artifact, context: Callable[..., Context]
) -> None:
    engine = make_pass("build").run(lowered, context(PI)).artifact.engine
    assert engine is not None
    assert engine.status == "pending"
    assert "run.py --verify" in (engine.todo or "")
    assert lowered.onnx is not None
    assert engine.sha256 == lowered.onnx.sha256


def test_the_same_file_has_one_latency_and_a_speedup_of_one(lowered: Artifact, context: Callable[..., Context]) -> None:
    result = through(lowered, context(), make_pass("build"), make_pass("measure", **QUICK))
    taken = result.artifact.measurements
    assert taken is not None
    assert (taken.speedup, taken.speedup_interval) == (1.0, None)
    assert taken.teacher.latency is taken.result.latency
    assert taken.teacher == taken.result
    assert taken.why_no_latency is None
    assert taken.result.metric is not None
    assert taken.result.metric.samples == 60
    assert not result.warnings


@pytest.mark.slow
def test_percentiles_are_given_only_with_enough_samples(lowered: Artifact, context: Callable[..., Context]) -> None:
    def latency(name: str, **settings: Any) -> Any:
        here = context(data=None, name=name)
        measured = through(lowered, here, make_pass("build"), make_pass("measure", **settings)).artifact.measurements
        assert measured is not None
        assert measured.result.metric is None
        assert measured.why_no_metric
        return measured.result.latency

    few = latency("few", blocks=5, inferences=8)
    assert (few.samples, few.p90, few.p99) == (40, None, None)
    some = latency("some", blocks=11, inferences=4)
    assert some.samples == 44
    assert some.p90 >= some.median > 0
    assert some.p99 is None
    many = latency("many", blocks=23, inferences=20)
    assert many.samples == 460
    assert many.p99 >= many.p90 >= many.median
    assert not many.estimated


def test_latency_of_a_board_that_is_not_here_is_estimated_and_the_reason_told(
    lowered: Artifact, context: Callable[..., Context]
) -> None:
    if target_mismatch(PI, machine()) is None:
        pytest.skip("this is a Raspberry Pi 5")
    result = through(lowered, context(PI), make_pass("build"), make_pass("measure", **QUICK))
    taken = result.artifact.measurements
    assert taken is not None
    assert taken.speedup is None
    for latency in (taken.teacher.latency, taken.result.latency):
        assert latency is not None
        assert latency.estimated
        assert latency.interval is not None
        assert 0 < latency.interval[0] < latency.median < latency.interval[1]
        assert not latency.raw
    assert "Raspberry Pi 5" in (taken.why_no_latency or "")
    assert taken.result.metric is not None  # accuracy needs no board
    assert result.metrics["judged_in"] == "float, on ONNX Runtime"


def test_measuring_on_fewer_samples_draws_them_by_the_seed(lowered: Artifact, context: Callable[..., Context]) -> None:
    def metric(name: str, seed: int) -> Any:
        here = context(PI, name=name, seed=seed)
        done = through(lowered, here, make_pass("build"), make_pass("measure", samples=20, **QUICK)).artifact
        assert done.measurements is not None
        return done.measurements.result.metric

    first = metric("a", 1)
    assert first.samples == 20
    assert metric("b", 1) == first
    assert metric("c", 2).fingerprint != first.fingerprint


def test_an_int8_result_is_timed_beside_the_teacher(lowered: Artifact, context: Callable[..., Context]) -> None:
    passes = [make_pass("quantize", samples=16, leave_float=()), make_pass("build"), make_pass("measure", **QUICK)]
    result = through(lowered, context(), *passes)
    taken = result.artifact.measurements
    assert taken is not None
    assert taken.speedup_interval is not None
    low, high = taken.speedup_interval
    assert low <= (taken.speedup or 0) <= high
    assert taken.teacher.latency is not taken.result.latency
    assert bool(result.warnings) == (high < 0.98)


# -- verify -----------------------------------------------------------------------------------


def _measured(artifact: Artifact, here: Context, *before: Pass) -> Artifact:
    passes = (*before, make_pass("build"), make_pass("measure", **QUICK))
    return through(artifact, here, *passes).artifact


def _spoil(artifact: Artifact, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Artifact:
    """The same artifact, with another graph as its result."""
    assert artifact.onnx is not None
    assert artifact.engine is not None
    model = onnx.load(str(artifact.onnx.path))
    change(model)
    path = folder / "spoiled.onnx"
    onnx.save(model, str(path))
    spoiled = replace(artifact.onnx, path=path)
    first = spoiled if artifact.reference == artifact.onnx else artifact.reference
    return replace(artifact, onnx=spoiled, reference=first, engine=replace(artifact.engine, path=path))


def _scale_initialiser(named: Callable[[str], bool], by: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = [t for t in model.graph.initializer if named(t.name)]
        tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * np.float32(by)), tensor.name))

    return change


def test_verify_climbs_the_ladder_and_leaves_a_bundle(lowered: Artifact, context: Callable[..., Context]) -> None:
    here = context()
    done = _measured(lowered, here, make_pass("quantize", samples=16, leave_float=()))
    result = through(done, replace(here, workdir=here.workdir), make_pass("verify", **QUIET))
    ladder = result.metrics["ladder"]
    assert [(r["from"], r["to"]) for r in ladder] == [("torch", "fp32"), ("fp32", "int8")]
    assert ladder[0]["relative_error"] < 1e-4
    assert ladder[1]["db"] > 20
    assert result.metrics["first_drift"] is None
    names = {n for node in onnx.load(str(lowered.onnx.path)).graph.node for n in node.output}  # type: ignore[union-attr]
    assert {layer["tensor"] for layer in result.metrics["layers"]} <= names
    assert "output" in {layer["tensor"] for layer in result.metrics["layers"]}
    bundle = result.artifact.bundle
    assert bundle is not None
    assert {p.name for p in bundle.path.iterdir()} == {"model.onnx", "golden.npz", "run.py", "manifest.json"}
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}]
    assert manifest["task"] == {"kind": "classification", "classes": ["a", "b", "c", "d"]}
    assert manifest["evaluation"]["fingerprint"] == "test-2"


def test_verify_without_data_uses_noise(lowered: Artifact, context: Callable[..., Context]) -> None:
    here = context(data=None)
    result = through(_measured(lowered, here), here, make_pass("verify", **QUIET))
    assert "layers" not in result.metrics
    assert result.artifact.bundle is not None
    manifest = json.loads((result.artifact.bundle.path / "manifest.json").read_text())
    assert manifest["evaluation"] is None


def test_an_export_that_differs_from_torch_fails(
    lowered: Artifact, context: Callable[..., Context], tmp_path: Path
) -> None:
    here = context()
    done = _measured(lowered, here)
    spoiled = _spoil(done, tmp_path, _scale_initialiser(lambda n: n.endswith("linear.weight"), 1.01))
    with pytest.raises(VerificationFailed, match="differs from the torch model") as caught:
        through(spoiled, here, make_pass("verify", **QUIET))
    assert caught.value.hint


def test_a_result_that_is_not_finite_fails(lowered: Artifact, context: Callable[..., Context], tmp_path: Path) -> None:
    here = context()
    done = _measured(lowered, here, make_pass("quantize", samples=16, leave_float=()))
    nan = _scale_initialiser(lambda n: n.endswith("linear.weight_scale"), float("nan"))
    with pytest.raises(VerificationFailed, match="not finite"):
        through(_spoil(done, tmp_path, nan), here, make_pass("verify", **QUIET))


def test_a_value_within_that_is_beyond_the_precision_fails() -> None:
    """Of a sample that the search for such values had not seen."""
    with pytest.raises(VerificationFailed, match="the values of wide are out of the range of fp16's floats"):
        _check_overflow([{"tensor": "small"}, {"tensor": "wide", "overflows": True}], "fp16")


def test_a_runtime_that_computes_something_else_fails(
    lowered: Artifact, context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs here, but its kernels are not the target's: accuracy was judged without it."""
    runtime = catalog.find("backends", "onnxruntime")()
    feeds = {"input": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    made = replace(lowered, engine=Engine("onnxruntime", lowered.onnx.path, lowered.onnx.sha256, "ready"))
    expected = runtime.open(lowered.onnx.path, threads=1)(feeds)
    here = context()
    elsewhere = replace(judgement(here.target, runtime), exact=True, runs=True)
    monkeypatch.setattr(verify, "_EXACT_SUMS", frozenset(machine().features))
    verify._check_runtime(made, here, elsewhere, feeds, expected)
    wrong = {name: -array for name, array in expected.items()}
    with pytest.raises(VerificationFailed, match=r"onnxruntime .* computes something else for output"):
        verify._check_runtime(made, here, elsewhere, feeds, wrong)
    verify._check_runtime(made, here, replace(elsewhere, runs=False), feeds, wrong)
    verify._check_runtime(made, context(data=None), elsewhere, feeds, wrong)


def test_an_export_that_is_not_finite_fails(lowered: Artifact, context: Callable[..., Context], tmp_path: Path) -> None:
    """NaN compares as no larger than any tolerance."""
    here = context()
    done = _measured(lowered, here)
    nan = _scale_initialiser(lambda n: n.endswith("linear.weight"), float("nan"))
    spoiled = _spoil(done, tmp_path, nan)
    with pytest.raises(VerificationFailed, match=r"not finite|differs"):
        through(spoiled, here, make_pass("verify", **QUIET))


def test_an_export_that_is_not_finite_fails_even_where_the_result_is(
    lowered: Artifact, context: Callable[..., Context], tmp_path: Path
) -> None:
    here = context()
    done = _measured(lowered, here)
    nan = _scale_initialiser(lambda n: n.endswith("linear.weight"), float("nan"))
    spoiled = _spoil(done, tmp_path, nan).onnx
    assert done.onnx is not None
    result = replace(done.onnx, precision="int8", made_from=spoiled)
    with pytest.raises(VerificationFailed, match="differs from the torch model"):
        through(replace(done, onnx=result), here, make_pass("verify", **QUIET))


def test_the_drift_list_names_the_layer_that_was_sabotaged(
    lowered: Artifact, context: Callable[..., Context], tmp_path: Path
) -> None:
    here = context()
    done = _measured(lowered, here, make_pass("quantize", samples=16, leave_float=()))
    assert done.onnx is not None
    floats = onnx.load(str(done.onnx.made_from.path))  # type: ignore[union-attr]
    convolution = next(n for n in floats.graph.node if n.op_type == "Conv" and "layer2.0.conv1" in n.input[1])
    relu = next(n for n in floats.graph.node if convolution.output[0] in n.input)
    named = _scale_initialiser(lambda n: n == f"{convolution.input[1]}_scale", 9.0)
    result = through(_spoil(done, tmp_path, named), here, make_pass("verify", **QUIET))
    first = result.metrics["first_drift"]
    assert first is not None
    assert first["tensor"] in (convolution.output[0], relu.output[0])
    assert first["db"] < 15
    tensors = [layer["tensor"] for layer in result.metrics["layers"]]
    before = result.metrics["layers"][: tensors.index(first["tensor"])]
    assert before
    assert all(layer["db"] > 15 for layer in before)


def test_a_rectifier_that_shuts_nearly_all_does_not_drift(tmp_path: Path) -> None:
    """Of a signal of next to nothing any noise is as much again: what the rectifier was given is the measure."""
    from compressor.quant.drift import drift

    def model(name: str, bias: float) -> Path:
        nodes = [
            onnx.helper.make_node("Add", ["input", "bias"], ["sum"]),
            onnx.helper.make_node("Relu", ["sum"], ["output"]),
        ]
        ends = [[onnx.helper.make_tensor_value_info(n, 1, ["batch", 4])] for n in ("input", "output")]
        graph = onnx.helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(np.float32(bias), "bias")])
        opsets = [onnx.helper.make_opsetid("", 21)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / name))
        return tmp_path / name

    batch = -np.ones((2, 4), np.float32)
    batch[0, 0] = 1e-4
    before, after = model("before.onnx", 0.0), model("after.onnx", -1e-4)
    told = {layer["tensor"]: layer["db"] for layer in drift(before, after, {"input": batch})}
    assert told["output"] > 80
    assert abs(told["sum"] - 80) < 1


def test_verify_speaks_of_labels_that_changed(
    lowered: Artifact, context: Callable[..., Context], tmp_path: Path
) -> None:
    here = context()
    done = _measured(lowered, here, make_pass("quantize", samples=16, leave_float=()))
    named = _scale_initialiser(lambda n: n.endswith("linear.weight_scale"), -1.0)
    result = through(_spoil(done, tmp_path, named), here, make_pass("verify", **QUIET))
    assert len(result.warnings) == 1
    assert "int8 agrees with fp32 on only" in result.warnings[0]


@pytest.mark.slow
def test_an_fp16_result_is_verified_layer_by_layer(teacher: Model, context: Callable[..., Context]) -> None:
    here = context(PI)
    lower = make_pass("lower", precision="native")
    result = through(_measured(Artifact(teacher), here, lower), here, make_pass("verify", **QUIET))
    assert [r["to"] for r in result.metrics["ladder"]] == ["fp32", "fp16"]
    assert result.metrics["ladder"][1]["db"] > 40
    assert result.metrics["first_drift"] is None
    assert len(result.metrics["layers"]) > 5


def test_passes_give_what_they_say(lowered: Artifact, context: Callable[..., Context]) -> None:
    """And change nothing else of the artifact."""
    here = context()
    artifact = lowered
    for number, each in enumerate(
        (
            make_pass("quantize", samples=8, leave_float=()),
            make_pass("build"),
            make_pass("measure", **QUICK),
            make_pass("verify", **QUIET),
        )
    ):
        assert all(getattr(artifact, slot) is not None for slot in each.needs)
        work = here.workdir / str(number)
        work.mkdir()
        after = each.run(artifact, replace(here, workdir=work)).artifact
        changed = {s for s in SLOTS if getattr(after, s) != getattr(artifact, s)}
        # Of a student quantize makes another one only where it trains, of an engine verify only on a board.
        assert changed == each.produces - {"quantize": {"student"}, "verify": {"engine"}}.get(each.kind, set())
        artifact = after
    assert isinstance(artifact.engine, Engine)
