"""The door: every file that should enter does, and no other; nothing in a file is ever run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import os
import pickle
import re
import socket
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hostile.models import archive, legacy
from places import TEACHER
from torch import Tensor, nn

from compressor.core import CompressError, Exit, InputSpec, Model, TorchSource, UnsafeInput, UsageError, image_signature
from compressor.frontend import LoadedNetwork, load_checkpoint, load_network, save_weights
from compressor.frontend._child import read_weights
from compressor.frontend._claims import CALLS, CONSTANTS, STORAGES
from compressor.frontend._pickle import _READ
from compressor.frontend._scan import Contents, scan
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.mobilenetv2 import MobileNetV2
from compressor.models.resnet import ResNet
from compressor.models.shufflenetv2 import ShuffleNetV2

ARCH = CifarResNet((1, 2, 1), (4, 6, 8), outputs=5, channels=1)


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process read what a child would: each takes its seconds, and has tests of its own."""
    monkeypatch.setattr("compressor.frontend._loader.read", read_weights)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return ARCH.build().eval()


@pytest.fixture
def state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def refusal(path: Path, code: Exit, **options: Any) -> str:
    """What load_checkpoint says, having refused with this exit code and with a mend."""
    with pytest.raises(CompressError) as caught:
        load_checkpoint(path, **options)
    assert caught.value.code == code
    assert caught.value.hint
    assert type(caught.value) in (UsageError, UnsafeInput)
    return caught.value.what


def same(loaded: LoadedNetwork, network: nn.Module) -> bool:
    built, x = loaded.build(), torch.randn(3, 1, 8, 8)
    assert not built.training
    return torch.equal(built(x), network(x))


# -- what enters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch",
    [
        ARCH,
        CifarResNet((1, 1), (4, 8), "B", outputs=3),
        ResNet("bottleneck", (1, 1, 1, 1), (4, 8, 8, 8), outputs=2),
        MobileNetV2(tuple((t, 8, n, s) for t, _, n, s in MobileNetV2().blocks), last=16, stem=8, channels=1),
        ShuffleNetV2((8, 12, 16, 20), (1, 0, 1), stem=4, outputs=6),
    ],
    ids=lambda arch: type(arch).__name__,
)
def test_every_family_comes_back_whole(arch: Any, path: Path) -> None:
    network = arch.build().eval()
    torch.save(network.state_dict(), path)
    loaded = load_checkpoint(path)
    assert loaded.settings == dataclasses.asdict(arch)
    assert (loaded.channels, loaded.outputs) == (arch.channels, arch.outputs)
    assert loaded.notes == ()
    x = torch.randn(2, arch.channels, 64, 64)
    assert torch.equal(loaded.build()(x), network(x))


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "state_dict": lambda s: {"state_dict": s, "best_prec1": 91.78, "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": lambda s: {"model": s, "ema": {}, "args": {"lr": 1}},
    "model_state_dict": lambda s: {"epoch": 3, "model_state_dict": s},
    "net": lambda s: {"net": s, "acc": 93.2, "epoch": 199},
    "twice": lambda s: {"model": {"state_dict": s}},
    "parallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in parallel": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "lightning": lambda s: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
    },
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")},
    "loose entries": lambda s: {**s, "epoch": 7},
    "fc": lambda s: {key.replace("linear.", "fc."): tensor for key, tensor in s.items()},
    "old torch": lambda s: {key: tensor for key, tensor in s.items() if "num_batches" not in key},
    "parameters": lambda s: {k: nn.Parameter(t) if t.is_floating_point() else t for k, t in s.items()},
    "views": lambda s: {k: torch.stack([t, t])[1] for k, t in s.items()},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_spellings_of_a_checkpoint(
    wrapping: str, zipped: bool, network: nn.Module, state: dict[str, Tensor], path: Path
) -> None:
    torch.save(WRAPPINGS[wrapping](state), path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path)
    assert loaded.settings == dataclasses.asdict(ARCH)
    assert list(loaded.state) == list(state)
    assert same(loaded, network)


def test_what_was_done_is_said(state: dict[str, Tensor], path: Path) -> None:
    half = {key: t.half() if t.is_floating_point() else t for key, t in state.items()}
    torch.save({"state_dict": prefixed(half, "module.model.") | {"module.loss.w": torch.ones(1)}, "epoch": 2}, path)
    assert load_checkpoint(path).notes == (
        "nested under 'state_dict'",
        "cast to float32 from float16",
        "prefix 'module.' stripped",
        "prefix 'model.' stripped",
        "left aside, being outside 'model.': loss.w",
    )


