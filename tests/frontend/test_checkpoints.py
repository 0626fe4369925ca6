"""Checkpoints as they lie in the world: weights among other things, and buffers of other versions of a library."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from compressor.core import UsageError
from compressor.frontend import LoadedNetwork, load_checkpoint
from compressor.frontend._child import read_weights
from compressor.models.cifar_resnet import CifarResNet

ARCH = CifarResNet((1, 1, 1), (4, 6, 8), outputs=5, channels=1)
NET = """
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.register_buffer("position_ids", torch.arange(3).expand(1, -1))
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("attn_mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("codes", torch.rand(4))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.attention = Attention()
        self.head = nn.Linear(4, 3)
        self.tied = nn.Linear(4, 3)
        self.tied.weight = self.head.weight
    def forward(self, x):
        rows = torch.relu(self.bn(self.conv(x))).flatten(2).mT[:, :3]
        q, k, v = self.attention.qkv(rows).chunk(3, -1)
        scores = q @ k.mT * self.attention.scale + self.attention.attn_mask
        return self.head((scores.softmax(-1) @ v).mean(1) + self.attention.codes)

class Versioned(Net):
    _version = 2
    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)

class Refusing(Versioned):
    _version = 3

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()
    def forward(self, x):
        return self.net(x)
"""


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process read what a child would: each takes its seconds, and has tests of its own."""
    monkeypatch.setattr("compressor.frontend._loader.read", read_weights)


@pytest.fixture
def arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"nets_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return f"{name}:Net"


