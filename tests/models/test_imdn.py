"""IMDN's family: published sizes and figures, spellings, its members, and what its parts are for."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compressor import catalog
from compressor.core import InputSpec, UsageError, image_signature
from compressor.data import load_data
from compressor.frontend import load_checkpoint
from compressor.lowering.clip import clip_output
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.models.common.cost import cost
from compressor.models.common.imdb import IMDB, ContrastAttention
from compressor.models.common.layers import count
from compressor.models.imdn import IMDN
from compressor.preprocessing import NORMALIZATIONS
from compressor.tasks.super_resolution import SuperResolution

SMALL = InputSpec(3, 24, 20)
RTC = IMDN(12, 5, 3, False, 2, "rtc")
TINY = [
    IMDN(8, 2, 2, True, 2), IMDN(6, 1, 3, False, 3), IMDN(8, 3, 2, False, 2, "rtc"), IMDN(8, 2, 2, True, 4, "as"),
    IMDN(4, 1, 1, True, 2, channels=1), IMDN(5, 2, 2, True, 1),
]  # fmt: skip


def shapes(arch: IMDN) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in arch.build().state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "params"),
    [(IMDN(scale=2), 694_404), (IMDN(scale=3), 703_059), (IMDN(), 715_176), (RTC, 20_190)],
    ids=str,
)
def test_published_sizes(arch: IMDN, params: int) -> None:
    with torch.device("meta"):
        assert cost(arch.build(), SMALL).params == params
        assert sum(p.numel() for p in IMDB(64, 16).parameters()) == 104_020


@pytest.mark.parametrize("arch", [*TINY, IMDN(), RTC], ids=str)
def test_recognised_from_shapes_by_one_family_only(arch: IMDN) -> None:
    seen = shapes(arch)
    families = [catalog.find("models", name) for name in catalog.names("models")]
    found = [f.recognise({f.rename(k): s for k, s in seen.items()}) for f in families]
    assert [each for each in found if each] == [arch]
    assert catalog.make(IMDN, json.loads(json.dumps(dataclasses.asdict(arch))), "arch") == arch


def test_the_challenge_networks_own_spelling() -> None:
    assert IMDN.rename("0.weight") == "fea_conv.weight"
    assert IMDN.rename("1.sub.0.c1.bias") == "IMDB1.c1.bias"
    assert IMDN.rename("1.sub.4.c5.weight") == "IMDB5.c5.weight"
    assert IMDN.rename("1.sub.5.weight") == "LR_conv.weight"
    assert IMDN.rename("2.bias") == "upsampler.0.bias"
    assert IMDN.rename("upsampler.0.weight") == "upsampler.0.weight"


@pytest.mark.parametrize("arch", TINY, ids=str)
def test_sizes_of_what_it_makes_and_what_it_costs(arch: IMDN) -> None:
    torch.manual_seed(0)
    input = InputSpec(arch.channels, 24, 20)
    network = arch.build().eval()
    with torch.no_grad():
        made = network(torch.rand(2, *input.shape))
    assert made.shape == (2, arch.channels, 24 * arch.upscale_factor, 20 * arch.upscale_factor)
    assert count(arch, input) == cost(network, input)
    assert arch.outputs == arch.channels


def test_it_starts_as_a_linear_interpolation() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 18)
    for arch in (IMDN(16, 4, 4, False, 2, "rtc"), IMDN(16, 3, 4, True, 3)):
        with torch.no_grad():
            made = arch.build()(x)
        wanted = F.interpolate(x, scale_factor=arch.scale, mode="bilinear")
        assert (made - wanted)[..., 6:-6, 6:-6].abs().mean() < 0.05


def test_attention_is_the_papers() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(2, 32, 5, 7), ContrastAttention(32)
    contrast = x.flatten(2).std(2, correction=0) + x.flatten(2).mean(2)
    w1, b1, w2, b2 = (p.flatten(1) if p.ndim > 1 else p for p in layer.parameters())
    scale = torch.sigmoid((contrast @ w1.T + b1).relu() @ w2.T + b2)
    torch.testing.assert_close(layer(x), x * scale[:, :, None, None])


def test_attention_learns_from_a_constant_image() -> None:
    x = torch.full((1, 16, 4, 4), 0.5, requires_grad=True)
    ContrastAttention(16)(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


# -- the search space -------------------------------------------------------------------------


ENCODING = {"width": 24, "blocks": 3, "distil": 6, "attention": False, "scale": 2}


def test_an_encoding_comes_back() -> None:
    for extra in ({}, {"variant": "rtc"}):
        arch = IMDN.decode({**ENCODING, **extra}, SMALL, 3)
        assert arch.encode() == {**ENCODING, **extra}
        hash(arch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width has 0"), ({"width": 20_000}, "width has 20000"), ({"blocks": 1.0}, "blocks has 1.0"),
        ({"distil": 24}, "distil = 24 keeps back all"), ({"attention": 1}, "attention has 1"),
        ({"scale": 33}, "scale has 33"), ({"variant": "rte"}, "variant is 'rte'"), ({"depth": 3}, "unknown key"),
    ],
)  # fmt: skip
def test_a_bad_encoding_is_refused_with_its_key_and_mend(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        IMDN.decode({**ENCODING, **change}, SMALL, 3)
    assert caught.value.hint


@pytest.mark.parametrize("multiple", [1, 8, 16, 64])
def test_a_walk_stays_in_the_space_and_on_the_grid(multiple: int) -> None:
    generator, arch = random.Random(multiple), IMDN(scale=3)
    for _ in range(300):
        arch = arch.mutated(generator, multiple)
        assert IMDN.decode(arch.encode(), SMALL, 3) == arch
        assert arch.scale == 3
        assert arch.width % multiple == 0 or multiple == 1
        assert 4 * arch.distil % multiple == 0
        assert 2 * arch.distil <= arch.width


def test_seeds_begin_small_and_enlarge_as_asked() -> None:
    for multiple in (1, 8, 16):
        seeds = IMDN.seeds(SMALL, 3, multiple, upscale_factor=2)
        params = [count(seed, SMALL).params for seed in seeds]
        assert params == sorted(params)
        assert params[0] < 60_000
        assert {seed.upscale_factor for seed in seeds} == {2}


# -- the real networks ------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "scale", "params", "psnr", "ssim"),
    [
        ("IMDN_x2.pth", 2, 694_404, 37.996, 0.9605), ("IMDN_x4.pth", 4, 715_176, 32.210, 0.8948),
        ("IMDN_RTC_x2.pth", 2, 20_190, 37.31, None),
    ],
)  # fmt: skip
def test_the_public_checkpoints_on_set5(
    shared_data: Path, file: str, scale: int, params: int, psnr: float, ssim: float | None
) -> None:
    taken = load_checkpoint(shared_data / "teachers" / file)
    network = taken.build()
    assert taken.family == "imdn"
    assert sum(p.numel() for p in network.parameters()) == params
    source = load_data(None, evaluate=str(shared_data / "set5"))
    split = source.prepare(InputSpec(3, 64, 64), NORMALIZATIONS["unit"], "input", scale).evaluate

    def session(feeds: Any) -> Any:
        with torch.inference_mode():
            return {"output": network(torch.from_numpy(feeds["input"])).numpy()}

    metric, each = SuperResolution(scale).evaluate(session, split, 1, lambda *_: None)  # type: ignore[arg-type]
    assert metric.value == pytest.approx(psnr, abs=0.01)
    assert metric.samples == len(each) == 5
    if ssim is not None:
        assert metric.also["ssim"] == pytest.approx(ssim, abs=2e-4)


def _parity(network: torch.nn.Module, folder: Path, sizes: list[tuple[int, int]]) -> list[float]:
    signature, usual = image_signature(SMALL, upscale_factor=1)
    graph = clip_output(export(network, signature, usual, 21), (0.0, 1.0))
    session = catalog.find("backends", "onnxruntime")().open(save(graph, folder / "model.onnx", "fp32").path, threads=1)
    worst = []
    for height, width in sizes:
        x = np.random.default_rng(height).random((1, 3, height, width), np.float32)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(x)).clamp(0, 1).numpy()
        worst.append(float(np.abs(session({"input": x})["output"] - wanted).max()))
    return worst


@pytest.mark.slow
def test_onnx_takes_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for arch in (IMDN(8, 2, 2, True, 2), IMDN(8, 1, 2, False, 4, "rtc")):
        assert max(_parity(arch.build().eval(), tmp_path, [(1, 1), (17, 23), (33, 19)])) < 1e-5


@pytest.mark.shared
@pytest.mark.slow
def test_onnx_of_the_real_network_on_odd_sizes(shared_data: Path, tmp_path: Path) -> None:
    network = load_checkpoint(shared_data / "teachers/IMDN_x4.pth").build()
    assert max(_parity(network, tmp_path, [(37, 53), (61, 29), (16, 91)])) < 1e-4