def test_the_first_nest_wins(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"net": {"a": torch.zeros(1)}, "state_dict": state}, path)
    assert load_checkpoint(path).notes == ("nested under 'state_dict'",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, state: dict[str, Tensor], path: Path) -> None:
    torch.save({key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}, path)
    loaded = load_checkpoint(path)
    assert {t.dtype for t in loaded.state.values()} == {torch.float32, torch.int64}
    for key, tensor in state.items():
        assert torch.allclose(loaded.state[key].float(), tensor.float(), atol=0.01)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_saved_on_a_gpu(
    zipped: bool, network: nn.Module, state: dict[str, Tensor], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in path.read_bytes()
    assert same(load_checkpoint(path), network)


def test_safetensors(network: nn.Module, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(prefixed(state, "module."), path)
    assert same(load_checkpoint(path), network)


def test_a_file_is_known_by_its_content(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    path.write_bytes(safetensors.torch.save(state))
    assert same(load_checkpoint(path), network)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "depth"), [("resnet56_cifar10.pt", 9), ("resnet20_cifar10_nested.th", 3)])
def test_shared_teachers(name: str, depth: int, shared_data: Path) -> None:
    loaded = load_checkpoint(shared_data / "teachers" / name)
    assert (loaded.family, loaded.channels, loaded.outputs) == ("cifar-resnet", 3, 10)
    assert loaded.settings == dataclasses.asdict(CifarResNet((depth,) * 3))
    assert loaded.build()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_example_teacher() -> None:
    path = TEACHER
    loaded = load_checkpoint(path)
    assert (loaded.family, loaded.channels, loaded.outputs) == ("cifar-resnet", 1, 10)
    assert path.stat().st_size <= 480_000


# -- what may not: code -------------------------------------------------------------------------


class Payload:
    """Pickles as a call of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_bare_pickles_are_never_run(protocol: int, path: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path.write_bytes(pickle.dumps({"state_dict": Payload(f"touch {witness}")}, protocol))
    assert "system" in refusal(path, Exit.UNSAFE)
    assert not witness.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_payloads_among_weights_are_never_run(
    zipped: bool, protocol: int, state: dict[str, Tensor], path: Path, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    content = {"state_dict": state, "extra": Payload(f"touch {witness}")}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    refusal(path, Exit.UNSAFE)
    refusal(path, Exit.UNSAFE, arch="zoo:net")
    assert not witness.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_whole_modules_and_foreign_objects(zipped: bool, state: dict[str, Tensor], path: Path) -> None:
    for content, name in [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": state, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ]:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert name in refusal(path, Exit.UNSAFE)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_and_export_archives(path: Path, tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    assert "TorchScript" in refusal(path, Exit.UNSAFE)
    exported = tmp_path / "model.pt2"
    with zipfile.ZipFile(exported, "w") as archive:
        for name in ("archive_format", "models/model.json", "data/weights/weight_0"):
            archive.writestr(f"model/{name}", b"pt2")
    assert "torch.export" in refusal(exported, Exit.UNSAFE)


def repack(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def test_deflated_archives(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)
    repack(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path, Exit.UNSAFE)


class Claim:
    """Pickles as a tensor of any size over the storage of another."""

    def __init__(self, tensor: Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments = (tensor.storage(), 0, size, stride, False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("stride", [(10**6, 1), (0, 0), (1, 0)], ids=str)
def test_tensors_larger_than_their_storage(stride: tuple[int, int], zipped: bool, path: Path) -> None:
    torch.save({"w": Claim(torch.zeros(1), (10**6, 10**6), stride)}, path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 2000
    assert "claims" in refusal(path, Exit.UNSAFE)


def test_storages_larger_than_their_record(path: Path) -> None:
    torch.save({"w": torch.zeros(300)}, path)
    repack(path, lambda name, content: content[:4] if name.endswith("data/0") else content)
    assert "claims" in refusal(path, Exit.UNSAFE)


def test_many_tensors_over_one_storage(path: Path) -> None:
    shared = torch.zeros(1000)
    torch.save({f"w{i}": shared for i in range(50)}, path)
    assert "claims" in refusal(path, Exit.UNSAFE)


# -- what may not: broken files, and what is no checkpoint ----------------------------------------


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "no file" in refusal(tmp_path / "absent.pt", Exit.USAGE)
    assert "directory" in refusal(tmp_path, Exit.USAGE)
    os.mkfifo(tmp_path / "pipe.pt")
    refusal(tmp_path / "pipe.pt", Exit.USAGE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)
    assert "cannot read" in refusal(path, Exit.USAGE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"hello",
        b"conv is\nhello world\n",
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(200),
        b"\x80",
        b"\x80\x02",
        b"\x80\x02}",
        b"12345678{",
        b"\xff" * 100,
        bytes(100),
        b"{",
        b"[1, 2]",
        b"\x08\x09\x12\x07pytorch",
    ],
    ids=repr,
)
def test_files_that_are_no_checkpoint(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    refusal(path, Exit.USAGE)


def test_an_onnx_file_is_pointed_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x09")
    assert "ONNX" in refusal(path, Exit.USAGE)


def test_a_zip_of_something_else(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/cat/1.png", b"")
    assert "not a PyTorch checkpoint" in refusal(path, Exit.USAGE)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_anywhere(form: str, state: dict[str, Tensor], path: Path) -> None:
    if form == "safetensors":
        path.write_bytes(safetensors.torch.save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for length in (*range(1, 200, 23), *range(200, len(whole), len(whole) // 23), len(whole) - 1):
        path.write_bytes(whole[:length])
        refusal(path, Exit.USAGE)


def test_truncated_in_a_storages_count(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole, count = path.read_bytes(), next(t.numel() for t in state.values() if t.numel() > 255)
    at = whole.index(count.to_bytes(8, "little"))
    for length in range(at, at + 8):
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(path, Exit.USAGE)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_never_end_in_a_traceback(form: str, state: dict[str, Tensor], path: Path) -> None:
    if form == "safetensors":
        path.write_bytes(safetensors.torch.save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for at in range(0, min(len(whole), 4000), 61):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(UsageError, UnsafeInput):
            load_checkpoint(path)


SELF: dict[str, Any] = {}
SELF["state_dict"] = SELF


@pytest.mark.parametrize(
    "content",
    [{}, [], [torch.zeros(1)], torch.zeros(2), 3, {"epoch": 3}, {"state_dict": {}}, {1: torch.zeros(1)}, SELF],
    ids=lambda content: str(content)[:30],
)
def test_no_weights_by_name(content: Any, path: Path) -> None:
    torch.save(content, path)
    assert "no weights" in refusal(path, Exit.USAGE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad: float, state: dict[str, Tensor], path: Path) -> None:
    state["layer2.0.conv2.weight"][1, 1, 1, 1] = bad
    torch.save(state, path)
    assert "layer2.0.conv2.weight" in refusal(path, Exit.USAGE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "odd",
    [
        lambda t: t.to_sparse(),
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        lambda t: t.to(torch.complex64),
        lambda t: t.to(torch.int8),
        lambda t: t.to("meta"),
    ],
    ids=["sparse", "quantised", "complex", "integer", "meta"],
)
def test_tensors_that_are_no_float_weights(
    odd: Callable[[Tensor], Tensor], state: dict[str, Tensor], path: Path
) -> None:
    torch.save({**state, "linear.weight": odd(state["linear.weight"])}, path)
    assert "linear.weight" in refusal(path, Exit.USAGE)


# -- recognising ----------------------------------------------------------------------------------


def test_the_unrecognised_are_told_the_families(path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict(), path)
    with pytest.raises(UsageError, match=r"not recognised.*0\.weight.*cifar-resnet.*shufflenetv2") as caught:
        load_checkpoint(path)
    assert "--arch package.module:callable" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layer2.0.bn1.weight": None}, "missing: layer2.0.bn1.weight"),
        ({"layer1.0.se.weight": torch.zeros(3)}, "unexpected: layer1.0.se.weight"),
        ({"layer2.1.conv2.weight": torch.zeros(6, 6, 5, 5)}, "mis-shaped: layer2.1.conv2.weight"),
        ({f"extra{i}": torch.zeros(1) for i in range(5)}, "unexpected: extra0, extra1, extra2 and 2 more"),
    ],
)
def test_near_misses_name_the_family_and_the_keys(
    change: dict[str, Tensor | None], told: str, state: dict[str, Tensor], path: Path
) -> None:
    torch.save({key: t for key, t in {**state, **change}.items() if t is not None}, path)
    said = refusal(path, Exit.USAGE)
    assert "cifar-resnet" in said
    assert told in said


# -- the user's own architecture ------------------------------------------------------------------

ZOO = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    def forward(self, x):
        return self.model(x).mean((2, 3))

def plain(): return Net().model
def raises(): raise ValueError("out of paint")
def needs(argument): return Net()
def number(): return 3
def lazy(): return nn.Sequential(nn.LazyLinear(2))
def half(): return Net().half()
constant = 4
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the working directory, which is not on sys.path; under a name of its own."""
    name = f"zoo_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(ZOO)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("function", ["Net", "plain", "half"])
def test_the_users_own_module(function: str, prefix: str, zoo: str, path: Path) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    own = prefixed(inner.state_dict(), "" if function == "plain" else "model.")
    torch.save({"state_dict": prefixed(own, prefix)}, path)
    loaded = load_checkpoint(path, arch=f"{zoo}:{function}")
    assert (loaded.family, loaded.settings) == (f"{zoo}:{function}", {})
    assert (loaded.channels, loaded.outputs) == (2, None)
    x = torch.randn(2, 2, 4, 4)
    expected = inner(x) if function == "plain" else inner(x).mean((2, 3))
    assert torch.equal(loaded.build()(x), expected)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("absent", "AttributeError"),
        ("raises", "out of paint"),
        ("needs", "TypeError"),
        ("number", "returned int"),
        ("constant", "TypeError"),
        ("lazy", "lazy"),
        ("Net", "missing: model.0.weight"),
    ],
)
def test_the_users_own_mistakes(function: str, told: str, zoo: str, path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, path)
    assert told in refusal(path, Exit.USAGE, arch=f"{zoo}:{function}")


