"""Low-bit weights: each formula against a slow, literal one in float64; round trips and bounds by Hypothesis."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TEACHER
from torch import Tensor

from compressor import catalog
from compressor.bundle import runner
from compressor.bundle.storage import stored
from compressor.core import BudgetMissed, InputSpec, image_signature
from compressor.lowering.export import export
from compressor.lowering.packing import pack_weights
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.models.cifar_resnet import CifarResNet
from compressor.plan import with_machine_quirks
from compressor.quant.allocate import allocate
from compressor.quant.bucket_quantizer import BucketQuantizer
from compressor.quant.codebook import Codebook
from compressor.quant.fake_quant import FakeQuantised
from compressor.quant.huffman import encode, lengths
from compressor.quant.knapsack import share_points, solve_knapsack
from compressor.quant.positive_scales import make_scales_positive
from compressor.quant.sensitivity import bits_within, inner_weights, points_by_gradient, rounding_losses
from compressor.quant.weight_only import index_weight, store_indexed
from compressor.quant.weight_spec import BitAllocation, WeightFormat, WeightQuantSpec

SLOW = pytest.mark.slow
SIGNATURE, SIZES = image_signature(InputSpec(1, 16, 16), 10)
SHAPES = [(4, 3, 3, 3), (16, 16, 3, 3), (10, 37), (300,)]


def weights(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def buckets_of(values: Sequence[float], shape: tuple[int, ...], bucket: int | None) -> list[list[float]]:
    size = len(values) // shape[0] if bucket is None else bucket
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


# -- uniform ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("bucket", [256, 7, None])
def test_a_bucket_is_rounded_as_the_paper_says(shape: tuple[int, ...], bits: int, bucket: int | None) -> None:
    weight = weights(shape)
    expected = []
    for values in buckets_of(weight.flatten().tolist(), shape, bucket):
        beta, s = min(values), 2**bits
        alpha = max(values) - beta
        for v in values:
            expected.append(alpha * round((v - beta) / alpha * (s - 1)) / (s - 1) + beta if alpha else beta)
    got = BucketQuantizer(bits, bucket)(weight)
    assert torch.allclose(got.flatten(), torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_gradients_go_straight_through() -> None:
    weight = weights((8, 5, 3, 3)).requires_grad_()
    upstream = weights((8, 5, 3, 3), 1)
    (BucketQuantizer(2)(weight) * upstream).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


def test_stochastic_rounding_is_right_on_average() -> None:
    torch.manual_seed(0)
    weight = weights((64,))
    quantiser = BucketQuantizer(2, stochastic=True).train()
    mean = torch.stack([quantiser(weight) for _ in range(4000)]).mean(0)
    step = (weight.max() - weight.min()) / 3
    assert (mean - weight).abs().max() < 4 * step / 2 / math.sqrt(4000)
    assert torch.equal(quantiser.eval()(weight), BucketQuantizer(2)(weight))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=600),
    st.integers(1, 8),
    st.sampled_from([None, 1, 2, 256]),
)
def test_no_weight_moves_further_than_half_a_step(values: list[float], bits: int, bucket: int | None) -> None:
    weight = torch.tensor(values, dtype=torch.float64).reshape(1, -1)
    got = BucketQuantizer(bits, bucket)(weight).flatten().tolist()
    expected = buckets_of(values, (1,), bucket)
    for group, rounded in zip(expected, buckets_of(got, (1,), bucket), strict=True):
        span = max(group) - min(group)
        for v, r in zip(group, rounded, strict=True):
            assert abs(v - r) <= span / (2**bits - 1) / 2 + 1e-6 * (1 + abs(v))
            assert min(group) - 1e-6 <= r <= max(group) + 1e-6 * (1 + abs(v))


# -- codebooks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("points", [2, 4, 5, 16])
@pytest.mark.parametrize("bucket", [256, None])
def test_a_codebook_stands_for_its_weights(shape: tuple[int, ...], points: int, bucket: int | None) -> None:
    weight = weights(shape)
    book = Codebook(weight, points, bucket)
    groups = buckets_of(weight.flatten().tolist(), shape, bucket)
    scaled, scales, lows = [], [], []
    for values in groups:
        low = min(values) if bucket else 0.0
        scale = max(values) - low if bucket else max(map(abs, values))
        scales.append(scale)
        lows.append(low)
        scaled += [(v - low) / scale for v in values]
    ascending = sorted(scaled)
    start = [ascending[int((i + 0.5) / points * len(scaled))] for i in range(points)]
    assert book.points.tolist() == pytest.approx(start, abs=1e-12)

    upstream = weights(shape, 1)
    made = book(weight)
    (made * upstream).sum().backward()
    expected, gradient, at = [], [0.0] * points, 0
    for values, scale, low in zip(groups, scales, lows, strict=True):
        for v in values:
            nearest = min(range(points), key=lambda j: abs((v - low) / scale - start[j]))
            expected.append(start[nearest] * scale + low)
            gradient[nearest] += scale * float(upstream.flatten()[at])
            at += 1
    assert torch.allclose(made.flatten(), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert book.points.grad is not None
    assert book.points.grad.tolist() == pytest.approx(gradient, abs=1e-9)


def test_points_that_cross_are_put_in_order() -> None:
    weight = weights((4, 60))
    book = Codebook(weight, 4)
    before = book(weight)
    with torch.no_grad():
        book.points.copy_(book.points.flip(0))
    assert torch.equal(book(weight), before)
    codes, points = book.assign(weight)
    assert points.tolist() == sorted(points.tolist())
    assert int(codes.max()) == 3


def test_training_a_codebook_brings_it_nearer() -> None:
    weight, target = weights((8, 64)), weights((8, 64)).sign()
    book = Codebook(weight, 2, None)
    with torch.no_grad():
        book.points.mul_(0.2)
    optimizer = torch.optim.SGD(book.parameters(), 1e-4)
    losses = []
    for _ in range(50):
        loss = ((book(weight) - target) ** 2).sum()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.75 * losses[0]


# -- sharing out --------------------------------------------------------------------------------


def test_points_follow_the_gradients() -> None:
    assert share_points([1.0, 1.0, 1.0], 16) == (16, 16, 16)
    assert share_points([0.0, 0.0], 4) == (4, 4)
    # Half of 3 x 8 alike: 4 each; the other 12 as 1 : 2 : 3.
    assert share_points([1.0, 2.0, 3.0], 8) == (6, 8, 10)
    assert share_points([1.0, 0.0], 2) == (3, 1 + 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20), st.integers(4, 64))
def test_no_point_is_lost(norms: list[float], points: int) -> None:
    given_out = share_points(norms, points)
    if max(given_out) < 256:
        assert sum(given_out) == points * len(norms)
    assert min(given_out) >= points // 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_bits_are_shared_out_as_well_as_can_be(data: st.DataObject) -> None:
    tensors = data.draw(st.integers(1, 4))
    numbers = st.integers(0, 50)
    losses = [data.draw(st.lists(numbers, min_size=3, max_size=3)) for _ in range(tensors)]
    sizes = [data.draw(st.lists(st.integers(1, 50), min_size=3, max_size=3)) for _ in range(tensors)]
    limit = data.draw(st.integers(0, 50 * tensors))
    fitting = [
        sum(losses[t][o] for t, o in enumerate(options))
        for options in itertools.product(range(3), repeat=tensors)
        if sum(sizes[t][o] for t, o in enumerate(options)) <= limit
    ]
    chosen = solve_knapsack(losses, sizes, limit)
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None
    assert sum(sizes[t][o] for t, o in enumerate(chosen)) <= limit
    assert sum(losses[t][o] for t, o in enumerate(chosen)) == min(fitting)


def test_options_far_beyond_the_limit_are_never_chosen() -> None:
    losses = [[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]]
    assert solve_knapsack(losses, [[10**18, 0], [10**5, 0], [10**22, 0]], 10**6) == (1, 0, 1)


# -- storage ------------------------------------------------------------------------------------


def literal_bits(counts: Sequence[int]) -> int:
    """What Huffman's code takes: the sum of all merged weights."""
    heap = [count for count in counts if count]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=2000))
