"""Every target that ships: its values have sources, and a network goes through for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny import QUICK, Samples, make_pass, through

from compressor import catalog
from compressor.bundle import verify_bundle
from compressor.core import (
    Artifact,
    Context,
    InputSpec,
    Model,
    Normalization,
    PassSpec,
    Profile,
    Target,
    TorchSource,
    Unavailable,
    UsageError,
    VerificationFailed,
    image_signature,
)
from compressor.frontend import save_weights
from compressor.legality import tensorrt_faults
from compressor.tasks.classification import Classification

TARGETS = catalog.toml_names("targets")

INPUT = InputSpec(3, 16, 16)
CLASSES = 10
TASK = Classification()
UNSOURCED = {"name", "title", "sources", "builds", "threads"}
"""What is a decision of the project, or follows from another key."""


def samples(name: str, count: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *INPUT.shape)).astype(np.float32)
    return Samples(name, images, rng.integers(CLASSES, size=count), f"{name}-{seed}")


@dataclasses.dataclass(frozen=True)
class Halves:
    train: Samples = dataclasses.field(default_factory=lambda: samples("train", 32, 1))
    evaluate: Samples = dataclasses.field(default_factory=lambda: samples("test", 32, 2))
    targets: str = "labels"
    classes: tuple[str, ...] = tuple("abcdefghij")
    notes: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Wide enough for INT8 on GPUs, with the shortcuts that pad channels."""
    torch.manual_seed(0)
    settings = {"depths": [1, 1], "widths": [16, 32], "outputs": CLASSES, "channels": 3}
    module = catalog.make(catalog.find("models", "cifar-resnet"), settings, "test").build()
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    sha256 = save_weights(module.state_dict(), path)
    params = sum(p.numel() for p in module.parameters())
    plain = Normalization("plain", 1 / 255, (0.0,) * 3, (1.0,) * 3)
    source = TorchSource("cifar-resnet", settings, path)
    signature, sizes = image_signature(INPUT, CLASSES)
    return Model(source, None, sha256, params, 10_000, signature, sizes, normalization=plain)


@pytest.fixture
def context(tmp_path: Path) -> Callable[[Target], Context]:
    def make(target: Target) -> Context:
        profile = Profile("p", "p", (PassSpec("lower"),))

        def memo(name: str, key: Any, compute: Callable[[], Any]) -> Any:
            return json.loads(json.dumps(compute()))

        return Context(
            target, profile, TASK, Halves(), tmp_path, 0, "cpu", lambda *_: None, memo, lambda *_: tmp_path
        )  # fmt: skip

    return make


def steps(target: Target) -> list[Any]:
    """The narrowest that a target runs."""
    if "int8" in target.precisions:
        return [make_pass("lower"), make_pass("quantize", samples=32, leave_float=()), make_pass("build")]
    return [make_pass("lower", precision="native"), make_pass("build")]


@pytest.mark.parametrize("name", TARGETS)
def test_every_value_has_its_source(name: str) -> None:
    target = catalog.find_target(name)
    blank = {f.name: f.default for f in dataclasses.fields(Target)}
    stated = {key for key in blank if getattr(target, key) not in (blank[key], (), {})}
    on_gpu = target.backend.startswith("tensorrt")
    needed = stated - UNSOURCED if on_gpu else stated & {"requires", "opset", "chip", "width_multiple", "runtime"}
    assert needed <= set(target.sources), needed - set(target.sources)
    assert all(len(text) > 10 for text in target.sources.values())