@pytest.mark.parametrize(
    "arch", ["no_such_module_anywhere:net", "os.nothing:net", ":", "a:", ":b", "a b:c", ".:x", "resnet"]
)
def test_names_that_lead_nowhere(arch: str, path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, path)
    refusal(path, Exit.USAGE, arch=arch)


def test_keys_cannot_write_to_the_terminal(path: Path) -> None:
    torch.save({"\x1b[2J": torch.zeros(1)}, path)
    assert "\x1b" not in refusal(path, Exit.USAGE)


def test_a_broken_module(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_zoo.py").write_text("def net(:\n")
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(1)}, path)
    assert "SyntaxError" in refusal(path, Exit.USAGE, arch="broken_zoo:net")


# -- keeping weights ------------------------------------------------------------------------------


def artifact(family: str, settings: Any, weights: Path) -> Model:
    signature, sizes = image_signature(InputSpec(1, 8, 8), 5)
    return Model(TorchSource(family, settings, weights), None, "", 0, 0, signature, sizes)


def test_saved_weights_load_again(network: nn.Module, state: dict[str, Tensor], path: Path, tmp_path: Path) -> None:
    torch.save(state, path)
    loaded, kept = load_checkpoint(path), tmp_path / "kept.safetensors"
    save_weights(loaded.state, kept)
    loaded, x = load_network(artifact(loaded.family, loaded.settings, kept)), torch.randn(3, 1, 8, 8)
    assert not loaded.training
    assert torch.equal(loaded(x), network(x))
    assert same(load_checkpoint(kept), network)


