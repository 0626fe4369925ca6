"""The families as search spaces: encodings, steps, seeds, and counting without weights."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, UsageError
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.common.cost import cost
from compressor.models.common.deployed import deployed
from compressor.models.common.encoding import snap, steps
from compressor.models.common.layers import Layer, count, layers
from compressor.models.mobilenetv2 import MobileNetV2
from compressor.models.resnet import ResNet
from compressor.models.shufflenetv2 import ShuffleNetV2

NAMES = ["cifar-resnet", "mobilenetv2", "mobilenetv3", "repvgg", "resnet", "shufflenetv2"]
SMALL, LARGE = InputSpec(3, 32, 32), InputSpec(3, 224, 224)
ODD = [InputSpec(1, 8, 8), InputSpec(3, 16, 16), InputSpec(1, 33, 64), InputSpec(3, 65, 40), InputSpec(1, 224, 224)]
ENCODINGS: dict[str, dict[str, Any]] = {
    "cifar-resnet": {"depths": [1, 2, 3], "widths": [8, 16, 40]},
    "mobilenetv2": {"blocks": [[1, 16, 1, 1], [6, 24, 2, 2], [3, 24, 1, 1], [4, 40, 2, 2]], "last": 96},
    "mobilenetv3": {
        "blocks": [[3, 1, 16, 1, 1, 0], [5, 3, 24, 2, 2, 1], [3, 4, 40, 1, 2, 0]],
        "last": 96,
        "activation": "hswish",
    },
    "repvgg": {"depths": [1, 2, 1], "widths": [8, 16, 24, 40]},
    "resnet": {"block": "bottleneck", "depths": [1, 1, 2, 1], "widths": [16, 8, 24, 32]},
    "shufflenetv2": {"out_channels": [26, 48, 90, 101], "num_blocks": [1, 2, 1]},
}


def family(name: str) -> Any:
    return catalog.find("models", name)


def walk(arch: Any, seed: int, length: int, multiple: int) -> list[Any]:
    generator, met = random.Random(seed), []
    for _ in range(length):
        arch = arch.mutated(generator, multiple)
        met.append(arch)
    return met


def test_every_family_is_a_space_and_tested_here() -> None:
    assert set(NAMES) <= set(catalog.names("models"))
    others = set(catalog.names("models")) - set(NAMES)
    assert others == {"imdn"}  # which makes images: tests/models/test_imdn.py


# -- encodings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_encoding_comes_back(name: str) -> None:
    for input in (SMALL, LARGE, *ODD):
        arch = family(name).decode(ENCODINGS[name], input, 7)
        assert (arch.channels, arch.outputs) == (input.channels, 7)
        assert arch.encode() == ENCODINGS[name]
        assert family(name).decode(json.loads(json.dumps(arch.encode())), input, 7) == arch
        hash(arch)


def test_what_may_be_left_out_is() -> None:
    short = {"depths": [3, 3, 3]}
    assert CifarResNet.decode({**short, "widths": [16, 32, 64]}, SMALL, 10).encode() == short
    assert CifarResNet.decode(short, SMALL, 10) == CifarResNet((3, 3, 3))
    assert ResNet.decode({"depths": [2, 2, 2, 2], "block": "basic"}, LARGE, 1000) == ResNet()


def test_published_networks_are_members() -> None:
    published = MobileNetV2()
    assert MobileNetV2.decode(published.encode(), LARGE, 1000) == published
    assert ShuffleNetV2.decode(ShuffleNetV2().encode(), LARGE, 1000) == ShuffleNetV2()


@pytest.mark.parametrize(
    "arch",
    [
        CifarResNet((1, 1, 1), shortcut="B"),
        CifarResNet((2, 2, 2, 2), (64, 128, 256, 512)),
        MobileNetV2(stem=16),
        ResNet("basic", (1, 2), (4, 8)),
        ShuffleNetV2(num_blocks=(0, 1, 1)),
        ShuffleNetV2(stem=12),
    ],
    ids=str,
)
def test_what_no_encoding_describes_is_said(arch: Any) -> None:
    with pytest.raises(UsageError, match="no encoding describes"):
        arch.encode()


BAD: list[tuple[str, Any, str]] = [
    ("cifar-resnet", [3, 3, 3], "an architecture is no list"),
    ("cifar-resnet", None, "an architecture is no NoneType"),
    ("cifar-resnet", {}, "lacks 'depths'"),
    ("cifar-resnet", {"depth": [3, 3, 3]}, "unknown key of a cifar-resnet architecture: 'depth'"),
    ("cifar-resnet", {"depths": [3, 3, 3], "outputs": 5}, "unknown key.*'outputs'"),
    ("cifar-resnet", {"depths": "333"}, "depths is no list, but '333'"),
    ("cifar-resnet", {"depths": [3, 3]}, "depths has 2 items"),
    ("cifar-resnet", {"depths": [1] * 100_000}, "depths has 100,000 items"),
    ("cifar-resnet", {"depths": [3, 0, 3]}, "depths has 0"),
    ("cifar-resnet", {"depths": [3, -1, 3]}, "depths has -1"),
    ("cifar-resnet", {"depths": [3, 3.0, 3]}, r"depths has 3\.0"),
    ("cifar-resnet", {"depths": [3, True, 3]}, "depths has True"),
    ("cifar-resnet", {"depths": [3, None, 3]}, "depths has None"),
    ("cifar-resnet", {"depths": [3, float("nan"), 3]}, "depths has nan"),
    ("cifar-resnet", {"depths": [3, [3], 3]}, r"depths has \[3\]"),
    ("cifar-resnet", {"depths": [10**9, 3, 3]}, "depths has 1000000000"),
    ("cifar-resnet", {"depths": [3, 3, 3], "widths": None}, "widths is no list"),
    ("cifar-resnet", {"depths": [3, 3, 3], "widths": [16, 32, 10**60]}, r"widths has 1000\d+\.\.\.\d+$"),
    ("cifar-resnet", {"depths": [3, 3, 3], "widths": [16, 32, 16]}, r"widths = \(16, 32, 16\)"),
    ("mobilenetv2", {"blocks": [[1, 16, 1, 1]]}, "lacks 'last'"),
    ("mobilenetv2", {"blocks": [], "last": 8}, "blocks has 0 items"),
    ("mobilenetv2", {"blocks": [[1, 16, 1, 1]] * 300, "last": 8}, "blocks has 300 items"),
    ("mobilenetv2", {"blocks": [[1, 16, 1]], "last": 8}, r"blocks\[0\] has 3 items"),
    ("mobilenetv2", {"blocks": [[1, 16, 1, 1], 7], "last": 8}, r"blocks\[1\] is no list"),
    ("mobilenetv2", {"blocks": [[1, 16, 1, 3]], "last": 8}, r"blocks\[0\], stride, has 3"),
    ("mobilenetv2", {"blocks": [[0, 16, 1, 1]], "last": 8}, r"blocks\[0\], expansion, has 0"),
    ("mobilenetv2", {"blocks": [[1, 16, 1, 1]], "last": [8]}, r"last has \[8\]"),
    ("mobilenetv3", {"blocks": [[3, 1, 16, 1, 1]], "last": 8}, r"blocks\[0\] has 5 items"),
    ("mobilenetv3", {"blocks": [[4, 1, 16, 1, 1, 0]], "last": 8}, "a kernel is neither 3 nor 5"),
    ("mobilenetv3", {"blocks": [[3, 1, 16, 1, 1, 2]], "last": 8}, r"blocks\[0\], attention, is 2"),
    ("mobilenetv3", {"blocks": [[3, 1, 16, 1, 1, 0]], "last": 8, "activation": "gelu"}, "activation = 'gelu'"),
    ("repvgg", {"depths": [1, 1, 1]}, "lacks 'widths'"),
    ("repvgg", {"depths": [1, 1, 1], "widths": [8, 8, 8]}, "widths has 3 items"),
    ("resnet", {"depths": [1, 1, 1, 1], "block": "bottle"}, "block is 'bottle'"),
    ("resnet", {"depths": [1, 1, 1, 1], "block": [1] * 100_000}, r"block is \[1, 1"),
    ("resnet", {"depths": [1, 1, 1, 1], "x" * 100_000: 1}, "unknown key of a resnet architecture: 'xxx"),
    ("resnet", {"depths": [1, 1, 1]}, "depths has 3 items"),
    ("shufflenetv2", {"out_channels": [24, 48, 96, 128]}, "lacks 'num_blocks'"),
    ("shufflenetv2", {"out_channels": [24, 48, 97, 128], "num_blocks": [1, 1, 1]}, "out_channels = .*97.*: .*odd"),
    ("shufflenetv2", {"out_channels": [24, 48, 96], "num_blocks": [1, 1, 1]}, "out_channels has 3 items"),
    ("shufflenetv2", {"out_channels": [24, 48, 96, 10**6], "num_blocks": [1, 1, 1]}, "out_channels has 1000000"),
    ("shufflenetv2", {"out_channels": [24, 48, 96, 128], "num_blocks": [1, 1, 0]}, "num_blocks has 0"),
]


@pytest.mark.parametrize(("name", "encoding", "message"), BAD, ids=lambda v: str(v)[:40])
def test_a_bad_encoding_is_refused_with_its_key_and_mend(name: str, encoding: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        family(name).decode(encoding, SMALL, 10)
    assert caught.value.hint
    assert len(caught.value.what) < 200


# -- any input --------------------------------------------------------------------------------


@pytest.mark.parametrize("input", [*ODD, InputSpec(3, 32, 32), InputSpec(1, 64, 64)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_members_run_at_every_size_and_cost_what_is_counted(name: str, input: InputSpec) -> None:
    torch.manual_seed(0)
    seeds = family(name).seeds(input, 3, 8)
    for arch in (seeds[1], *walk(seeds[0], 1, 6, 8)[2::3]):
        network = arch.build().eval()
        counted = count(arch, input)
        assert counted == cost(network, input)
        assert counted.params == sum(p.numel() for p in deployed(network).parameters())
        with torch.no_grad():
            logits = network(torch.randn(2, *input.shape))
        assert logits.shape == (2, 3)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMES)
def test_stages_give_the_last_map_of_each_resolution(name: str) -> None:
    for input in (SMALL, LARGE):
        arch = family(name).decode(ENCODINGS[name], input, 3)
        network = arch.build().eval()
        maps: dict[str, Tensor] = {}

        def keep(name: str, maps: dict[str, Tensor] = maps) -> Callable[..., None]:
            return lambda _, inputs, output: maps.update({name: output, "pooled": inputs[0]})

        assert isinstance(network.stages, tuple)
        for part in (*network.stages, "avgpool"):
            network.get_submodule(part).register_forward_hook(keep(part))
        with torch.no_grad():
            network(torch.randn(1, *input.shape))
        assert list(maps) == [network.stages[0], "pooled", *network.stages[1:], "avgpool"]
        assert torch.equal(maps[network.stages[-1]], maps["pooled"])
        sizes = [tuple(maps[stage].shape[2:]) for stage in network.stages]
        assert all(b == (-(-a[0] // 2), -(-a[1] // 2)) for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize(("side", "reduction"), [(8, 1), (64, 1), (65, 2), (128, 2), (129, 4), (224, 4), (512, 8)])
def test_the_stem_of_a_cifar_resnet_leaves_33_to_64_pixels(side: int, reduction: int) -> None:
    arch = CifarResNet.decode({"depths": [1, 1, 1]}, InputSpec(3, side, side), 10)
    assert arch.reduction == reduction
    (first,) = {layer.output_size for layer in layers(arch, InputSpec(3, side, side))[:3]}
    assert first == (-(-side // reduction),) * 2
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in arch.build().state_dict().items()}
    assert CifarResNet.recognise(shapes) == arch


# -- counting ---------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_students_of_the_benchmark_cost_what_it_says(every: int, shared_data: Path) -> None:
    rows = json.loads((shared_data / "kd-truth" / "shufflenetv2_cifar100.json").read_text())["rows"]
    assert len(rows) == 300
    for row in rows[::every]:
        counted = count(ShuffleNetV2.decode(row["arch"], SMALL, 100), SMALL)
        assert (counted.params, counted.macs) == (row["params"], row["macs"])


def test_layers_are_listed_in_the_order_that_they_run() -> None:
    arch = ShuffleNetV2((8, 12, 16, 20), (1, 1, 1), stem=4, small=True, outputs=5, channels=1)
    input = InputSpec(1, 9, 12)
    found = layers(arch, input)
    assert found is layers(ShuffleNetV2(*arch_fields(arch)), input)
    assert found[0] == Layer("conv", 1, 4, (1, 1), 1, 1, (9, 12), (9, 12), False)
    assert found[1] == Layer("conv", 4, 4, (3, 3), 2, 4, (9, 12), (5, 6), False)
    assert found[-1] == Layer("linear", 20, 5, (1, 1), 1, 1, (1, 1), (1, 1), True)
    assert (found[1].params, found[1].macs) == (4 * 9, 4 * 9 * 30)
    assert (found[-1].params, found[-1].macs) == (20 * 5 + 5, 20 * 5)
    built = [m for m in arch.build().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(layer.params for layer in found) == sorted(sum(p.numel() for p in m.parameters()) for m in built)
    assert sum(layer.macs for layer in found) == count(arch, input).macs


def arch_fields(arch: ShuffleNetV2) -> tuple[Any, ...]:
    return arch.out_channels, arch.num_blocks, arch.stem, arch.small, arch.outputs, arch.channels


def test_counting_for_another_number_of_channels_is_refused() -> None:
    with pytest.raises(UsageError, match=r"3 channels.*1x32x32"):
        layers(CifarResNet((1, 1, 1)), InputSpec(1, 32, 32))


# -- steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [1, 8, 16, 64])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_gives_another_member_on_the_grid(name: str, multiple: int) -> None:
    arch = family(name).decode(ENCODINGS[name], SMALL, 10)
    for child in walk(arch, 2, 150, multiple):
        assert child != arch
        assert family(name).decode(child.encode(), SMALL, 10) == child
        arch = child
    stem, *rest, _ = layers(arch, SMALL)
    assert all(layer.outputs % multiple == 0 for layer in rest if layer.groups == 1 and layer.output_size != (1, 1))
    assert stem.outputs in (16, 24, 32) or stem.outputs % multiple == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_small(name: str) -> None:
    arch = family(name).seeds(LARGE, 10, 8)[-1]
    before = count(arch, LARGE)
    for child in (arch.mutated(random.Random(seed), 8) for seed in range(12)):
        after = count(child, LARGE)
        assert 0.2 < after.params / before.params < 5


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_walks_the_same_way(name: str) -> None:
    arch = family(name).decode(ENCODINGS[name], SMALL, 10)
    assert walk(arch, 3, 40, 8) == walk(arch, 3, 40, 8)
    assert walk(arch, 3, 40, 8) != walk(arch, 4, 40, 8)


def distance(a: Any, b: Any) -> tuple[float, ...]:
    """How far ``a`` is from ``b``: in groups, which only small ones leave; then in the numbers of their encodings."""
    one, other = (flat(arch.encode()) for arch in (a, b))
    apart = abs(len(one) - len(other))
    return (apart, sum(one) if apart else sum(abs(x - y) for x, y in zip(one, other, strict=True)))


def flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return flat([value.get("widths", [16, 32, 64]), *(v for k, v in sorted(value.items()) if k != "widths")])
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [float(len(value)) if isinstance(value, str) else float(value)]


CORNERS: dict[str, list[dict[str, Any]]] = {
    "cifar-resnet": [
        {"depths": [1, 1, 1], "widths": [64, 64, 64]},
        {"depths": [18, 18, 18], "widths": [512, 512, 512]},
        {"depths": [18, 1, 7], "widths": [64, 64, 512]},
    ],
    "mobilenetv2": [
        {"blocks": [[1, 64, 1, 1]], "last": 64},
        {"blocks": [[10, 512, 6, 2]] * 5 + [[10, 512, 6, 1]] * 5, "last": 4096},
        {"blocks": [[1, 512, 6, 1], [10, 64, 1, 2], [3, 128, 2, 2]], "last": 64},
    ],
    "mobilenetv3": [
        {"blocks": [[3, 1, 64, 1, 1, 0]], "last": 64},
        {
            "blocks": [[5, 1, 512, 6, 2, 1]] + [[5, 8, 512, 6, 2, 1]] * 4 + [[3, 8, 512, 6, 1, 0]] * 5,
            "last": 2048,
            "activation": "hswish",
        },
        {"blocks": [[5, 1, 512, 6, 1, 1], [3, 8, 64, 1, 2, 0], [5, 3, 128, 2, 2, 1]], "last": 64},
    ],
    "repvgg": [
        {"depths": [1, 1, 1], "widths": [64, 64, 64, 64]},
        {"depths": [16, 16, 16], "widths": [2560, 2560, 2560, 2560]},
        {"depths": [16, 1, 5], "widths": [64, 128, 512, 64]},
    ],
    "resnet": [
        {"block": "bottleneck", "depths": [1, 1, 1, 1], "widths": [64, 64, 64, 64]},
        {"block": "basic", "depths": [8, 8, 8, 8], "widths": [512, 512, 512, 512]},
        {"block": "bottleneck", "depths": [8, 1, 8, 1], "widths": [512, 64, 64, 512]},
    ],
    "shufflenetv2": [
        {"out_channels": [128, 128, 128, 64], "num_blocks": [1, 1, 1]},
        {"out_channels": [1024, 1024, 1024, 8192], "num_blocks": [16, 16, 16]},
        {"out_channels": [1024, 128, 512, 64], "num_blocks": [1, 16, 3]},
    ],
}


@pytest.mark.parametrize(("start", "goal"), list(itertools.permutations(range(3), 2)))
@pytest.mark.parametrize("name", NAMES)
def test_every_corner_of_the_space_can_be_reached(name: str, start: int, goal: int) -> None:
    generator = random.Random(5)
    here, there = (family(name).decode(CORNERS[name][i], SMALL, 10) for i in (start, goal))
    for _ in range(3000):
        child = here.mutated(generator, 64)
        if distance(child, there) < distance(here, there):
            here = child
        if here == there:
            return
    raise AssertionError(f"stuck at {here}")


def test_steps_can_be_taken_back() -> None:
    for unit, most in ((1, 18), (8, 512), (16, 500)):
        grid = range(unit, most + 1, unit)
        ways = {value: [step for direction in steps(value, unit, most) for step in direction] for value in grid}
        for value, reached in ways.items():
            assert set(reached) <= set(grid) - {value}
            assert {value - unit, value + unit} & set(grid) <= set(reached)
            assert all(value in ways[step] for step in reached)


def test_snapping() -> None:
    assert [snap(value, 8, 100) for value in (0, 3, 11.9, 12, 20, 97, 1000)] == [8, 8, 8, 16, 24, 96, 96]


# -- seeds ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("input", [InputSpec(1, 28, 28), LARGE], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_a_ladder_of_members(name: str, input: InputSpec, multiple: int) -> None:
    seeds = family(name).seeds(input, 10, multiple)
    assert len(set(seeds)) == len(seeds) >= 8
    assert all(family(name).decode(seed.encode(), input, 10) == seed for seed in seeds)
    costs = [count(seed, input) for seed in seeds]
    assert costs[0].params == min(c.params for c in costs)
    assert costs[0].macs == min(c.macs for c in costs)
    params = sorted(c.params for c in costs)
    assert params[-1] > 100 * params[0]


def test_seeds_hold_the_published_networks() -> None:
    assert CifarResNet((9, 9, 9)) in CifarResNet.seeds(SMALL, 10, 16)
    assert MobileNetV2() in MobileNetV2.seeds(LARGE, 1000, 8)
    assert ResNet(depths=(3, 4, 6, 3)) in ResNet.seeds(LARGE, 1000, 16)
    assert ShuffleNetV2() in ShuffleNetV2.seeds(LARGE, 1000, 1)


def test_mobilenet_seeds_keep_4x4_of_32x32_pixels() -> None:
    for seed in MobileNetV2.seeds(SMALL, 10, 8)[1:]:
        assert layers(seed, SMALL)[-2].output_size == (4, 4)
    for seed in MobileNetV2.seeds(LARGE, 10, 8)[1:]:
        assert layers(seed, LARGE)[-2].output_size == (7, 7)
