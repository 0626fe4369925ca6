"""IMDN-style heads on every family's body: as networks, as a search space, in integers, as a user swaps them."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from places import TEACHER
from sklearn.datasets import load_digits
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, UsageError, image_signature
from compressor.lowering.export import export
from compressor.lowering.placement import Placement
from compressor.lowering.save import save
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.common.cost import cost
from compressor.models.common.head import ImdnHead
from compressor.models.common.headed import Headed, architecture, body, settings
from compressor.models.common.imdb import ContrastAttention
from compressor.models.common.layers import count, layers, parts
from compressor.models.common.space import Space
from compressor.plan import with_machine_quirks
from compressor.quant.fake_quant import FakeQuantised
from compressor.quant.positive_scales import make_scales_positive
from compressor.quant.ranges import activation_ranges
from compressor.scores.common.probe import Batch, Probe, View, gaussian
from compressor.scores.width import Width
from compressor.train.inherit import inherit
from compressor.train.learner import FeatureExtractor

SMALL, DIGITS = InputSpec(3, 32, 32), InputSpec(1, 16, 16)
TARGET = with_machine_quirks(catalog.find_target("host"))
BACKEND = catalog.find("backends", TARGET.backend)()
BODIES: dict[str, dict[str, Any]] = {
    "cifar-resnet": {"depths": [1, 2, 1], "widths": [8, 16, 40]},
    "mobilenetv2": {"blocks": [[1, 16, 1, 1], [6, 24, 2, 2], [4, 40, 1, 2]], "last": 96},
    "resnet": {"block": "bottleneck", "depths": [1, 1, 1, 1], "widths": [16, 8, 24, 32]},
    "shufflenetv2": {"out_channels": [24, 48, 96, 128], "num_blocks": [1, 1, 1]},
}
HEADS: list[dict[str, Any]] = [
    {"width": 32, "blocks": 1},
    {"width": 24, "blocks": 2, "distil": 8, "attention": False},
]
WALKED = 10

every_body = pytest.mark.parametrize("name", list(BODIES))
every_head = pytest.mark.parametrize("head", HEADS, ids=["attention", "none"])


def quiet(message: str, done: int, total: int) -> None: ...


def space(name: str, heads: Any = "any") -> Space:
    return Space(catalog.find("models", name), heads)


def headed(name: str, head: dict[str, Any], input: InputSpec = SMALL, outputs: int = 7) -> Any:
    return space(name).decode({**BODIES[name], "head": head}, input, outputs)


def dense(task: Any = "dense") -> Headed:
    return Headed(CifarResNet((1, 1, 1), (8, 16, 24), channels=1), ImdnHead(16, 1, 4, task=task))


# -- networks ---------------------------------------------------------------------------------


@every_head
@every_body
def test_a_headed_network_keeps_the_contract(name: str, head: dict[str, Any]) -> None:
    torch.manual_seed(0)
    arch = headed(name, head)
    network = arch.build().eval()
    assert (arch.channels, arch.outputs) == (3, 7)
    images = torch.randn(2, *SMALL.shape)
    with torch.no_grad():
        logits = network(images)
        chained = images
        for part in network.parts():
            chained = part(chained)
        view = View.of(network, images)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, chained)
    assert count(arch, SMALL) == cost(network, SMALL)
    assert count(arch, SMALL).params == sum(p.numel() for p in network.parameters())
    assert view.last.shape[1] == view.pooled.shape[1] == head["width"]
    stages = FeatureExtractor(network, features=True)(images).features
    assert torch.equal(stages[-1], view.last)
    assert len(stages) == len(body(network).stages)
    sizes = [tuple(stage.shape[2:]) for stage in stages]
    assert all(b == (-(-a[0] // 2), -(-a[1] // 2)) for a, b in itertools.pairwise(sizes))
    assert {part.description for part in parts(arch, SMALL)} != {
        part.description for part in parts(arch.backbone, SMALL)
    }


@every_body
def test_the_body_runs_as_it_does_in_its_own_network(name: str) -> None:
    torch.manual_seed(1)
    arch = headed(name, HEADS[0])
    network, own = arch.build().eval(), arch.backbone.build().eval()
    maps: list[Tensor] = []
    own.avgpool.register_forward_pre_hook(lambda _, given: maps.append(given[0]))
    shared = {k: v for k, v in own.state_dict().items() if k in network.backbone.state_dict()}
    network.backbone.load_state_dict(shared)
    images = torch.randn(2, *SMALL.shape)
    with torch.no_grad():
        own(images)
        assert torch.equal(network.backbone.features(images), maps[0])
    assert len(own.state_dict()) - len(shared) == 2  # the classifier's own


@pytest.mark.parametrize("seed", range(3))
def test_untrained_scores_of_deep_heads_are_finite(seed: int) -> None:
    arch = headed("cifar-resnet", {"width": 64, "blocks": 6})
    network = gaussian(arch.build(), seed)
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(8, *SMALL.shape))).all()


@every_head
@every_body
def test_encoding_and_settings_come_back(name: str, head: dict[str, Any]) -> None:
    arch = headed(name, head)
    encoding = json.loads(json.dumps(arch.encode()))
    assert encoding["head"] == head
    assert space(name).decode(encoding, SMALL, 7) == arch
    told = json.loads(json.dumps(settings(arch)))
    assert architecture(name, told) == arch
    assert architecture(name, json.loads(json.dumps(settings(arch.backbone)))) == arch.backbone
    hash(arch)


BAD: list[tuple[Any, str]] = [
    ({}, "lacks 'width'"),
    (None, "an architecture is no NoneType"),
    ([32, 1], "an architecture is no list"),
    ({"width": 32}, "lacks 'blocks'"),
    ({"width": 32, "blocks": 1, "depth": 1}, "unknown key of a head architecture: 'depth'"),
    ({"width": 32, "blocks": 0}, "blocks has 0"),
    ({"width": 32, "blocks": 257}, "blocks has 257"),
    ({"width": 20_000, "blocks": 1}, "width has 20000"),
    ({"width": 1, "blocks": 1}, "leaves none to pass on"),
    ({"width": 32, "blocks": 1, "distil": 32}, "distil = 32 of 32 channels leaves none"),
    ({"width": 32, "blocks": 1, "distil": True}, "distil has True"),
    ({"width": 32, "blocks": 1, "attention": 1}, "attention is no true or false"),
    ({"width": 32, "blocks": 1, "task": "dense"}, "unknown key of a head architecture: 'task'"),
]


@pytest.mark.parametrize(("head", "message"), BAD, ids=str)
def test_a_bad_head_is_refused_with_its_mend(head: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        space("cifar-resnet").decode({**BODIES["cifar-resnet"], "head": head}, SMALL, 10)
    assert caught.value.hint


def test_what_is_no_classifier_takes_no_head() -> None:
    class Bare:
        channels, outputs = 3, 2

        def build(self) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 2, 1))

    with pytest.raises(UsageError, match="Bare has no classifier"):
        Headed(Bare(), ImdnHead()).build()


def test_no_encoding_describes_a_dense_head() -> None:
    with pytest.raises(UsageError, match="no encoding describes"):
        dense().encode()
    assert architecture("cifar-resnet", json.loads(json.dumps(settings(dense())))) == dense()


@every_body
def test_the_body_inherits_from_a_teacher_with_any_head(name: str) -> None:
    arch = headed(name, HEADS[0])
    plain, other = arch.backbone.build(), headed(name, HEADS[1]).build()
    for teacher in (plain, other):
        student = arch.build()
        head = student.linear.weight.clone()
        share = inherit(student, teacher)
        taken = sum(p.numel() for p in student.backbone.parameters())
        assert share == pytest.approx(taken / sum(p.numel() for p in student.parameters()))
        for key, tensor in student.backbone.state_dict().items():
            assert torch.equal(tensor, body(teacher).state_dict()[key])
        assert torch.equal(student.linear.weight, head)


# -- the space --------------------------------------------------------------------------------


@every_body
def test_without_a_choice_of_heads_a_space_is_its_family(name: str) -> None:
    family = catalog.find("models", name)
    seeds = space(name, "plain").seeds(SMALL, 10, 8)
    assert seeds == family.seeds(SMALL, 10, 8)
    one, other = random.Random(3), random.Random(3)
    arch = ours = seeds[2]
    for _ in range(20):
        arch, ours = arch.mutated(one, 8), space(name, "plain").step(ours, other, 8)
    assert arch == ours


@pytest.mark.parametrize("multiple", [8, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("heads", ["imdn", "any"])
@every_body
def test_steps_stay_in_the_space_and_on_the_grid(name: str, heads: Any, multiple: int) -> None:
    members = space(name, heads)
    generator, met = random.Random(5), list[Any]()
    arch = members.seeds(SMALL, 10, multiple)[0]
    for _ in range(WALKED):
        child = members.step(arch, generator, multiple)
        assert child != arch
        assert members.decode(child.encode(), SMALL, 10) == child
        met.append(arch := child)
    assert heads == "any" or all(type(each) is Headed for each in met)
    for each in met:
        if isinstance(each, Headed):
            own = layers(each, SMALL)[len(layers(each.backbone, SMALL)) - 1 : -1]
            assert all(layer.outputs % multiple == 0 for layer in own if layer.output_size != (1, 1))


def test_steps_change_the_kind_of_head_where_there_is_a_choice() -> None:
    generator, members, kinds = random.Random(0), space("cifar-resnet"), []
    arch = members.seeds(SMALL, 10, 8)[0]
    for _ in range(100):
        arch = members.step(arch, generator, 8)
        kinds.append(type(arch) is Headed)
    assert 10 < sum(kinds) < 90


def test_every_setting_of_a_head_is_reached() -> None:
    generator, head, met = random.Random(0), ImdnHead.smallest(8), set[Any]()
    for _ in range(400):
        head = head.mutated(generator, 8)
        met |= {("width", head.width), ("blocks", head.blocks), ("distil", head.distil), ("attention", head.attention)}
    assert {blocks for kind, blocks in met if kind == "blocks"} == {1, 2, 3, 4, 5, 6}
    assert {("attention", True), ("attention", False)} <= met
    assert len(met) > 30


def test_seeds_of_any_head_hold_both_kinds_smallest_first() -> None:
    seeds = space("cifar-resnet").seeds(SMALL, 10, 8)
    assert [type(each) is Headed for each in seeds[:4]] == [False, True, False, True]
    assert all(type(each) is Headed for each in space("cifar-resnet", "imdn").seeds(SMALL, 10, 8))


def test_an_attention_is_no_resolution() -> None:
    images = torch.zeros(2, *SMALL.shape)
    scored = [
        Width()(Probe(headed("cifar-resnet", {**HEADS[0], "attention": on}), SMALL, Batch(images, images), None))
        for on in (True, False)
    ]
    assert scored[0] == scored[1]


# -- in integers ------------------------------------------------------------------------------


def batches(input: InputSpec, count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((8, *input.shape)).astype(np.float32) for _ in range(count)]


def settled(network: nn.Module, input: InputSpec) -> nn.Module:
    """With norms that have seen data."""
    network.train()
    with torch.no_grad():
        for batch in batches(input):
            network(torch.from_numpy(batch))
    return network.eval()


def opened(path: Path, *, exact: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """The network's output for a batch, on the runtime."""
    session = BACKEND.open(path, threads=1, exact=exact)
    return lambda batch: session({"input": batch})["output"]


