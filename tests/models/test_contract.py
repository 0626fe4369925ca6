"""What every family of classifiers promises, on its smallest member and a walk from there."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec
from compressor.models.common.deployed import deployed

INPUT, CLASSES, MULTIPLE = InputSpec(3, 32, 32), 5, 8
FAMILIES = pytest.mark.parametrize(
    "family",
    [each for name in catalog.names("models") if (each := catalog.find("models", name)).task == "classification"],
    ids=lambda family: family.__name__,
)


def smallest(family: Any) -> Any:
    return family.seeds(INPUT, CLASSES, MULTIPLE)[0]


def settled(network: nn.Module) -> nn.Module:
    """Give ``network`` statistics as a training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


@FAMILIES
def test_members_come_back_from_their_encodings(family: Any) -> None:
    member, generator = smallest(family), random.Random(0)
    for _ in range(20):
        member = member.mutated(generator, MULTIPLE)
        assert family.decode(member.encode(), INPUT, CLASSES) == member
        hash(member)


@FAMILIES
def test_the_network_names_its_parts(family: Any) -> None:
    network: Any = smallest(family).build().eval()
    maps: list[Tensor] = []
    for name in (*network.stages, "avgpool"):
        network.get_submodule(name).register_forward_hook(lambda module, given, made: maps.extend((given[0], made)))
    x = torch.randn(2, *INPUT.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = network(x)
        last, pooled_from = maps[-3], maps[-2]
        chained = x
        for part in network.parts():
            chained = part(chained)
        torch.testing.assert_close(chained, scores)
        torch.testing.assert_close(pooled_from, last)
        torch.testing.assert_close(network.features(x), last)
    assert scores.shape == (2, CLASSES)


@FAMILIES
def test_the_deployed_form_computes_the_same(family: Any) -> None:
    network = settled(smallest(family).build())
    x = torch.randn(2, *INPUT.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores, shipped = network(x), deployed(network)(x)
    torch.testing.assert_close(shipped, scores, rtol=1e-3, atol=1e-3 * float(scores.abs().max()))
