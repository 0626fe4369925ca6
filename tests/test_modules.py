"""Modules that use the names of torch.nn.Module's methods for something else: they load, move, export and train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, fx, nn

from compressor.core import InputSpec, UsageError, image_signature
from compressor.frontend import load_checkpoint
from compressor.frontend._child import read_weights
from compressor.modules import named_modules, named_parameters, state_dict, tame

INPUT = InputSpec(3, 8, 8)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return y


class Lists(Plain):
    """As ESPNet keeps its layers in ``modules``; and other attributes of methods' names."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: Any = [self.conv, self.bn]
        self.children: Any = (self.conv,)
        self.parameters: Any = {"width": 4}
        self.state_dict: Any = []
        self.named_modules: Any = "names"
        self.train: Any = [1]
        self.eval: Any = 0.5
        self.to: Any = 3

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules:
            x = module(x)
        assert (self.to, self.eval, self.parameters["width"], len(self.children)) == (3, 0.5, 4, 1)
        y: Tensor = self.fc(torch.relu(x).mean((2, 3)))
        return y


class Within(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Lists()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


class OwnForward(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.forward = self.other  # type: ignore[method-assign]

    def other(self, x: Tensor) -> Tensor:
        return 2 * Plain.forward(self, x)


class OwnState(Plain):
    def state_dict(self) -> Any:  # type: ignore[override]
        return {"net": nn.Module.state_dict(self)}

    def parameters(self) -> Any:  # type: ignore[override]
        return [self.fc.weight]

    def children(self) -> Any:
        return iter([self.conv])


class OwnTrain(Plain):
    def train(self, data: Any) -> Any:
        raise RuntimeError("epoch 1")


class NothingReturned(Plain):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)


class Frozen(Plain):
    """A legitimate override: its normalisation stays as it is in training."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.bn.eval()
        return self


class Raising(Plain):
    @property
    def broken(self) -> Any:
        raise RuntimeError("not now")

    @property
    def device(self) -> Any:
        raise AttributeError("none")


ODD: tuple[type[nn.Module], ...] = (
    Lists, Within, OwnForward, OwnState, OwnTrain, NothingReturned, Frozen, Raising,
)  # fmt: skip


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_odd_modules_can_be_walked_moved_copied_and_traced(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = tame(kind(), "mine")
    module.to("cpu", torch.float32)
    module.eval()
    modules = dict(named_modules(module))
    assert len(modules) == len(set(map(id, modules.values()))) >= 4
    assert {id(each) for each in module.modules()} == {id(each) for each in modules.values()}
    assert not any(each.training for each in modules.values())
    assert len(dict(named_parameters(module))) == len(list(module.parameters())) == 6
    assert list(module.state_dict()) == list(state_dict(module))
    assert len(state_dict(module)) == 9
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected, twin = module(x), copy.deepcopy(module)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(module(x), expected)  # what is copied is another network
        assert not twin(x).any()
        twin.load_state_dict(module.state_dict())
        assert torch.equal(twin(x), expected)
        if kind is not Lists and kind is not Within:  # fx follows no assert, and there is one
            assert torch.equal(fx.symbolic_trace(module)(x), expected)


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_odd_modules_enter_and_are_exported(
    kind: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressor.lowering.export import export
    from compressor.models.common.cost import cost

    monkeypatch.setattr("compressor.frontend._loader.read", read_weights)
    monkeypatch.chdir(Path(__file__).parent)
    torch.manual_seed(0)
    taught = kind()
    torch.save(nn.Module.state_dict(tame(taught, "mine")), tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt", arch=f"{Path(__file__).stem}:{kind.__name__}")
    module = loaded.build()
    assert loaded.channels == 3
    counted = cost(module, INPUT)
    assert counted.params == sum(p.numel() for p in Plain().parameters())
    assert counted.macs == 64 * 4 * 27 + 20
    model = ir.to_proto(export(module, *image_signature(INPUT, 5), 21)).SerializeToString()
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = module(x).numpy()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, atol=1e-5)


class Nothing(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.modules: Any = None


class Property(Plain):
    @property
    def parameters(self) -> Any:
        return 3


@pytest.mark.parametrize(("kind", "name"), [(Nothing, "modules"), (Property, "parameters")])
def test_what_cannot_be_both_is_named(kind: type[nn.Module], name: str) -> None:
    with pytest.raises(UsageError, match=f"net:mine: the module has an attribute '{name}'") as caught:
        tame(kind(), "net:mine")
    assert "rename it" in str(caught.value.hint)


def test_names_that_torch_does_not_call_may_be_anything() -> None:
    module = Plain()
    module.type = None  # type: ignore[assignment,method-assign]
    module.half = False  # type: ignore[assignment,method-assign]
    assert tame(module, "mine").half is False