def lowered(
    network: nn.Module, input: InputSpec, calibration: list[np.ndarray], folder: Path
) -> tuple[ir.Model, Any, Any]:
    """The quantised graph, and the outputs of float and integers on the runtime."""
    graph = export(network, *image_signature(input, 10), TARGET.opset)
    exact = save(graph, folder / "float.onnx", "fp32")
    placement = Placement(graph, BACKEND.rules(TARGET))
    feeds = [{"input": batch} for batch in calibration]
    placement.apply(activation_ranges(graph, placement.tensors, feeds, "minmax", quiet))
    integers = save(graph, folder / "model.onnx", "int8", exact)
    return graph, opened(exact.path), opened(integers.path)


def decibels(signal: Any, other: Any) -> float:
    return 10 * math.log10(np.mean(signal**2) / np.mean((signal - other) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar-resnet", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_an_int8_head_keeps_its_statistics_in_float(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = settled(headed(name, HEADS[0]).build(), SMALL)
    graph, exact, integers = lowered(network, SMALL, batches(SMALL), tmp_path)
    kinds = Counter(node.op_type for node in graph.graph)
    assert "BatchNormalization" not in kinds
    (subtract,) = [node for node in graph.graph if node.op_type == "Sub"]
    (root,) = [node for node in graph.graph if node.op_type == "Sqrt"]
    mean = subtract.inputs[1].producer()
    assert mean.op_type == "GlobalAveragePool"
    made, seen = [], root
    while seen is not subtract:
        made.append(seen.op_type)
        seen = seen.inputs[0].producer()
    assert made == ["Sqrt", "GlobalAveragePool", "Mul"]  # and no quantiser between them
    (add,) = [use.node for use in root.outputs[0].uses()]
    assert add.op_type == "Add"
    assert {value.producer() for value in add.inputs} == {root, mean}
    assert [use.node.op_type for use in add.outputs[0].uses()] == ["QuantizeLinear"]
    batch = batches(SMALL)[0]
    with torch.inference_mode():
        torch_out = network(torch.from_numpy(batch)).numpy()
    assert np.abs(torch_out - exact(batch)).max() < 1e-4
    assert decibels(exact(batch), integers(batch)) > 12


@pytest.mark.slow
def test_a_pool_before_a_classifier_stays_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = settled(CifarResNet((1, 1, 1), (8, 8, 8)).build(), SMALL)
    graph, _, _ = lowered(network, SMALL, batches(SMALL), tmp_path)
    (pool,) = [node for node in graph.graph if node.op_type == "GlobalAveragePool"]
    assert pool.inputs[0].producer().op_type == "DequantizeLinear"
    assert [use.node.op_type for use in pool.outputs[0].uses()] == ["QuantizeLinear"]


@pytest.mark.slow
@pytest.mark.parametrize("head", [HEADS[0], pytest.param(HEADS[1], marks=pytest.mark.slow)], ids=["attention", "none"])
def test_quantisers_that_train_are_where_the_graphs_are(head: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = settled(headed("cifar-resnet", head).build(), SMALL)
    make_scales_positive(network)
    rules = BACKEND.rules(TARGET)
    images = [torch.from_numpy(batch) for batch in batches(SMALL)]
    fake = FakeQuantised(network, rules, *image_signature(SMALL, 10), TARGET.opset, images)
    fake.module.train()
    fake.module(images[0]).square().mean().backward()
    trained = [p for name, p in fake.module.named_parameters() if name.endswith("weight")]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    fake.recalibrate(images)
    network.load_state_dict(fake.weights(network))
    exact, graph = fake.lowered(network.eval())
    saved = save(graph, tmp_path / "model.onnx", "int8", save(exact, tmp_path / "float.onnx", "fp32"))
    session = opened(saved.path, exact=True)
    with torch.inference_mode():
        expected = fake.module(images[0]).numpy()
    assert decibels(expected, session(images[0].numpy())) > 20


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_attention_has_a_gradient_where_nothing_varies(constant: float) -> None:
    attention = ContrastAttention(16)
    x = torch.full((2, 16, 4, 4), constant, requires_grad=True)
    attention(x).sum().backward()
    assert torch.isfinite(x.grad).all()


# -- dense prediction -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (9, 23), (1, 1)], ids=str)
def test_a_dense_head_scores_every_place(size: tuple[int, int]) -> None:
    network = dense().build().eval()
    with torch.no_grad():
        assert network(torch.randn(2, 1, *size)).shape == (2, 10, *size)


def mosaics(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four digits each, 2 x 2 of 16 x 16 pixels, and of every place which digit it is of."""
    digits = load_digits()
    drawn = np.random.default_rng(seed).integers(0, 1500, (count, 2, 2)) if seed else None
    rows = drawn if drawn is not None else np.arange(1500, 1500 + 4 * 64).reshape(64, 2, 2)
    images = torch.from_numpy(digits.images[rows] / 8 - 1).float()  # N x 2 x 2 x 8 x 8
    images = images.repeat_interleave(2, 3).repeat_interleave(2, 4).permute(0, 1, 3, 2, 4).reshape(-1, 1, 32, 32)
    labels = torch.from_numpy(digits.target[rows]).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return images, labels


@pytest.mark.slow
def test_a_dense_head_learns_and_ships(tmp_path: Path) -> None:
    torch.manual_seed(0)
    input = InputSpec(1, 32, 32)
    network = dense().build().train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(70):
        images, labels = mosaics(32, 1 + step)
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    images, labels = mosaics(0, 0)
    with torch.no_grad():
        scores = network(images)
    assert (scores.argmax(1) == labels).float().mean() > 0.6  # a guess is right once in ten
    calibration = [mosaics(8, 500 + i)[0].numpy() for i in range(8)]
    _, exact, integers = lowered(network, input, calibration, tmp_path)
    assert np.abs(exact(images.numpy()) - scores.numpy()).max() < 1e-3
    answers = torch.from_numpy(integers(images.numpy())).argmax(1)
    assert (answers == scores.argmax(1)).float().mean() > 0.9


# -- as a user runs it ------------------------------------------------------------------------


def test_rank_takes_heads(compress: Callable[..., Any], tmp_path: Path) -> None:
    listed = [{"depths": [1, 1, 1]}, {"depths": [1, 1, 1], "head": HEADS[0]}, {"depths": [1, 1, 1], "head": HEADS[1]}]
    (tmp_path / "archs.json").write_text(json.dumps(listed))
    common = ("rank", tmp_path / "archs.json", "--space", "cifar-resnet", "--data", "builtin:digits")
    ran = compress(*common, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [row["arch"] for row in rows] == listed
    assert len({row["params"] for row in rows}) == 3
    (tmp_path / "archs.json").write_text(json.dumps([{"depths": [1, 1, 1], "head": {"width": 32}}]))
    bad = compress(*common)
    assert bad.code == 2
    assert "entry 0: head: the architecture lacks 'blocks'" in bad.err


PROFILE = """
[[pass]]
kind = "head"
width = 16
halving_minutes = {minutes}

[[pass]]
kind = "distill"
steps = 40
minutes = 1.0

[[pass]]
kind = "lower"

[[pass]]
kind = "quantize"
leave_float = []

[[pass]]
kind = "build"

[[pass]]
kind = "measure"
blocks = 5
inferences = 2

[[pass]]
kind = "verify"
"""


@pytest.mark.slow
def test_a_swapped_head_goes_all_the_way(compress: Callable[..., Any], tmp_path: Path) -> None:
    profile = tmp_path / "headed.toml"
    profile.write_text(PROFILE.format(minutes=0.05))
    common = ("run", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", profile)
    ran = compress(*common, "-o", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    swapped, *_, measured, verified = report["passes"]
    told = swapped["metrics"]
    assert json.loads(told["student"])["head"] == {"width": 16, "blocks": 1}
    for figure in ("params", "macs", "bytes", "ms", "top1"):
        assert told[f"{figure}_before"] > 0
        assert told[figure] > 0
    assert told["params_before"] == report["teacher"]["params"]
    assert told["params"] == report["result"]["params"]
    assert measured["metrics"]["result"]["value"] > 0.5
    assert verified["metrics"]["ladder"][0]["relative_error"] < 1e-3
    manifest = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())
    assert manifest["provenance"]["settings"]["head"]["width"] == 16
    assert compress("verify", tmp_path / "run" / "bundle").code == 0
    resolved = tmp_path / "run" / "resolved.toml"
    plan = tomllib.loads(resolved.read_text())
    assert plan["pass"][0]["halving_steps"] == [told["halving_steps"]]


@pytest.mark.slow
def test_back_to_the_plain_head(compress: Callable[..., Any], tmp_path: Path) -> None:
    profile = tmp_path / "there-and-back.toml"
    swap = '[[pass]]\nkind = "head"\nhalving_minutes = 0.0\n'
    profile.write_text(f'{swap}{swap}style = "plain"\n')
    common = ("run", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", profile)
    ran = compress(*common, "-o", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    there, back = (record["metrics"] for record in json.loads(ran.out)["passes"])
    assert (there["params_before"], there["params"]) == (back["params"], back["params_before"])
    assert "top1" not in there
    profile.write_text(f"{swap}{swap}")
    again = compress(*common, "-o", tmp_path / "again")
    assert again.code == 2
    assert "has that head already" in again.err


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("width=1", "head.width = 1: give 2 to 16384"),
        ("width=20000", "head.width = 20000: give 2 to 16384"),
        ("blocks=0", "head.blocks = 0: give 1 to 256"),
        ("distil=16", "head.distil = 16: give 1 to 15"),
        ("halving_minutes=-1", "head.halving_minutes = -1.0"),
        ("halving_minutes=1", "head.halving_minutes needs training data"),
        ("style=imd", "did you mean 'imdn'"),
        ("attention=2", "attention = 2 is not of the right kind"),
        ("precision=fp16", "unknown value in"),
    ],
)
def test_a_bad_swap_is_refused(compress: Callable[..., Any], tmp_path: Path, setting: str, says: str) -> None:
    profile = tmp_path / "headed.toml"
    profile.write_text('[[pass]]\nkind = "head"\nwidth = 16\nhalving_minutes = 0.0\n')
    teacher = tmp_path / "teacher.pt"  # away from the compress.toml that names its data
    shutil.copy(TEACHER, teacher)
    ran = compress(
        "run", teacher, "--target", "x86-vnni", "--profile", profile, "--set", f"head.{setting}", "-o", tmp_path / "run"
    )
    assert ran.code == 2
    assert says in " ".join(ran.err.split()).replace(" hint:", ":"), ran.err


@pytest.mark.slow
def test_a_search_takes_heads(compress: Callable[..., Any], tmp_path: Path) -> None:
    common = ("run", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", "search")
    quick = ("search.evaluations=10", "search.finalists=2", "search.inits=1", "search.head=imdn")
    said = tuple(itertools.chain(*(("--set", each) for each in quick)))
    ran = compress(*common, *said, "--budget", "params=60%", "-o", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    (record,) = report["passes"]
    assert record["metrics"]["head"] == record["settings"]["head"] == "imdn"
    assert all("head" in json.loads(each["student"]) for each in record["metrics"]["finalists"])
    assert report["result"]["params"] == record["metrics"]["params"]
    assert tomllib.loads((tmp_path / "run" / "resolved.toml").read_text())["pass"][0]["head"] == "imdn"
    bad = compress(*common, "--set", "search.head=imdb", "-o", tmp_path / "bad")
    assert bad.code == 2
    assert "did you mean 'imdn'" in bad.err