@pytest.mark.parametrize(
    "name",
    [name if name in ("host", "jetson-orin") else pytest.param(name, marks=pytest.mark.slow) for name in TARGETS],
)
def test_a_network_goes_through_for_every_target(
    name: str, teacher: Model, context: Callable[[Target], Context]
) -> None:
    target = catalog.find_target(name)
    try:
        catalog.find("backends", target.backend)().version()
    except Unavailable as missing:
        if target.builds == "here":
            pytest.skip(missing.what)
    result = through(Artifact(teacher), context(target), *steps(target))
    made, engine = result.artifact.onnx, result.artifact.engine
    assert made is not None
    assert engine is not None
    assert made.precision == ("int8" if "int8" in target.precisions else target.native_float)
    assert engine.status == ("ready" if target.builds == "here" else "pending")
    model = onnx.load(str(made.path))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == target.opset == made.opset
    if target.runtime_version is not None:
        assert not tensorrt_faults(model, target.runtime_version)
        assert engine.todo is not None
        assert target.title in engine.todo
        told = engine.facts.get("accelerators")
        assert (told is not None) == bool(target.chip and target.chip.accelerators)
    if target.int8_share:
        assert result.metrics["int8_share"] >= target.int8_share
        assert result.metrics["precisions_from"] == "the graph, not an engine"


@pytest.mark.slow
def test_a_share_of_int8_under_the_targets_is_warned_of(teacher: Model, context: Callable[[Target], Context]) -> None:
    target = dataclasses.replace(catalog.find_target("jetson-orin"), int8_share=0.999)
    result = through(Artifact(teacher), context(target), *steps(target))
    assert result.artifact.engine is not None
    assert result.artifact.engine.facts["int8_share_wanted"] == result.metrics["int8_share"] < 0.999
    (warning,) = result.warnings
    assert "100% is usual on this target" in warning
    assert "multiple of 8" in warning


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jetson-orin", "rtx-3060"])
def test_a_gpus_bundle_is_whole_judged_and_checked(
    name: str, teacher: Model, context: Callable[[Target], Context], tmp_path: Path
) -> None:
    target = catalog.find_target(name)
    try:
        catalog.find("backends", target.backend)().version()
    except Unavailable as missing:
        if target.builds == "here":
            pytest.skip(missing.what)
    rest = (make_pass("measure", **QUICK), make_pass("verify", samples=16, golden=4))
    made = through(Artifact(teacher), context(target), *steps(target), *rest).artifact
    assert made.bundle is not None
    assert made.measurements is not None
    assert made.measurements.result.metric is not None
    assert made.measurements.why_no_latency
    folder = made.bundle.path
    files = {path.name for path in folder.iterdir()}
    optimizer_config = {"build_engine.py", "float.onnx"} if target.builds == "on-device" else {"model.plan"}
    assert files == {"model.onnx", "manifest.json", "golden.npz", "run.py", "session.py", *optimizer_config}
    told = json.loads((folder / "manifest.json").read_text())["engine"]
    assert told["status"] == ("pending" if target.builds == "on-device" else "ready")
    verify_bundle(folder)
    shutil.copytree(folder, tmp_path / "changed")
    victim = tmp_path / "changed" / sorted(optimizer_config)[0]
    victim.write_bytes(victim.read_bytes() + b"\0")
    with pytest.raises(VerificationFailed, match=f"{victim.name} was changed"):
        verify_bundle(tmp_path / "changed")


def chip(**change: Any) -> dict[str, Any]:
    mode = {"name": "a", "clock_mhz": 1}
    return {"chip": {"units": 4, "ops": {"fp32": 8}, "bandwidth_gbs": 10, "modes": [mode], **change}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"int8_share": 1.5}, "int8_share"),
        ({"runtime_version": "ten"}, "runtime_version"),
        ({"sources": {"colour": "a catalogue"}}, "colour"),
        (chip(units=0), "units"),
        (chip(ops={"fp64": 8}), "ops"),
        (chip(ops={"fp32": "fast"}), "ops"),
        (chip(modes=[]), "modes"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_mend(change: dict[str, Any], message: str) -> None:
    plain = {"name": "t", "title": "t", "backend": "null", "builds": "here", "arch": "any", "opset": 21}
    with pytest.raises(UsageError, match=message) as caught:
        catalog.make(Target, {**plain, "precisions": ["fp32"], **change}, "target 't'")
    assert caught.value.hint