def test_symbols_come_back_and_take_what_huffman_says(symbols: list[int]) -> None:
    counts = np.bincount(symbols, minlength=16).tolist()
    bits = lengths(counts)
    coded = encode(symbols, bits)
    assert len(coded) == math.ceil(literal_bits(counts) / 8)
    assert runner._decoded(coded, bits, len(symbols)) == symbols
    entropy = -sum(c / len(symbols) * math.log2(c / len(symbols)) for c in counts if c)
    assert entropy * len(symbols) <= sum(c * b for c, b in zip(counts, bits, strict=True)) + 1e-6
    assert sum(2.0**-b for b in bits if b) <= 1


def test_bytes_that_end_early() -> None:
    bits = lengths([5, 3, 1])
    with pytest.raises(ValueError, match="of 9 symbols"):
        runner._decoded(encode([0, 1, 2, 0], bits), bits, 9)


# -- packed graphs ------------------------------------------------------------------------------


@functools.cache
def exported() -> Any:
    torch.manual_seed(0)
    network = CifarResNet((1, 1, 1), (16, 16, 32), channels=1).build().eval()
    return ir.to_proto(export(network, SIGNATURE, SIZES, 21))


def run(path: Path, images: np.ndarray) -> np.ndarray:
    return catalog.find("backends", "onnxruntime")().open(path, threads=1)({"input": images})["output"]


