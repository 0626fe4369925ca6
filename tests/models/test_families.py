"""The families: their published sizes, their encodings, and recognising them from shapes alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from compressor import catalog
from compressor.core import InputSpec, UsageError
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.common.cost import cost
from compressor.models.common.family import Family
from compressor.models.mobilenetv2 import MobileNetV2
from compressor.models.repvgg import RepVGG
from compressor.models.resnet import ResNet
from compressor.models.shufflenetv2 import ShuffleNetV2

SMALL, LARGE = InputSpec(3, 32, 32), InputSpec(3, 224, 224)

PUBLISHED: list[tuple[Any, InputSpec, int, int]] = [
    (CifarResNet((9, 9, 9)), SMALL, 853_018, 125_485_696),
    (CifarResNet((2, 2, 2, 2), (64, 128, 256, 512), "B"), SMALL, 11_173_962, 555_422_720),
    (ResNet(), LARGE, 11_689_512, 1_814_073_344),
    (ResNet(depths=(3, 4, 6, 3)), LARGE, 21_797_672, 3_663_761_408),
    (ResNet("bottleneck", (3, 4, 6, 3)), LARGE, 25_557_032, 4_089_184_256),
    (MobileNetV2(), LARGE, 3_504_872, 300_774_272),
    (ShuffleNetV2(), LARGE, 2_278_604, 144_907_992),
    (RepVGG((2, 4, 14, 1), (48, 48, 96, 192, 1280)), LARGE, 8_309_384, 1_361_451_008),  # A0: 8.30 M, 1.4 B (table 4)
]

TINY_MOBILE = tuple((t, 8 * max(1, c // 64), n, s) for t, c, n, s in MobileNetV2().blocks)

VARIANTS: list[Any] = [
    *(arch for arch, *_ in PUBLISHED),
    CifarResNet((1, 2), (4, 6), "A", outputs=7, channels=1),
    CifarResNet((1, 2), (4, 6), "B", outputs=2, channels=4),
    CifarResNet((1, 1, 1), (8, 8, 4), "B"),
    CifarResNet((1, 1, 1), (4, 4, 7), "A"),
    CifarResNet((1, 1, 1), (4, 8, 8), reduction=4),
    ResNet("basic", (1, 1, 2), (4, 8, 16), outputs=5, channels=1),
    ResNet("bottleneck", (1, 2), (4, 8), outputs=1, channels=6),
    ResNet("bottleneck", (1, 2), (4, 8), small=True),
    MobileNetV2(TINY_MOBILE, last=24, stem=8, outputs=3, channels=1),
    RepVGG((1, 2, 1), (4, 8, 8, 12), small=True, outputs=3, channels=1),
    ShuffleNetV2((48, 96, 192, 1024), outputs=11, channels=1),
    ShuffleNetV2((8, 12, 20), (0, 2), stem=4, small=True, outputs=100),
]


def shapes(arch: Family) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in arch.build().state_dict().items()}


@pytest.mark.parametrize(("arch", "input", "params", "macs"), PUBLISHED, ids=lambda v: type(v).__name__)
def test_published_sizes(arch: Family, input: InputSpec, params: int, macs: int) -> None:
    with torch.device("meta"):
        counted = cost(arch.build(), input)
    assert (counted.params, counted.macs) == (params, macs)


@pytest.mark.parametrize("arch", VARIANTS, ids=str)
def test_recognised_from_shapes_by_one_family_only(arch: Any) -> None:
    seen = shapes(arch)
    families = [catalog.find("models", name) for name in catalog.names("models")]
    found = [
        other for family in families if (other := family.recognise({family.rename(k): s for k, s in seen.items()}))
    ]
    assert found == [arch]


@pytest.mark.parametrize("arch", VARIANTS, ids=str)
def test_settings_survive_json(arch: Any) -> None:
    table = json.loads(json.dumps(dataclasses.asdict(arch)))
    assert catalog.make(type(arch), table, "arch") == arch


@pytest.mark.parametrize("arch", VARIANTS[len(PUBLISHED) :], ids=str)
def test_forward_and_the_last_feature_map(arch: Any) -> None:
    torch.manual_seed(0)
    network, maps = arch.build().eval(), []
    network.avgpool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        logits = network(torch.randn(2, arch.channels, 64, 48))
    assert logits.shape == (2, arch.outputs)
    assert torch.isfinite(logits).all()
    (last,) = maps
    classifier = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [c.in_features for c in classifier] == [last.shape[1]]


@pytest.mark.parametrize("name", catalog.names("models"))
def test_every_family_keeps_the_contract(name: str) -> None:
    family = catalog.find("models", name)
    assert dataclasses.is_dataclass(family)
    assert family.__dataclass_params__.frozen
    assert isinstance(family.normalization, str)
    assert family.input_size > 0
    assert isinstance(family.follows_data, bool)
    assert family.__doc__
    assert "channels" in {field.name for field in dataclasses.fields(family)}
    assert hasattr(family, "outputs")
    assert family.recognise({}) is None


MANGLED = [(), (0,), (3,), (0, 0), (2, 3), (0, 3, 3, 3), (4, 3, 3, 3), (4, 3, 7, 7), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("name", catalog.names("models"))
@pytest.mark.parametrize("mangled", MANGLED, ids=str)
def test_recognising_never_breaks_on_odd_shapes(name: str, mangled: tuple[int, ...]) -> None:
    family = catalog.find("models", name)
    for arch in (v for v in VARIANTS[len(PUBLISHED) :] if isinstance(v, family)):
        seen = shapes(arch)
        for key in seen:
            for odd in ({**seen, key: mangled}, {k: s for k, s in seen.items() if k != key}):
                with contextlib.suppress(UsageError):
                    family.recognise(odd)


def test_option_a_subsamples_and_pads_evenly() -> None:
    shortcut = CifarResNet((1, 1), (2, 5)).build().layer2[0].shortcut
    x = torch.arange(2 * 16.0).reshape(1, 2, 4, 4) + 1
    y = shortcut(x)
    assert y.shape == (1, 5, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3, 4]].any()
    assert not list(shortcut.parameters())


def test_spellings_in_the_wild() -> None:
    assert CifarResNet.rename("fc.weight") == "linear.weight"
    assert CifarResNet.rename("layer2.0.downsample.1.running_var") == "layer2.0.shortcut.1.running_var"
    assert CifarResNet.rename("layer2.0.conv1.weight") == "layer2.0.conv1.weight"


def test_mobilenet_of_unseen_repeats_is_not_guessed() -> None:
    with pytest.raises(UsageError, match=r"mobilenetv2.*strides") as caught:
        MobileNetV2.recognise(shapes(MobileNetV2(((1, 16, 1, 1), (6, 24, 2, 2)))))
    assert "--arch" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (CifarResNet, {"depths": [3]}),
        (CifarResNet, {"depths": [3, 3]}),
        (CifarResNet, {"depths": [3, 0, 3]}),
        (CifarResNet, {"depths": [1, 1, 1], "widths": [16, 32, 16]}),
        (CifarResNet, {"depths": [1, 1, 1], "outputs": 0}),
        (CifarResNet, {"depths": [1, 1, 1], "shortcut": "C"}),
        (CifarResNet, {"depths": [1, 1, 1], "reduction": 3}),
        (CifarResNet, {"depths": [1, 1, 1], "reduction": 0}),
        (CifarResNet, {"depth": [1, 1, 1]}),
        (CifarResNet, {}),
        (ResNet, {"depths": [], "widths": []}),
        (ResNet, {"depths": [1]}),
        (ResNet, {"block": "bottle"}),
        (MobileNetV2, {"blocks": []}),
        (MobileNetV2, {"blocks": [[6, 24, 2]]}),
        (MobileNetV2, {"blocks": [[6, 24, 0, 2]]}),
        (MobileNetV2, {"blocks": [[6, 24, 1, 3]]}),
        (ShuffleNetV2, {"out_channels": [8, 16]}),
        (ShuffleNetV2, {"out_channels": [7, 16], "num_blocks": [1]}),
        (ShuffleNetV2, {"out_channels": [8, 16], "num_blocks": [-1]}),
        (ShuffleNetV2, {"out_channels": [16], "num_blocks": []}),
    ],
)
def test_impossible_encodings_are_refused(family: type[Any], settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.make(family, settings, "arch")
    assert caught.value.hint


def test_cost_counts_groups_transposes_and_reuse() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
            self.up = nn.ConvTranspose2d(8, 2, 2, stride=2)
            self.shared = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.up(self.grouped(x))
            return self.shared(self.shared(y.mean(1)))

    network = Odd()
    counted = cost(network, InputSpec(4, 8, 8))
    assert counted.macs == 64 * 8 * 2 * 9 + 64 * 8 * 2 * 4 + 2 * 16 * 16 * 16
    assert counted.params == sum(p.numel() for p in network.parameters())
    assert network.training  # the network itself is left as it was
    assert all(p.device.type == "cpu" and not m._forward_hooks for m in network.modules() for p in m.parameters())


def test_cost_counts_attention() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    network = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Flatten(2), nn.Unflatten(2, (4, 4)), nn.Flatten(2), layer).eval()
    tokens, width, hidden = 16, 16, 32
    linear = tokens * (4 * width * width + 2 * width * hidden)
    attention = 2 * tokens * tokens * width
    with torch.no_grad():
        assert cost(network, SMALL).macs == tokens * width * 3 * 64 + linear + attention


def test_cost_of_an_input_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match="1x32x32") as caught:
        cost(CifarResNet((1, 1, 1)).build(), InputSpec(1, 32, 32))
    assert "--input" in str(caught.value.hint)
