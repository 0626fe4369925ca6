"""Channels scaled across layers: what the graph computes stays, and ranges come closer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.core import InputSpec, image_signature
from compressor.lowering.export import export
from compressor.quant.channel_scaling import ChannelScaling

INPUT = InputSpec(3, 8, 8)


class Chain(nn.Module):
    """Convolutions in a row, one of them depthwise, one grouped, with a pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LeakyReLU(0.1),
            nn.MaxPool2d(2), nn.Conv2d(8, 12, 1, groups=4), nn.PReLU(12), nn.ConvTranspose2d(12, 6, 2, 2), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x).mean((2, 3)))
        return scores


class Joined(nn.Module):
    """Branches of unlike ranges, concatenated again and again, each behind a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.first(x)]
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            features.append(conv(torch.relu(norm(torch.cat(features, 1)))) * 10.0 ** (2 * i - 2))
        scores: Tensor = self.head(torch.cat(features, 1).mean((2, 3)))
        return scores


class Residual(nn.Module):
    """A sum, whose terms have the same factors; a sigmoid, through which none passes; the sum's own output as one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        z = y + torch.relu(self.b(y))
        made: Tensor = self.c(z) * torch.sigmoid(self.gate(z.mean((2, 3), keepdim=True)))
        return made


def graph_of(make: Callable[[], nn.Module]) -> ir.Model:
    torch.manual_seed(0)
    network = make().eval()
    for name, parameter in network.named_parameters():  # channels of unlike ranges
        if parameter.dim() == 4 and "head" not in name:
            parameter.data *= torch.logspace(-1.5, 1.5, len(parameter)).reshape(-1, 1, 1, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.uniform_(-1, 1)
    signature, sizes = image_signature(INPUT, 5)
    graph = export(network, signature, sizes, 21)
    common.ShapeInferencePass()(graph)
    return graph


def run(graph: ir.Model, names: tuple[str, ...], x: NDArray[np.float32]) -> list[NDArray[Any]]:
    proto = ir.to_proto(graph)
    held = {o.name for o in proto.graph.output}
    for name in names:
        if name not in held:
            proto.graph.output.add().name = name
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    made: list[NDArray[Any]] = ort.InferenceSession(proto.SerializeToString(), options).run(list(names), {"input": x})
    return made


def largest(graph: ir.Model, names: tuple[str, ...], x: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    values = run(graph, names, x)
    return {
        name: np.abs(v).max(axis=tuple(i for i in range(v.ndim) if i != 1)).astype(np.float64)
        for name, v in zip(names, values, strict=True)
    }


def spread(values: dict[str, NDArray[np.float64]]) -> float:
    """The mean over tensors of the deviation of the channels' logarithms."""
    logs = [np.log(np.maximum(v, 1e-9)) for v in values.values()]
    return float(np.mean([each.std() for each in logs]))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "groups"), [(Chain, 4), (Joined, 10), (Residual, 1)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_is_computed_stays_and_ranges_come_closer(
    make: Callable[[], nn.Module], groups: int, share: float
) -> None:
    graph = graph_of(make)
    x = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    (before,) = run(graph, ("output",), x)
    scaling = ChannelScaling(graph)
    seen = largest(graph, scaling.tensors, x)
    assert scaling.scale(seen, share) == groups
    (after,) = run(graph, ("output",), x)
    np.testing.assert_allclose(after, before, atol=1e-5 * float(np.abs(before).max()), rtol=1e-5)
    narrowed = spread(largest(graph, scaling.tensors, x))
    assert narrowed < (0.8 if share == 0.5 else 0.6) * spread(seen)


def test_factors_are_those_of_the_paper() -> None:
    """Two layers: channel c of the first is divided by (r_c / mean)^share, and the second's columns multiplied back."""
    graph = graph_of(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    constants = graph.graph.initializers
    first, second = (constants[name].const_value.numpy().copy() for name in ("0.weight", "2.weight"))  # type: ignore[union-attr]
    scaling = ChannelScaling(graph)
    ranges = np.array([0.01, 0.1, 1, 10, 100, 1, 1, 0.0])
    scaling.scale(dict.fromkeys(scaling.tensors, ranges), 0.5)
    alive = ranges > 0
    mean = np.exp(np.log(ranges[alive]).mean())
    expected = np.where(alive, np.sqrt(np.where(alive, ranges, 1.0) / mean), 1.0)
    got = [constants[name].const_value.numpy() for name in ("0.weight", "2.weight")]  # type: ignore[union-attr]
    np.testing.assert_allclose(first / got[0], np.broadcast_to(expected.reshape(-1, 1, 1, 1), first.shape), rtol=1e-5)
    np.testing.assert_allclose(got[1] / second, np.broadcast_to(expected.reshape(1, -1, 1, 1), second.shape), rtol=1e-5)