def quantised(bits: int) -> ir.Model:
    """A small network on int8 kernels, its weights symmetric, of so many bits."""
    rules = catalog.find("backends", "onnxruntime")().rules(with_machine_quirks(catalog.find_target("host")))
    graph = ir.from_proto(exported())
    placement = Placement(graph, dataclasses.replace(rules, weight_bits=bits))
    placement.apply(dict.fromkeys(placement.tensors, (-3.0, 3.0)))
    return graph


@SLOW
@pytest.mark.parametrize("opset", [21, 25])
@pytest.mark.parametrize(("bits", "stored"), [(2, 2), (3, 3), (4, 4), (5, 5), (7, 7)])
def test_a_packed_graph_computes_the_same(bits: int, stored: int, opset: int, tmp_path: Path) -> None:
    plain = quantised(bits)
    plain.graph.opset_imports[""] = opset
    packed = ir.from_proto(ir.to_proto(plain))
    said = pack_weights(packed)
    assert set(said.values()) == {stored}
    one = save(plain, tmp_path / "plain.onnx", "int8")
    other = save(packed, tmp_path / "packed.onnx", "int8")
    images = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype(np.float32)
    assert np.array_equal(run(one.path, images), run(other.path, images))
    weights = sum(plain.graph.initializers[name].const_value.size for name in said)
    saved = one.path.stat().st_size - other.path.stat().st_size
    assert saved > weights * (1 - stored / 8) - 600 * len(said)


def fake(
    bits: dict[str, int], points: dict[str, int], format: WeightFormat | None = None
) -> tuple[FakeQuantised, torch.nn.Module]:
    torch.manual_seed(0)
    rules = catalog.find("backends", "onnxruntime")().rules(with_machine_quirks(catalog.find_target("host")))
    network = CifarResNet((1, 1, 1), (16, 16, 32), channels=1).build().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.normal_()  # of both signs, and one dead channel
                module.weight[3] = 0
    batches = [torch.randn(16, 1, 16, 16) for _ in range(3)]
    return FakeQuantised(
        network, rules, SIGNATURE, SIZES, 21, batches, BitAllocation(bits, points, format or WeightFormat())
    ), network


