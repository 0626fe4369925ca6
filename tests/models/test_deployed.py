"""The deployed form: blocks trained as parallel branches, and counted, timed and exported as one convolution."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, image_signature
from compressor.frontend._build import make_network
from compressor.lowering.export import export, export_each
from compressor.lowering.save import save
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.common.cost import cost
from compressor.models.common.deployed import deployed
from compressor.models.common.layers import count, layers, parts
from compressor.search.latency import LatencyTable

INPUT = InputSpec(3, 12, 12)
WIDTH, CLASSES = 8, 5


class Branches(nn.Module):
    """A 3x3 and a 1x1 convolution and the input itself, each normalised, summed: RepVGG's block without its ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.three = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.one = nn.Conv2d(width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        three, one, same = self.norms
        total: Tensor = three(self.three(x)) + one(self.one(x)) + same(x)
        return total

    def deployed(self) -> nn.Module:
        width = self.three.out_channels
        identity = torch.zeros_like(self.three.weight)
        identity[torch.arange(width), torch.arange(width), 1, 1] = 1
        kernels = (self.three.weight, nn.functional.pad(self.one.weight, (1, 1, 1, 1)), identity)
        conv = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            scales = [norm.weight / (norm.running_var + norm.eps).sqrt() for norm in self.norms]  # type: ignore[operator]
            conv.weight.copy_(sum(s[:, None, None, None] * k for s, k in zip(scales, kernels, strict=True)))  # type: ignore[arg-type]
            biases = [norm.bias - norm.running_mean * s for norm, s in zip(self.norms, scales, strict=True)]  # type: ignore[operator]
            conv.bias.copy_(sum(biases))  # type: ignore[arg-type,union-attr]
        return conv


class Network(nn.Module):
    stages = ("blocks",)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(INPUT.channels, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(Branches(WIDTH), nn.ReLU(), Branches(WIDTH), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.flatten(self.avgpool(self.blocks(self.stem(x))), 1))
        return logits

    def parts(self) -> tuple[nn.Module, ...]:
        return (self.stem, *self.blocks, nn.Sequential(self.avgpool, nn.Flatten(), self.linear))


@dataclass(frozen=True)
class Toy:
    channels: int = INPUT.channels
    outputs: int = CLASSES

    def build(self) -> nn.Module:
        return Network()


@pytest.fixture
def network() -> nn.Module:
    """The toy network with normalisations that have seen data."""
    torch.manual_seed(0)
    made = Network().train()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(20):
            made(torch.randn(16, *INPUT.shape))
    return made.eval()


def quiet(message: str, done: int, total: int) -> None: ...


def test_the_deployed_form_computes_the_same(network: nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    fused = deployed(network)
    x = torch.randn(4, *INPUT.shape)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), network(x), rtol=1e-5, atol=1e-5)
    kinds = Counter(type(module).__name__ for module in fused.modules())
    assert (kinds["Conv2d"], kinds["BatchNorm2d"], kinds["Branches"]) == (3, 0, 0)
    assert not any(module.training for module in fused.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert deployed(fused) is fused


def test_a_network_without_such_blocks_is_left_alone() -> None:
    plain = CifarResNet((1, 1, 1)).build()
    assert deployed(plain) is plain


def test_a_flag_of_that_name_is_no_method() -> None:
    class Flagged(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.deployed: Any = False

    plain = Flagged()
    assert deployed(plain) is plain


def test_the_deployed_form_is_exported(network: nn.Module, tmp_path: Path) -> None:
    graph = export(network, *image_signature(INPUT, CLASSES), 21)
    kinds = Counter(node.op_type for node in graph.graph)
    assert (kinds["Conv"], kinds["BatchNormalization"], kinds["Add"]) == (3, 0, 0)
    session = catalog.find("backends", "onnxruntime")().open(save(graph, tmp_path / "m.onnx", "fp32").path, threads=1)
    x = torch.randn(4, *INPUT.shape)
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.abs(session({"input": x.numpy()})["output"] - expected).max() < 1e-5


def test_the_deployed_form_is_counted() -> None:
    pixels = INPUT.height * INPUT.width
    params = 3 * WIDTH * 9 + WIDTH + 2 * (WIDTH * WIDTH * 9 + WIDTH) + WIDTH * CLASSES + CLASSES
    macs = pixels * (3 * WIDTH * 9 + 2 * WIDTH * WIDTH * 9) + WIDTH * CLASSES
    counted = count(Toy(), INPUT)  # type: ignore[arg-type]
    assert (counted.params, counted.macs) == (params, macs)
    assert cost(Network(), INPUT) == counted
    assert [layer.kernel for layer in layers(Toy(), INPUT)] == [(3, 3), (3, 3), (3, 3), (1, 1)]  # type: ignore[arg-type]


def test_the_deployed_form_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = parts(Toy(), INPUT)  # type: ignore[arg-type]
    assert "Branches" not in "".join(part.description for part in chain)
    timed: list[ir.Model] = []
    table = LatencyTable(catalog.find_target("host"), "fp32", tmp_path, lambda name, key, compute: compute())
    monkeypatch.setattr(table, "_measure", lambda graphs: timed.extend(graphs.values()) or dict.fromkeys(graphs, 1.0))
    table.predict([Toy()], INPUT, quiet)  # type: ignore[list-item]
    kinds = Counter(node.op_type for graph in timed for node in graph.graph)
    assert kinds["Conv"] == 2  # the stem's, and one of two equal blocks
    assert "BatchNormalization" not in kinds


def test_parts_are_exported_in_the_deployed_form(network: nn.Module) -> None:
    (graph,) = export_each([(network.parts()[1], (1, WIDTH, 12, 12))], 21)  # type: ignore[operator]
    assert [node.op_type for node in graph.graph] == ["Conv"]


def test_a_network_that_was_trained_in_its_deployed_form_is_made_in_it() -> None:
    state = deployed(Network()).state_dict()
    assert make_network(f"{__name__}:Network", {}).state_dict().keys() == Network().state_dict().keys()
    assert make_network(f"{__name__}:Network", {"deployed": True}).state_dict().keys() == state.keys()