def test_saving_is_deterministic_whole_and_tidy(state: dict[str, Tensor], tmp_path: Path) -> None:
    shared = {**state, "tied": state["linear.weight"].t()}
    first, second = tmp_path / "first", tmp_path / "second"
    digest = save_weights(shared, first)
    assert save_weights(dict(reversed(shared.items())), second) == digest
    assert first.read_bytes() == second.read_bytes()
    save_weights({"w": torch.zeros(1)}, second)  # over what is there
    assert list(safetensors.torch.load_file(second)) == ["w"]
    with pytest.raises(OSError, match="absent"):
        save_weights(state, tmp_path / "absent" / "file")
    assert {p.name for p in tmp_path.iterdir()} == {"first", "second"}


def test_artifacts_that_were_damaged(state: dict[str, Tensor], tmp_path: Path) -> None:
    kept, settings = tmp_path / "kept.safetensors", dataclasses.asdict(ARCH)
    for content in (None, b"", b"12345678{", safetensors.torch.save({"w": torch.zeros(1)})):
        if content is not None:
            kept.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_network(artifact("cifar-resnet", settings, kept))
        assert caught.value.hint


def test_the_users_own_artifact(zoo: str, path: Path, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    path.write_bytes(buffer.getvalue())
    loaded, kept = load_checkpoint(path, arch=f"{zoo}:plain"), tmp_path / "kept.safetensors"
    save_weights(loaded.state, kept)
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(load_network(artifact(loaded.family, loaded.settings, kept))(x), module(x))


# -- what the scan knows of pickles ---------------------------------------------------------------


def test_the_scan_allows_nothing_that_torch_does_not() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    assert {*CALLS, *CONSTANTS, *STORAGES} <= set(_get_allowed_globals())


def test_the_scan_reads_what_torch_reads() -> None:
    source = inspect.getsource(torch._weights_only_unpickler.Unpickler.load)
    known = {name for name in dir(pickle) if name.isupper() and re.search(rf"\b{name}\[0\]", source)}
    assert known == _READ | {"EMPTY_SET"}  # which nothing could be added to


def training() -> dict[str, Any]:
    """What a training script keeps: weights, an optimiser's state, a schedule, generators, plain values."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    return {
        "state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(), "best_prec1": 91.78, "epoch": 3, "name": None, "history": [[1.0, 2], [3.0]],
    }  # fmt: skip


def attributed() -> Tensor:
    tensor = torch.zeros(3)
    tensor.note = "mine"  # type: ignore[attr-defined]
    return tensor


HONEST: dict[str, Callable[[], Any]] = {
    "training": training,
    "plain values": lambda: {
        "set": {1, 2}, "size": torch.Size([1, 2]), "device": torch.device("cpu"), "type": torch.float16,
        "bytes": b"ab\xff", "array": bytearray(b"x"), "complex": 1j, "counter": Counter("aab"), "large": 2**100,
        "negative": -5, "tuple": (1, (2, "a")), ("pair", 1): 2, 1.5: False,
    },
    "attribute": attributed,
    "parameter": lambda: nn.Parameter(torch.zeros(2)),
    "tied": lambda: [torch.zeros(2, 2)] * 2,
    "views": lambda: list(torch.arange(12.0).reshape(3, 4).t()),
    "empty": lambda: torch.zeros(0, 3),
    "scalar": lambda: torch.tensor(3),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
    "quantised by channel": lambda: torch.quantize_per_channel(
        torch.zeros(4, 2), torch.ones(4), torch.zeros(4, dtype=torch.int64), 0, torch.qint8
    ),
    "meta": lambda: torch.zeros(3, device="meta"),
    **{
        str(dtype): lambda dtype=dtype: torch.zeros(3).to(dtype)
        for dtype in (
            torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
            torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
        )
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", HONEST)
def test_whatever_torch_saves_passes_the_scan(content: str, zipped: bool, path: Path) -> None:
    torch.save(HONEST[content](), path, _use_new_zipfile_serialization=zipped)
    with path.open("rb") as file:
        assert scan(file, path) == Contents("checkpoint")


def test_a_checkpoint_without_checksums(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_checkpoint(path), network)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_weights_from_python_2(old: bool, path: Path) -> None:
    """Pairs as arguments, byte strings for text, and tensors as torch before 0.4 pickled them."""
    kind = b"ctorch\nFloatStorage\n"
    storage = b"(U\x07storage" + kind + b"U\x010U\x03cpuK\x01" + (b"N" if old else b"") + b"tQ"
    weight = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x01\x85K\x01\x85tR"
    pickled = b"\x80\x02ccollections\nOrderedDict\n](](U\x01w" + weight + b"ee\x85R."
    keys = b"\x80\x02]U\x010a."
    path.write_bytes(legacy(pickled, keys) if old else archive(pickled))
    with path.open("rb") as file:
        assert scan(file, path) == Contents("checkpoint")
        assert read_weights(file, path)[0].state["w"].shape == (1,)


def test_a_name_is_as_good_as_its_case(path: Path) -> None:
    """torch finds an archive's members whatever the case of their names: so must whoever judges them."""
    path.write_bytes(archive(b"\x80\x02}.", {"DATA.PKL": b"\x80\x02K\x07."}))
    with path.open("rb") as file:
        assert torch.load(file, weights_only=True) == 7
    assert "one name" in refusal(path, Exit.UNSAFE)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop", "long", "zero byte", "large"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    elif kind in ("device", "loop"):
        path.symlink_to("/dev/zero" if kind == "device" else path)
    elif kind == "large":
        path.touch()
        os.truncate(path, 1 << 42)
    else:
        path = tmp_path / ("a" * 1000 if kind == "long" else "a\0b")
    assert str(path) in refusal(path, Exit.USAGE)
