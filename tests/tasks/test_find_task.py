"""Which task a network has, and that no output is changed on a guess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Done
from numpy.typing import NDArray
from PIL import Image

from compressor.core import GivenInput, InputSpec, UsageError, image_signature
from compressor.data import load_data
from compressor.tasks import Evidence, find_task
from compressor.tasks.super_resolution import SuperResolution

SIDE = 16


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four smooth pictures in a flat folder."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        ramp = np.linspace(0, 1, 48)
        planes = [np.add.outer(ramp, ramp) / 2, np.multiply.outer(ramp, 1 - ramp), np.tile(ramp, (48, 1))]
        pixels = (np.stack(planes, -1) * (160 + 20 * number)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def evidence(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    source: Path | None,
    *,
    family: str | None = None,
    channels: int = 3,
) -> Evidence:
    spec = InputSpec(channels, SIDE, SIDE)
    signature, _ = image_signature(spec, 2)
    made = run(np.zeros((1, *spec.shape), np.float32))
    data = None if source is None else load_data(str(source))
    return Evidence(signature, spec, (made.shape,), lambda feeds: {"output": run(feeds["input"])}, data, family)


def repeated(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x.repeat(2, axis=2).repeat(2, axis=3)


def test_an_enlarger_is_shown_by_the_data(photographs: Path) -> None:
    assert find_task(None, evidence(repeated, photographs)) == SuperResolution(2)


def test_a_map_of_another_kind_is_no_image(photographs: Path) -> None:
    task = find_task(None, evidence(lambda x: 9 * repeated(x) - 4, photographs))
    assert (task.kind, task.output_range) == ("generic", None)


@pytest.mark.parametrize(
    "network", [lambda x: 0.05 * x - 0.02, lambda x: 5 * x - 3, lambda x: x], ids=["noise", "masks", "same"]
)
def test_a_network_of_its_inputs_size_is_not_taken_for_restoration(
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]], photographs: Path
) -> None:
    """A residual denoiser, an RGB segmenter, an identity: the shapes of all are those of a restorer."""
    for source in (photographs, None):
        task = find_task(None, evidence(network, source))
        assert (task.kind, task.output_range) == ("generic", None)


def test_a_known_family_and_a_named_task_are_believed(photographs: Path) -> None:
    assert find_task(None, evidence(repeated, None, family="super-resolution")) == SuperResolution(2)
    assert find_task("super-resolution", evidence(lambda x: x, None)) == SuperResolution(1)


def test_a_named_task_that_does_not_fit_is_an_error(photographs: Path) -> None:
    with pytest.raises(UsageError, match="--task super-resolution: the network maps"):
        find_task("super-resolution", evidence(lambda x: x.mean((2, 3)), None))
    with pytest.raises(UsageError, match="unknown task"):
        find_task("segmenting", evidence(lambda x: x, None))


DENOISER = """
from torch import nn


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.convolution(x) - 0.5
"""


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["float", "ptq"])
def test_a_residual_denoiser_keeps_every_value(
    profile: str, photographs: Path, tmp_path: Path, compress: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding: its outputs below zero were clipped, exit 0, no word."""
    import torch

    (tmp_path / "denoiser.py").write_text(DENOISER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    from importlib import import_module

    torch.save(import_module("denoiser").Denoiser().state_dict(), "denoiser.pt")
    data = ("--data", photographs, "--normalize", "unit", "--profile", "ptq") if profile == "ptq" else ()
    done = compress(
        "run", "denoiser.pt", "--arch", "denoiser:Denoiser", "--input", f"1x{SIDE}x{SIDE}", "--target", "host", *data,
        "--set", "measure.blocks=5", "--set", "measure.inferences=1", "-o", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "task generic" in done.out
    golden = np.load(tmp_path / "run" / "bundle" / "golden.npz")
    assert golden["output:output"].min() < -0.1
    graph = onnx.load(str(tmp_path / "run" / "bundle" / "model.onnx")).graph
    assert "Clip" not in {node.op_type for node in graph.node}


def test_what_input_may_say() -> None:
    given = GivenInput.parse("image=3x320..640..1280x320")
    assert (given.name, given.shape, given.bounds[1]) == ("image", (3, 640, 320), (320, 1280))
    assert GivenInput.parse("length=1:int64").dtype == "int64"
    for wrong in ("", "x", "0x3", "3x224:complex", "3x9..5", "a=b=3"):
        with pytest.raises(UsageError, match="not an input size"):
            GivenInput.parse(wrong)
    with pytest.raises(UsageError, match="need a name each"):
        GivenInput.parse_all(("3x32x32", "b=7"))