@pytest.fixture
def net(arch: str) -> nn.Module:
    """A trained network of the user's own."""
    from compressor.user_code import UserCode

    torch.manual_seed(0)
    made: nn.Module = UserCode.parse(arch).call()
    for _ in range(3):
        made(torch.randn(8, 2, 2, 2))
    return made.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def shaken(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other weights of the same network."""
    return {key: t + 1 if t.is_floating_point() and t.isfinite().all() else t for key, t in state.items()}


def trained(network: nn.Module) -> dict[str, Any]:
    """The state of an Adam that has made a step."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def by_name(network: nn.Module) -> dict[str, Any]:
    """An optimiser's state by the names of weights, as FSDP and JAX users keep it."""
    state = dict(network.state_dict())
    return {"exp_avg": state, "exp_avg_sq": state, "step": 3}


def taken(content: Any, path: Path, arch: str | None) -> LoadedNetwork:
    torch.save(content, path)
    return load_checkpoint(path, arch=arch)


def same_state(loaded: LoadedNetwork, state: dict[str, Tensor]) -> bool:
    return list(loaded.state) == list(state) and all(torch.equal(loaded.state[key], t) for key, t in state.items())


# -- where the weights lie --------------------------------------------------------------------

Wrap = Callable[[dict[str, Tensor], dict[str, Tensor], nn.Module], Any]
WRAPPINGS: dict[str, Wrap] = {
    "BasicSR": lambda s, o, n: {"params": s},
    "BasicSR, averaged": lambda s, o, n: {"params": o, "params_ema": s},
    "a trainer's": lambda s, o, n: {"step": 9, "model_state": s, "optimizer_state": trained(n), "rng": torch.zeros(5)},
    "ema alone": lambda s, o, n: {"ema": s, "epoch": 3},
    "ema beside": lambda s, o, n: {"net": o, "ema": s},
    "shadow": lambda s, o, n: {"model": o, "ema": {"decay": 0.99, "num_updates": 7, "shadow": s}},
    "generator": lambda s, o, n: {"generator": s, "discriminator": {"a.weight": torch.ones(3, 3)}, "g_optim": {}},
    "Lightning": lambda s, o, n: {
        "epoch": 1, "global_step": 7, "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed(s, "net."), "loss.weight": torch.ones(5)},
        "optimizer_states": [trained(n)], "lr_schedulers": [{"last_epoch": 1}], "callbacks": {}, "loops": {},
    },
    "fastai": lambda s, o, n: {"model": s, "opt": {"state": [by_name(n)], "hypers": [{"lr": 0.1}]}},
    "Ultralytics": lambda s, o, n: {
        "epoch": -1, "best_fitness": None, "ema": {k: t.half() if t.is_floating_point() else t for k, t in s.items()},
        "updates": 3, "model": {"state_dict": o}, "optimizer": trained(n), "train_args": {"lr0": 0.01},
    },
    "Hugging Face": lambda s, o, n: prefixed(s, "backbone."),
    "timm": lambda s, o, n: {
        "arch": "net", "state_dict": o, "state_dict_ema": s, "args": {"lr": 1}, "optimizer": trained(n),
    },
    "deep": lambda s, o, n: {"run": {"last": {"weights": {"network": s}}}},
    "compiled inside": lambda s, o, n: {key.replace(".", "._orig_mod.", 1): t for key, t in s.items()},
    "any prefix": lambda s, o, n: prefixed(s, "module.student.encoder."),
    "averaged beside": lambda s, o, n: {
        **prefixed(o, "online_model."), **prefixed(s, "ema_model."), "step": torch.tensor(3),
    },
    "optimiser by names first": lambda s, o, n: {"optim": by_name(n), "params": s},
    "optimiser flat": lambda s, o, n: {**prefixed(s, "model."), **prefixed(o, "optimizer.exp_avg.")},
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_of_the_users_own_module_are_found(wrapping: str, arch: str, net: nn.Module, path: Path) -> None:
    state = {key: t.half().float() if t.is_floating_point() else t for key, t in net.state_dict().items()}
    net.load_state_dict(state)
    loaded = taken(WRAPPINGS[wrapping](dict(net.state_dict()), shaken(state), net), path, arch)
    assert same_state(loaded, state)


@pytest.mark.parametrize("wrapping", [name for name in WRAPPINGS if name not in ("any prefix", "compiled inside")])
def test_weights_of_a_known_family_are_found(wrapping: str, path: Path) -> None:
    torch.manual_seed(0)
    network = ARCH.build().eval()
    state = {key: t.half().float() if t.is_floating_point() else t for key, t in network.state_dict().items()}
    loaded = taken(WRAPPINGS[wrapping](state, shaken(state), network), path, None)
    assert loaded.family == "cifar-resnet"
    assert same_state(loaded, state)


def test_what_was_taken_is_said(arch: str, net: nn.Module, path: Path) -> None:
    state = dict(net.state_dict())
    loaded = taken({"params": shaken(state), "last": {"params_ema": prefixed(state, "net.")}}, path, arch)
    assert same_state(loaded, state)
    assert loaded.notes == (
        "nested under 'last.params_ema'",
        "prefix 'net.' stripped",
        "others that fit, and were not taken: params",
    )


def test_a_wrapper_takes_the_weights_of_what_it_wraps(arch: str, net: nn.Module, path: Path) -> None:
    loaded = taken(net.state_dict(), path, arch.replace("Net", "Wrapped"))
    assert same_state(loaded, prefixed(dict(net.state_dict()), "net."))
    assert loaded.notes == ("prefix 'net.' added",)


@pytest.mark.parametrize("key", ["optimizer", "exp_avg", "optimizer_state", "g_optim", "opt"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "family"])
def test_an_optimisers_state_is_never_taken(key: str, own: bool, arch: str, net: nn.Module, path: Path) -> None:
    state = dict((net if own else ARCH.build()).state_dict())
    for content in ({key: state}, {"state": {"x": state}, "param_groups": [], "epoch": 3}):
        torch.save({**content, "epoch": torch.tensor(3)}, path)
        with pytest.raises(UsageError):
            load_checkpoint(path, arch=arch if own else None)


def test_the_group_that_fits_wins_over_the_usual_key(path: Path) -> None:
    network = ARCH.build()
    other = {key: t for key, t in network.state_dict().items() if "layer2" not in key}
    loaded = taken({"state_dict": other, "weights": network.state_dict()}, path, None)
    assert same_state(loaded, dict(network.state_dict()))


def test_safetensors_with_tied_weights_once(arch: str, net: nn.Module, tmp_path: Path) -> None:
    state = {key: t.contiguous() for key, t in net.state_dict().items() if key != "tied.weight"}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors", arch=arch)
    assert torch.equal(loaded.state["tied.weight"], net.state_dict()["head.weight"])


@pytest.mark.parametrize("made_for", ["Versioned", "Refusing"])
def test_a_module_that_looks_at_the_version_of_its_weights(
    made_for: str, arch: str, net: nn.Module, path: Path
) -> None:
    """torchvision's MNASNet does, and safetensors keep none; what the module's own code refuses is told as that."""
    loaded = taken(net.state_dict(), path, f"{arch.partition(':')[0]}:{made_for}")
    if made_for == "Versioned":
        assert torch.equal(loaded.build().state_dict()["conv.weight"], net.state_dict()["conv.weight"])
    else:
        with pytest.raises(UsageError, match="Refusing does not load the weights: version should be 2"):
            loaded.build()


# -- buffers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "absent", ["attention.position_ids", "attention.scale", "attention.attn_mask", "bn.num_batches_tracked"]
)
def test_a_missing_constant_is_as_the_module_makes_it(absent: str, arch: str, net: nn.Module, path: Path) -> None:
    state = dict(net.state_dict())
    loaded = taken({key: t for key, t in state.items() if key != absent}, path, arch)
    assert loaded.notes == (f"not in the file, and as the network makes them: {absent}",)
    x = torch.randn(3, 2, 2, 2)
    assert torch.equal(loaded.build()(x), net(x))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention.relative_position_index", torch.arange(9).reshape(3, 3)),
        ("embeddings.position_ids", torch.arange(5)),
        ("attention.attn_mask_2d.attn_mask", torch.full((2, 2), -torch.inf)),
        ("head.scale", torch.tensor(0.25)),
        ("conv.total_ops", torch.zeros(1, dtype=torch.float64)),
        ("head.bias_mask", torch.ones(3, dtype=torch.bool)),
    ],
)
def test_a_constant_of_another_version_is_left_aside(
    name: str, value: Tensor, arch: str, net: nn.Module, path: Path
) -> None:
    loaded = taken({**net.state_dict(), name: value}, path, arch)
    assert f"left aside, being constants that the network lacks: {name}" in loaded.notes
    x = torch.randn(3, 2, 2, 2)
    assert torch.equal(loaded.build()(x), net(x))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_constant_of_another_layout_is_taken(shape: tuple[int, ...], arch: str, net: nn.Module, path: Path) -> None:
    loaded = taken({**net.state_dict(), "attention.position_ids": torch.arange(3).reshape(shape)}, path, arch)
    assert torch.equal(loaded.state["attention.position_ids"], torch.arange(3)[None])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv.weight": None}, "missing: conv.weight"),
        ({"attention.qkv.bias": None}, "missing: attention.qkv.bias"),
        ({"bn.running_mean": None}, "missing: bn.running_mean"),
        ({"bn.running_var": None}, "missing: bn.running_var"),
        ({"attention.codes": None}, "missing: attention.codes"),  # a buffer, and of chance: it was trained with it
        ({"extra.weight": torch.zeros(3)}, "unexpected: extra.weight"),
        ({"logit_scale": torch.tensor(4.6)}, "unexpected: logit_scale"),
        ({"norm.running_mean": torch.zeros(4)}, "unexpected: norm.running_mean"),
        ({"head.scale": torch.ones(3)}, "unexpected: head.scale"),
    ],
)
def test_what_was_learned_must_be_there(
    change: dict[str, Tensor | None], told: str, arch: str, net: nn.Module, path: Path
) -> None:
    content = {key: t for key, t in {**net.state_dict(), **change}.items() if t is not None}
    with pytest.raises(UsageError, match=told):
        taken(content, path, arch)


def test_a_mask_may_be_infinite_and_a_weight_may_not(arch: str, net: nn.Module, path: Path) -> None:
    state = dict(net.state_dict())
    assert state["attention.attn_mask"].isneginf().any()
    loaded = taken(state, path, arch)
    assert same_state(loaded, state)
    for key, value in (("conv.weight", torch.inf), ("bn.running_var", torch.inf), ("attention.attn_mask", torch.nan)):
        with pytest.raises(UsageError, match=f"not finite.*: {key}"):
            taken({**state, key: torch.full_like(state[key], value)}, path, arch)


def test_what_is_not_taken_may_be_anything(arch: str, net: nn.Module, path: Path) -> None:
    """A discriminator that diverged, and a quantised copy, are none of our business."""
    state = dict(net.state_dict())
    diverged = {"a.weight": torch.full((3,), torch.nan)}
    loaded = taken(
        {"generator": state, "discriminator": diverged, "sparse": {"w": torch.eye(2).to_sparse()}}, path, arch
    )
    assert same_state(loaded, state)