def trained(made: FakeQuantised, network: torch.nn.Module) -> None:
    """A few steps, then the weights back into the network."""
    optimizer = torch.optim.SGD([each for each in made.module.parameters() if each.requires_grad], 1e-3)
    made.module.train()
    for step in range(5):
        torch.manual_seed(step)
        made.module(torch.randn(16, 1, 16, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    made.module.eval()
    network.load_state_dict(made.weights(network))


INNER = [f"layer{stage}.0.conv{number}.weight" for stage in (1, 2, 3) for number in (1, 2)]


@SLOW
@pytest.mark.parametrize(
    ("bits", "points", "stored"),
    [
        (dict.fromkeys(INNER, 2), {}, 2),
        (dict.fromkeys(INNER, 4), {}, 4),
        ({}, dict.fromkeys(INNER, 7), 4),
    ],
    ids=["2 bits", "4 bits", "7 points"],
)
def test_the_runtime_computes_what_few_levels_were_trained_to(
    bits: dict[str, int], points: dict[str, int], stored: int, tmp_path: Path
) -> None:
    made, network = fake(bits, points)
    trained(made, network)
    _, graph = made.lowered(network)
    assert set(pack_weights(graph).values()) == {stored}
    path = save(graph, tmp_path / "packed.onnx", "int8").path
    images = torch.randn(64, 1, 16, 16)
    with torch.inference_mode():
        wanted = made.module(images).numpy()
    got = run(path, images.numpy())
    assert np.abs(got - wanted).max() <= 0.06 * np.ptp(wanted)
    assert np.mean(got.argmax(1) == wanted.argmax(1)) > 0.95


EDGES = ["conv1.weight", "linear.weight"]


@SLOW
@pytest.mark.parametrize(
    ("bits", "points", "bucket", "stochastic"),
    [
        (2, 0, None, True),
        (3, 0, 256, True),
        (8, 7, 256, False),
        (4, 0, 100, False),
        (8, 0, None, False),
        (8, 0, 256, False),
        (8, 4, None, False),
        (8, 16, 100, False),
    ],
)
def test_weights_alone_come_back_from_their_indices(
    bits: int, points: int, bucket: int | None, stochastic: bool, tmp_path: Path
) -> None:
    learned = dict.fromkeys(INNER, points) if points else {}
    made, network = fake(dict.fromkeys(EDGES, 8) | ({} if points else dict.fromkeys(INNER, bits)), learned,
                         WeightFormat(False, bucket, stochastic))  # fmt: skip
    trained(made, network)
    exact, graph = made.lowered(network)
    float_bytes = save(exact, tmp_path / "float.onnx", "fp32").path.stat().st_size
    path = save(graph, tmp_path / "model.onnx", "fp32").path
    images = torch.randn(64, 1, 16, 16)
    with torch.inference_mode():
        wanted = made.module(images).numpy()
    backend = catalog.find("backends", "onnxruntime")()
    assert np.abs(run(path, images.numpy()) - wanted).max() <= 1e-4
    stored = {2: 2, 3: 3, 4: 4, 8: 8}[bits] if not points else {4: 2, 7: 3, 16: 4}[points]
    weights = sum(network.get_parameter(name).numel() for name in INNER)
    assert path.stat().st_size < float_bytes - weights * (4 - stored / 8 - (8 / 100 if bucket else 0)) + 9_000
    assert backend.memory(path) == pytest.approx(backend.memory(tmp_path / "float.onnx"), rel=0.01), "unpacked at load"


@SLOW
def test_rounding_after_training_gives_what_training_starts_from() -> None:
    made, network = fake(dict.fromkeys([*EDGES, *INNER], 4), {}, WeightFormat(False, 256))
    graph = export(network, SIGNATURE, SIZES, 21)
    weights = network.state_dict()
    names = [*EDGES, *INNER]
    store_indexed(graph, {n: index_weight(weights[n], 4, 256) for n in names}, {n: weights[n].numpy() for n in names})
    images = torch.randn(8, 1, 16, 16)
    session = _session(graph)
    with torch.inference_mode():
        assert np.abs(session(images.numpy()) - made.module(images).numpy()).max() <= 1e-4


def _session(graph: ir.Model) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"input": batch})[0]


@SLOW
def test_stochastic_rounding_trains_and_is_nearest_when_judged() -> None:
    made, _ = fake(dict.fromkeys(INNER, 3), {}, WeightFormat(stochastic=True))
    images = torch.randn(8, 1, 16, 16)
    made.module.train()
    with torch.no_grad():
        torch.manual_seed(0)
        one = made.module(images)
        other = made.module(images)
        torch.manual_seed(0)
        again = made.module(images)
    assert not torch.equal(one, other)
    assert torch.equal(one, again), "what is drawn follows torch's seed, which the loop sets in every step"
    made.module.eval()
    with torch.no_grad():
        assert torch.equal(made.module(images), made.module(images))


@SLOW
def test_what_points_lose_as_integers() -> None:
    made, network = fake({}, dict.fromkeys(INNER, 4))
    cost = made.projection_db()
    assert cost is not None
    signal = noise = 0.0
    limit = 2 ** (made.rules.weight_bits - 1) - 1
    for name in INNER:
        book = Codebook(network.get_parameter(name).detach(), 4, None)
        codes, points = book.assign(network.get_parameter(name).detach())
        for point, count in enumerate(torch.bincount(codes.flatten(), minlength=4).tolist()):
            value, unit = float(points[point]), float(points[codes.unique()].abs().max()) / limit
            signal += count * value**2
            noise += count * (round(value / unit) * unit - value) ** 2
    assert cost == pytest.approx(10 * math.log10(signal / noise), rel=1e-3)
    assert cost > 30
    assert fake(dict.fromkeys(INNER, 3), {})[0].projection_db() is None


