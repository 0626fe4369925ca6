"""--trust: what it runs, what comes of it, and that nothing else can switch it on."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from compressor.core import Exit, InputSpec, Model, TorchSource, UnsafeInput, UsageError, image_signature
from compressor.frontend import load_checkpoint, load_network, save_weights
from compressor.frontend._child import read_weights
from compressor.lowering.export import export
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.common.cost import cost
from compressor.options import Options
from compressor.plan import make_plan

SMALL = InputSpec(1, 8, 8)
KNOWN = CifarResNet((1, 1, 1), (4, 6, 8), outputs=10, channels=1)

ZOO = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(32, 10)

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.head(x.view(x.size(0), -1))

class Halves(Net):
    def forward(self, x):
        left, right = x.chunk(2, 3)
        return super().forward(torch.cat([right, left], 3))

class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        for i in range(int(x.size(2))):
            x = x + i
        return self.net(x)

class Two(Net):
    def forward(self, x, y):
        return super().forward(x + y)
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module in a folder of its own, which becomes the working directory; not on sys.path."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "trusted_zoo.py").write_text(ZOO)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        import trusted_zoo  # type: ignore[import-not-found]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        yield trusted_zoo


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.frontend._loader.read", read_weights)


@pytest.fixture
def net(zoo: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = zoo.Net()
    made(torch.randn(16, 1, 8, 8))  # so that the normalisation does something
    return made.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def artifact(path: Path, folder: Path) -> Model:
    """What a run makes of a file."""
    loaded = load_checkpoint(path, trust=True)
    kept = folder / "kept.safetensors"
    sha256 = save_weights(loaded.state, kept)
    signature, sizes = image_signature(SMALL, 10)
    return Model(TorchSource(loaded.family, loaded.settings, kept), None, sha256, 0, 0, signature, sizes)


def refused(path: Path, code: Exit = Exit.USAGE, **options: Any) -> str:
    with pytest.raises(UsageError if code == Exit.USAGE else UnsafeInput) as caught:
        load_checkpoint(path, **options)
    assert caught.value.hint
    return f"{caught.value.what} {caught.value.hint}"


def program(net: nn.Module, path: Path, batch: int = 1, free: bool = False) -> None:
    axes = ({0: torch.export.Dim("batch")},) if free else None
    torch.export.save(torch.export.export(net, (torch.randn(batch, 1, 8, 8),), dynamic_shapes=axes), path)


FORMS: dict[str, tuple[str, Callable[[nn.Module, Path], object]]] = {
    "module": ("checkpoint", torch.save),
    "module, old format": ("checkpoint", lambda net, path: torch.save(net, path, _use_new_zipfile_serialization=False)),
    "module among others": ("checkpoint", lambda net, path: torch.save({"epoch": 3, "model": net}, path)),
    "module in parallel": ("checkpoint", lambda net, path: torch.save(nn.DataParallel(net), path)),
    "module in training": ("checkpoint", lambda net, path: torch.save(net.train(), path)),
    "module in double": ("checkpoint", lambda net, path: torch.save(net.double(), path)),
    "traced": ("torchscript", lambda net, path: torch.jit.trace(net, torch.zeros(1, 1, 8, 8)).save(path)),
    "scripted": ("torchscript", lambda net, path: torch.jit.script(net).save(path)),
    "frozen": ("torchscript", lambda net, path: torch.jit.freeze(torch.jit.script(net)).save(path)),
    "exported": ("export", program),
    "exported for three": ("export", lambda net, path: program(net, path, 3)),
    "exported for any": ("export", lambda net, path: program(net, path, 2, free=True)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_unknown_architecture(form: str, net: nn.Module, path: Path, tmp_path: Path) -> None:
    kind, write = FORMS[form]
    x = torch.randn(5, 1, 8, 8)
    with torch.inference_mode():
        expected = net(x)
    parameters = sum(p.numel() for p in net.parameters())
    write(net, path)
    assert "--trust" in refused(path, Exit.UNSAFE)

    model = artifact(path, tmp_path)
    assert model.family == f"trusted:{kind}"
    assert set(model.torch.settings) == {"path", "sha256"}
    again = load_network(model)
    assert not again.training
    with torch.inference_mode():
        for n in (1, 2, 5):
            assert torch.allclose(again(x[:n]), expected[:n], atol=1e-5)
    counted = cost(again, SMALL)
    assert counted.macs == 64 * 8 * 9 + 32 * 10
    # Freezing folds the normalisation into the convolution.
    assert counted.params == parameters - (16 if form == "frozen" else 0)

    graph = ir.to_proto(export(again, *image_signature(SMALL, 10), 21)).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for n in (1, 2, 5):
        (got,) = session.run(None, {"input": x[:n].numpy()})
        assert np.allclose(got, expected[:n].numpy(), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["module", "traced", "exported"])
def test_a_known_architecture_needs_its_file_no_more(form: str, path: Path) -> None:
    torch.manual_seed(0)
    known, x = KNOWN.build().eval(), torch.randn(3, 1, 8, 8)
    FORMS[form][1](known, path)
    loaded = load_checkpoint(path, trust=True)
    assert loaded.family == "cifar-resnet"
    assert loaded.notes[0] == f"loaded with --trust: the code in {path} was run"
    path.unlink()
    assert torch.allclose(loaded.build()(x), known(x), atol=1e-5)


def test_known_keys_alone_do_not_make_a_known_architecture(path: Path) -> None:
    other = KNOWN.build().eval()
    other.relu = nn.SiLU()
    torch.save(other, path)
    assert load_checkpoint(path, trust=True).family == "trusted:checkpoint"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_among_foreign_objects(zipped: bool, path: Path) -> None:
    state = KNOWN.build().state_dict()
    content = {"state_dict": state, "args": argparse.Namespace(lr=1), "accuracy": np.float64(91.5)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, Exit.UNSAFE)
    loaded = load_checkpoint(path, trust=True)
    assert loaded.family == "cifar-resnet"
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in state.items())


def test_with_the_users_own_code_the_weights_alone_are_taken(net: nn.Module, path: Path) -> None:
    torch.save(net, path)
    assert load_checkpoint(path, arch="trusted_zoo:Net", trust=True).family == "trusted_zoo:Net"


def test_plain_weights_are_read_as_ever(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(KNOWN.build().state_dict(), path)
    assert load_checkpoint(path, trust=True).notes == ()
    assert not caplog.records


def test_it_is_said_once(net: nn.Module, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(net, path)
    load_network(artifact(path, tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        f"--trust: running the code in {path}, with your rights"
    ]


def test_a_file_that_changed_is_not_trusted_again(net: nn.Module, path: Path, tmp_path: Path) -> None:
    torch.save(net, path)
    model = artifact(path, tmp_path)
    torch.save(net.double(), path)
    with pytest.raises(UsageError, match="is not the file that was trusted") as caught:
        load_network(model)
    assert "--fresh" in str(caught.value.hint)


def test_lies_are_refused_with_trust_too(path: Path) -> None:
    from hostile.models import HUGE, LINE, archive, flagged, saved, table, tensor

    path.write_bytes(archive(table(tensor(HUGE, LINE))))
    assert "claims" in refused(path, Exit.UNSAFE, trust=True)
    path.write_bytes(flagged(saved(nn.Linear(2, 2))))
    assert "encrypted" in refused(path, Exit.UNSAFE, trust=True)


# -- what cannot be taken -------------------------------------------------------------------------


def test_code_that_is_not_here(net: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(net, path)
    monkeypatch.chdir("/")
    monkeypatch.delitem(__import__("sys").modules, "trusted_zoo")
    assert "No module named 'trusted_zoo'" in refused(path, trust=True)


@pytest.mark.filterwarnings("ignore")
def test_programs_that_are_no_classifier_of_single_images(zoo: Any, net: nn.Module, path: Path) -> None:
    program(net.train(), path, 4)
    assert "a batch other than 4" in refused(path, trust=True)
    x = torch.zeros(2, 1, 8, 8)
    torch.export.save(torch.export.export(zoo.Two().eval(), (x, x)), path)
    assert "something else than one batch of images" in refused(path, trust=True)


def test_a_program_says_its_input(zoo: Any, path: Path, compress: Callable[..., Any]) -> None:
    program(zoo.Halves().eval(), path)
    assert load_checkpoint(path, trust=True).input == SMALL
    done = compress("inspect", path, "--trust", "--json")
    assert json.loads(done.out)["input"] == "1x8x8"
    done = compress("inspect", path, "--trust", "--input", "1x16x16")
    assert done.code == Exit.USAGE
    assert "the model takes 1x8x8 alone" in done.err


@pytest.mark.filterwarnings("ignore")
def test_torchscript_that_cannot_be_lowered(zoo: Any, path: Path) -> None:
    torch.jit.script(zoo.Looping()).save(path)
    module = load_checkpoint(path, trust=True).build()
    with pytest.raises(UsageError, match="TorchScript program cannot be lowered") as caught:
        export(module, *image_signature(SMALL, 10), 21)
    assert "--arch" in str(caught.value.hint)


def test_files_that_hold_no_network(path: Path) -> None:
    torch.save(argparse.Namespace(lr=1), path)
    assert "no weights" in refused(path, trust=True)
    path.write_bytes(b"\x80\x02cargparse\nNamespace\n)R")
    assert "cannot be loaded" in refused(path, trust=True)


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_whole_module_to_a_bundle(net: nn.Module, tmp_path: Path, compress: Callable[..., Any]) -> None:
    model, out = tmp_path / "model.pt", tmp_path / "out"
    torch.save(net, model)
    asked = ["run", model, "--data", "builtin:digits", "-o", out, "--normalize", "unit"]
    asked += ["--profile", "ptq"]
    quick = ["--set", "measure.blocks=5", "--set", "measure.inferences=1"]
    done = compress(*asked, *quick, "--target", "host")
    assert done.code == Exit.UNSAFE
    assert not out.exists()
    done = compress(*asked, *quick, "--target", "host", "--trust")
    assert done.code == Exit.OK, done.err
    report = json.loads((out / "report.json").read_text())
    assert f"loaded with --trust: the code in {model} was run" in report["notes"]
    assert compress("verify", out).code == Exit.OK

    # The plan as it ran does not trust: the flag is said again, or the code is not run again.
    assert "trust" not in tomllib.loads((out / "resolved.toml").read_text())["options"]
    resolved = ["run", model, "--profile", out / "resolved.toml", "-o", tmp_path / "again"]
    assert compress(*resolved).code == Exit.UNSAFE
    done = compress(*resolved, "--trust")
    assert done.code == Exit.OK, done.err
    files = [folder / "bundle" / "model.onnx" for folder in (out, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("where", ["here", "beside the model", "profile"])
def test_no_file_can_switch_it_on(where: str, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "model.pt"
    torch.save(net, model)
    monkeypatch.chdir(tmp_path)
    folder = {"here": Path(), "beside the model": model.parent}.get(where)
    if folder is not None:
        (folder / "compress.toml").write_text("trust = true\n")
        options = Options(target="host")
    else:
        (tmp_path / "own.toml").write_text('[options]\ntrust = true\n[[pass]]\nkind = "lower"\n')
        options = Options(target="host", profile="own.toml")
    with pytest.raises(UsageError, match="'trust'"):
        make_plan(model, options)
