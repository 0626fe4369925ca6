"""Networks of any kind with data of their own: arrays by name, states over sequences, a metric, samples made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Done
from networks import two_inputs
from torch import Tensor, nn

QUICK = (
    "--target", "host", "--set", "measure.blocks=5", "--set", "measure.inferences=1", "--set", "verify.samples=16",
)  # fmt: skip
CODE = """
import numpy as np
import torch
from torch import nn

class Reader(nn.Module):
    '''Tokens and a mask to two outputs by name.'''

    def __init__(self, width, words=50):
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.first = nn.Linear(width, 64)
        self.norm = nn.LayerNorm(64)
        self.last = nn.Linear(64, 4)

    def forward(self, tokens, kinds=None, mask=None):
        x = self.norm(torch.relu(self.first(self.table(tokens))))
        weights = mask.unsqueeze(-1).float()
        mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        return {"scores": self.last(mean), "state": (mean, None)}

def share(outputs, targets):
    return float((outputs["scores"].argmax(1) == targets["target_class"][:, 0]).mean())

def distance(outputs, targets):
    return float(np.abs(outputs["scores"]).mean())
"""


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text network, its weights, and samples that say what it answers."""
    (tmp_path / "text_network.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    made = importlib.import_module("text_network")
    torch.manual_seed(0)
    network: nn.Module = made.Reader(16).eval()
    torch.save(network.state_dict(), tmp_path / "reader.pt")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (60, 12))
    mask = (rng.random((60, 12)) < 0.8).astype(np.int64)
    with torch.no_grad():
        scores: Tensor = network(torch.from_numpy(tokens), mask=torch.from_numpy(mask))["scores"]
    np.savez(tmp_path / "texts.npz", tokens=tokens, mask=mask, target_class=scores.numpy().argmax(1)[:, None])
    return tmp_path


def report_of(done: Done) -> dict[str, object]:
    assert done.code == 0, done.err
    made: dict[str, object] = json.loads(done.out)
    return made


@pytest.mark.slow
def test_a_text_network_by_name_with_a_metric_of_its_own(reader: Path, compress: Callable[..., Done]) -> None:
    command = (
        "run", "reader.pt", "--arch", "text_network:Reader(16, words=50)", "--data", "texts.npz", *QUICK,
        "--profile", "ptq", "--metric", "text_network:share", "--max-drop", "0.2", "-o", "run", "--json",
    )  # fmt: skip
    report = report_of(compress(*command))
    metrics = [report[side]["metric"] for side in ("teacher", "result")]  # type: ignore[index]
    assert [each["name"] for each in metrics] == ["share", "share"]
    assert metrics[0]["value"] == 1.0
    manifest = json.loads((reader / "run/bundle/manifest.json").read_text())
    assert [spec["name"] for spec in manifest["inputs"]] == ["tokens", "mask"]
    assert [spec["name"] for spec in manifest["outputs"]] == ["scores", "state_0"]
    assert manifest["task"]["metric"]["name"] == "text_network:share"
    # the gate asks for the code by its name, and judges by it
    gate = ("gate", "run", "--against", "run", "--eval", "texts.npz", "--max-drop", "0.01")
    refused = compress(*gate)
    assert refused.code == 2
    assert "--metric" in refused.err
    assert compress(*gate, "--metric", "text_network:share", "--max-regression", "900%").code == 0
    again = compress(*command[:-1])
    assert again.code == 0, again.err


@pytest.mark.slow
def test_a_metric_that_is_lower_where_it_is_better(reader: Path, compress: Callable[..., Done]) -> None:
    report = report_of(
        compress(
            "run", "reader.pt", "--arch", "text_network:Reader(16)", "--data", "texts.npz", *QUICK,
            "--profile", "float",
            "--metric", "-text_network:distance", "--json",
        )
    )  # fmt: skip
    assert report["teacher"]["metric"]["higher_is_better"] is False  # type: ignore[index]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("text_network:absent", "AttributeError"),
        ("text_network:CODE(", "not a callable"),
        ("nothing", "not a callable"),
    ],
)
def test_a_metric_that_is_none_is_refused(
    reader: Path, compress: Callable[..., Done], metric: str, message: str
) -> None:
    done = compress(
        "run", "reader.pt", "--arch", "text_network:Reader(16)", "--data", "texts.npz", *QUICK, "--metric", metric
    )
    assert done.code == 2
    assert message in done.err


def stepping() -> bytes:
    """A running mean: ``state`` in and out, 1 x 3."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        running (float[1, 3] frame, float[1, 3] state) => (float[1, 3] mean, float[1, 3] state_out)
        <float[1] keep = {0.9}, float[1] take = {0.1}>
        {
            kept = Mul(state, keep)
            taken = Mul(frame, take)
            state_out = Add(kept, taken)
            mean = Relu(state_out)
        }
    """
    return onnx.parser.parse_model(text).SerializeToString()


def test_states_are_fed_back_over_sequences(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "running.onnx").write_bytes(stepping())
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "frames.npz", frame=rng.standard_normal((8, 20, 1, 3)).astype(np.float32))
    report = report_of(
        compress(
            "run", tmp_path / "running.onnx", "--data", tmp_path / "frames.npz", *QUICK, "--profile", "float",
            "-o", tmp_path / "run", "--json",
        )
    )  # fmt: skip
    assert any("state_out -> state" in note for note in report["notes"])  # type: ignore[attr-defined]
    assert report["result"]["metric"]["value"] == 100.0  # type: ignore[index]


@pytest.mark.slow
def test_integers_without_any_data(tmp_path: Path, compress: Callable[..., Done]) -> None:
    (tmp_path / "teacher.onnx").write_bytes(two_inputs())
    refused = compress("run", tmp_path / "teacher.onnx", *QUICK, "--profile", "ptq")
    assert refused.code == 2
    assert "quantize.data=synthetic" in refused.err
    report = report_of(
        compress(
            "run", tmp_path / "teacher.onnx", *QUICK, "--profile", "ptq", "--set", "quantize.data=synthetic",
            "-o", tmp_path / "run", "--json",
        )
    )  # fmt: skip
    warnings = next(p for p in report["passes"] if p["kind"] == "quantize")["warnings"]  # type: ignore[union-attr]
    assert any("made from the network's own statistics" in warning for warning in warnings)