@SLOW
def test_signs_go_into_the_convolutions() -> None:
    _, network = fake({}, {})
    images = torch.randn(8, 1, 16, 16)
    with torch.inference_mode():
        before = network(images)
        make_scales_positive(network)
        assert torch.allclose(network(images), before, atol=1e-5)
    assert all(bool((m.weight >= 0).all()) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


@SLOW
def test_bits_go_where_they_are_missed() -> None:
    _, network = fake({}, {})
    images = torch.randn(32, 1, 16, 16)
    names = inner_weights(network, convolutions=False)
    assert names == tuple(INNER)
    sizes = {name: dict(network.named_parameters())[name].numel() for name in names}
    whole = sum(sizes.values())
    for learned in (False, True):
        losses = rounding_losses(network, names, images, learned=learned)
        assert bits_within(losses, sizes, whole // 4 - 1) is None
        assert set((bits_within(losses, sizes, whole // 4 + len(names)) or {}).values()) == {2}
        assert set((bits_within(losses, sizes, whole) or {}).values()) == {8}
        some = bits_within(losses, sizes, 7 * whole // 16)
        assert some is not None
        assert sum(sizes[name] * bits / 8 for name, bits in some.items()) <= 7 * whole // 16
        assert len(set(some.values())) > 1

    def loss(number: int) -> torch.Tensor:
        torch.manual_seed(number)
        return network(torch.randn(16, 1, 16, 16)).square().mean()

    points = points_by_gradient(network, names, 16, loss)
    assert sum(points.values()) == 16 * len(names)
    assert min(points.values()) >= 8


# -- chosen under a budget, and in a run ----------------------------------------------------------


@SLOW
@pytest.mark.parametrize("learned", [pytest.param(False, marks=SLOW), True])
def test_levels_are_chosen_to_fit(learned: bool) -> None:
    made, network = fake({}, {})
    if learned:
        make_scales_positive(network)
    images = torch.randn(64, 1, 16, 16)

    def chosen(limit: int | None, bits: int = 8) -> BitAllocation:
        asked = WeightQuantSpec(bits, 8, learned, limit)
        return allocate(asked, network, made.rules, made.signature, made.sizes, 21, images)

    assert chosen(None) == BitAllocation({}, {})
    some = chosen(None, 3)
    assert (some.points if learned else some.bits) == dict.fromkeys(INNER, 8 if learned else 3)
    assert chosen(10**6) == BitAllocation({}, {})
    fitted = chosen(26_000)
    assert len(set((fitted.points or fitted.bits).values())) > 1 or len(fitted.points or fitted.bits) < len(INNER)
    with pytest.raises(BudgetMissed, match="2 bits a weight the file takes"):
        chosen(9_000)


@SLOW
@pytest.mark.parametrize(
    ("learned", "bucket"),
    [pytest.param(False, None, marks=SLOW), (True, 256)],
)
def test_indices_for_float_kernels_fit_too(learned: bool, bucket: int | None, tmp_path: Path) -> None:
    made, network = fake({}, {})
    asked = WeightQuantSpec(8, 8, learned, 26_000, format=WeightFormat(False, bucket))
    levels = allocate(asked, network, made.rules, made.signature, made.sizes, 21, torch.randn(64, 1, 16, 16))
    again = FakeQuantised(network, made.rules, made.signature, made.sizes, 21, [], levels)
    _, graph = again.lowered(network)
    assert save(graph, tmp_path / "model.onnx", "fp32").path.stat().st_size <= 26_000
    assert set(levels.bits) | set(levels.points) == {*EDGES, *INNER}


@SLOW
def test_points_are_redistributed_where_that_is_asked() -> None:
    made, network = fake({}, {})
    make_scales_positive(network)

    def loss(number: int) -> torch.Tensor:
        return network(torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(number))).square().mean()

    asked = WeightQuantSpec(4, 8, learned=True, redistributed=True)
    levels = allocate(asked, network, made.rules, made.signature, made.sizes, 21, torch.empty(0), loss)
    assert levels.points == points_by_gradient(network, tuple(INNER), 16, loss)
    assert len(set(levels.points.values())) > 1


PROFILE = """
[[pass]]
kind = "lower"
[[pass]]
kind = "quantize"
{settings}
[[pass]]
kind = "build"
[[pass]]
kind = "measure"
blocks = 5
inferences = 1
[[pass]]
kind = "verify"
samples = 32
"""


@SLOW
@pytest.mark.parametrize(
    ("settings", "more", "most", "drop"),
    [
        ('method = "ptq"\nbits = 4', (), 80_000, 0.1),
        ('method = "qat"\nbits = 3\ndistill = { steps = 4, views = 1 }', (), 72_000, 0.1),
        (
            'method = "codebook"\nbudget = ["bytes=1%"]\ndistill = { steps = 4, views = 1, lr = 0.01 }',
            ("--budget", "bytes=60k"),
            60_000,
            0.1,
        ),
    ],
    ids=["ptq", "qat", "codebook"],
)
def test_fewer_bits_in_a_run(
    compress: Any, tmp_path: Path, settings: str, more: tuple[str, ...], most: int, drop: float
) -> None:
    (tmp_path / "p.toml").write_text(PROFILE.format(settings=settings))
    teacher = TEACHER
    said = ("--data", "builtin:digits", "--target", "host", "--profile", tmp_path / "p.toml", "-o", tmp_path / "o")
    done = compress("run", teacher, *said, *more, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["result"]["bytes"] <= most
    assert report["result"]["metric"]["value"] >= report["teacher"]["metric"]["value"] - drop
    metrics = next(each["metrics"] for each in report["passes"] if each["kind"] == "quantize")
    assert metrics["packed"]
    assert set(metrics["packed"].values()) <= {2, 3, 4, 5, 6}


@pytest.mark.parametrize(("bits", "opset"), [(2, 25), (3, 21), (4, 21), (8, 21)])
def test_a_stored_model_comes_back(bits: int, opset: int, tmp_path: Path) -> None:
    graph = quantised(bits)
    graph.graph.opset_imports[""] = opset
    pack_weights(graph)
    model = save(graph, tmp_path / "model.onnx", "int8").path.read_bytes()
    packed = stored(model)
    assert runner.unpack(packed) == model
    assert len(packed) < 0.9 * len(model)
    for damaged in (packed[:-40], packed[:30], b"", model, packed[:200] + b"\0" * 50 + packed[250:]):
        made = unpacked(damaged)
        assert made != model
        assert isinstance(made, bytes) or made.startswith("it ")


def unpacked(content: bytes) -> bytes | str:
    try:
        return runner.unpack(content)
    except ValueError as error:
        return str(error)


@SLOW
def test_a_bundle_that_was_sent_packed(compress: Any, tmp_path: Path) -> None:
    profile = PROFILE.format(settings='method = "ptq"\nbits = 4') + "packed = true\n"
    (tmp_path / "p.toml").write_text(profile)
    teacher = TEACHER
    said = ("--data", "builtin:digits", "--target", "host", "--profile", tmp_path / "p.toml", "-o", tmp_path / "o")
    done = compress("run", teacher, *said, "--json")
    assert done.code == 0, done.err
    verify = next(each["metrics"] for each in json.loads(done.out)["passes"] if each["kind"] == "verify")
    assert verify["packed_bytes"] < 0.85 * verify["packed_bytes_before"]
    bundle = tmp_path / "o" / "bundle"
    model = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").unlink()
    ran = subprocess.run([sys.executable, bundle / "run.py", "--verify"], capture_output=True, text=True, check=False)
    assert ran.stdout == "verified\n", ran.stderr
    assert (bundle / "model.onnx").read_bytes() == model
    (bundle / "model.onnx").unlink()
    assert runner.Model(bundle).manifest["opset"] == 21, "an application need not unpack it either"
    (bundle / "model.onnx").unlink()
    (bundle / "model.packed").write_bytes((bundle / "model.packed").read_bytes()[:-9])
    ran = subprocess.run([sys.executable, bundle / "run.py", "--unpack"], capture_output=True, text=True, check=False)
    assert ran.returncode == 6
    assert ran.stderr.startswith("error: model.packed: it ")
    assert sorted(path.name for path in bundle.iterdir()) == ["golden.npz", "manifest.json", "model.packed", "run.py"]
