"""Ranking, evolution, latency table, and the search as a user runs it."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from places import TEACHER

from compressor import catalog
from compressor.core import InputSpec, UsageError
from compressor.data import load_data
from compressor.lowering.export import export_each
from compressor.models.common.layers import count, parts
from compressor.models.common.space import Space
from compressor.passes.search import Search
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.search.batch import of_noise, of_split
from compressor.search.branch import Branch, branches
from compressor.search.deployed import integer_ends, quantised
from compressor.search.evolution import Candidate, evolve, front, order
from compressor.search.latency import LatencyTable
from compressor.search.rank import rank
from compressor.search.ranking import WEIGHTS, blend
from compressor.search.scoring import Scoring

INPUT = InputSpec(1, 8, 8)
RESNET = catalog.find("models", "cifar-resnet")


def quiet(message: str, done: int, total: int) -> None: ...


def no_memo(name: str, key: object, compute):
    return compute()


# -- ranking ----------------------------------------------------------------------------------


def test_the_default_names_scores_that_exist() -> None:
    assert set(WEIGHTS) <= set(catalog.names("scores"))


def test_blend_is_the_weighted_mean_of_ranks() -> None:
    scores = {"a": [1.0, 5.0, 3.0], "b": [-1e-9, -2e-9, -3e-9], "c": [7.0, 7.0, 0.0]}
    expected = [(2 * 1 + 3 + 2.5) / 4 / 3, (2 * 3 + 2 + 2.5) / 4 / 3, (2 * 2 + 1 + 1) / 4 / 3]
    assert blend(scores, {"a": 2, "b": 1, "c": 1}) == pytest.approx(expected)


def test_blend_knows_no_scale() -> None:
    generator = np.random.default_rng(0)
    scores = {name: generator.standard_normal(20) for name in WEIGHTS}
    stretched = {name: np.exp(3 * values) for name, values in scores.items()}
    assert np.array_equal(blend(scores), blend(stretched))


def test_blend_leaves_out_what_is_not_there_and_ranks_nan_lowest() -> None:
    assert blend({"a": [1, 2]}, {"a": 1, "z": 9}).tolist() == [0.5, 1]
    assert blend({"a": [float("nan"), 2, -5]}, {"a": 1}).argsort().tolist() == [0, 2, 1]
    assert blend({"a": [float("-inf"), 2]}, {"a": 1}).tolist() == [0.5, 1]


# -- evolution --------------------------------------------------------------------------------


def judged(most: int):
    def judge(architectures: Sequence[object]) -> list[Candidate | None]:
        costs = [count(a, INPUT) for a in architectures]
        return [
            Candidate(a, c.params, c.macs, c.macs / 1e6, {}) if c.params <= most else None
            for a, c in zip(architectures, costs, strict=True)
        ]

    return judge


def by_width(architectures: Sequence[object]) -> list[dict[str, float]]:
    return [
        {"stage-macs": float(sum(a.widths)), "effective-rank": float(count(a, INPUT).params)} for a in architectures
    ]


def evolved(seed: int = 0, most: int = 100_000, evaluations: int = 80, score=by_width) -> list[Candidate]:
    return evolve(
        RESNET.seeds(INPUT, 10, 8),
        judged(most),
        score,
        step=partial(Space(RESNET).step, multiple=8),
        evaluations=evaluations,
        population=12,
        children=8,
        seed=seed,
        progress=quiet,
    )


def test_every_candidate_obeys_and_none_is_scored_twice() -> None:
    scored: list[object] = []

    def counting(architectures: Sequence[object]) -> list[dict[str, float]]:
        scored.extend(architectures)
        return by_width(architectures)

    found = evolved(score=counting)
    assert len(found) == len(scored) == len(set(scored)) == 80
    assert all(c.params <= 100_000 for c in found)
    assert all(width % 8 == 0 for c in found for width in c.architecture.widths)


@pytest.mark.slow
def test_the_same_seed_finds_the_same() -> None:
    assert evolved(3) == evolved(3)
    assert evolved(3) != evolved(4)


def test_evolution_beats_a_random_walk() -> None:
    generator, walk = random.Random(0), [RESNET.seeds(INPUT, 10, 8)[0]]
    while len(walk) < 80:
        walk.append(walk[-1].mutated(generator, 8))
    allowed = [c for c in judged(100_000)(walk) if c is not None]
    assert max(sum(c.architecture.widths) for c in evolved()) > max(sum(c.architecture.widths) for c in allowed)


def test_nothing_obeys() -> None:
    assert evolved(most=10) == []


def test_a_space_that_is_used_up_ends_the_search() -> None:
    smallest = count(RESNET.seeds(INPUT, 10, 8)[0], INPUT).params
    assert 1 <= len(evolved(most=smallest, evaluations=1000)) < 5


def test_the_front_holds_what_nothing_beats() -> None:
    found = evolved()
    kept = front(found)
    assert kept[0] == found[order(found)[0]]
    assert [c.latency for c in kept] == sorted((c.latency for c in kept), reverse=True)
    ranks = {id(found[index]): place for place, index in enumerate(order(found))}
    for each in found:
        assert any(k.latency <= each.latency and ranks[id(k)] <= ranks[id(each)] for k in kept)


# -- latency ----------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> LatencyTable:
    return LatencyTable(with_machine_quirks(catalog.find_target("host")), "int8", tmp_path, no_memo)


@pytest.mark.parametrize("space", catalog.names("models"))
def test_parts_make_the_network(space: str) -> None:
    input = InputSpec(3, 32, 32)
    for architecture in catalog.find("models", space).seeds(input, 10, 8)[:4]:
        network = architecture.build().eval()
        x = y = torch.randn(2, 3, 32, 32)
        for part, described in zip(network.parts(), parts(architecture, input), strict=True):
            assert described.shape == (1, *y.shape[1:])
            y = part(y)
        if space == "imdn":  # its end is fed one block's map in place of all: at the same cost, another image
            assert network(x).shape == y.shape
        else:
            torch.testing.assert_close(network(x), y)


def test_parts_run_on_integers_between_them() -> None:
    target = with_machine_quirks(catalog.find_target("host"))
    network = RESNET.decode({"depths": [1, 1, 1]}, INPUT, 10).build().eval()
    (graph,) = export_each([(network.parts()[2], (1, 16, 8, 8))], target.opset)
    ended = integer_ends(quantised(graph, target, float_output=False))
    assert ended.graph.inputs[0].dtype == ir.DataType.UINT8
    assert ended.graph.outputs[0].dtype == ir.DataType.UINT8


@pytest.mark.slow
def test_a_table_times_each_part_once(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (RESNET.decode({"depths": [d, 1, 1], "widths": [16, 32, 64]}, INPUT, 10) for d in (1, 6))
    first, second = table.predict([small, large], INPUT, quiet)
    assert 0 < first < second
    monkeypatch.setattr(table, "_timed", lambda *_: pytest.fail("timed again"))
    assert table.predict([large], INPUT, quiet) == [second]


def test_a_table_is_kept(table: LatencyTable, tmp_path: Path) -> None:
    table.entries |= {"a": 1.5}
    table.write(tmp_path / "latency.json")
    other = LatencyTable(table.target, "int8", tmp_path, no_memo)
    other.read(tmp_path / "latency.json")
    assert other.entries == {"a": 1.5}
    with pytest.raises(UsageError, match="precision: int8 there, fp32 here"):
        LatencyTable(table.target, "fp32", tmp_path, no_memo).read(tmp_path / "latency.json")


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": {}}', '{"fingerprint": 3, "entries": {"a": "x"}}', "{"])
def test_a_table_that_is_none(table: LatencyTable, tmp_path: Path, content: str) -> None:
    (tmp_path / "latency.json").write_text(content)
    with pytest.raises(UsageError, match="latency table"):
        table.read(tmp_path / "latency.json")


# -- batches and processes --------------------------------------------------------------------


def test_a_batch_has_every_class_alike() -> None:
    train = load_data("builtin:digits").prepare(INPUT, parse_normalization("unit", 1), "input").train
    batch = of_split(train, 40, seed=1)
    assert batch.images.shape == (40, 1, 8, 8)
    assert torch.bincount(batch.labels).tolist() == [4] * 10
    assert torch.equal(of_split(train, 40, seed=1).images, batch.images)
    assert not torch.equal(of_split(train, 40, seed=2).images, batch.images)


@pytest.mark.slow
def test_processes_do_not_change_scores() -> None:
    students = RESNET.seeds(INPUT, 10, 8)[:6]
    batch = of_noise(INPUT, 10, 16, seed=0)
    names = ("width", "effective-rank", "nwot")
    one, two = (Scoring(names, INPUT, batch, None, (0, 1), processes)(students) for processes in (1, 2))
    assert one == two


# -- as a user runs it ------------------------------------------------------------------------

ARCHS = [{"depths": [1, 1, 1]}, {"depths": [2, 1, 1], "widths": [8, 16, 32]}, {"depths": [1, 3, 1]}]


def test_rank(compress, tmp_path: Path) -> None:
    (tmp_path / "archs.json").write_text(json.dumps(ARCHS))
    common = ("rank", tmp_path / "archs.json", "--space", "cifar-resnet", "--data", "builtin:digits")
    ran = compress(*common, "--teacher", TEACHER, "--score", "nwot", "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [row["arch"] for row in rows] == ARCHS
    for row, encoding in zip(rows, ARCHS, strict=True):
        cost = count(RESNET.decode(encoding, INPUT, 10), INPUT)
        assert (row["params"], row["macs"]) == (cost.params, cost.macs)
        assert set(row["scores"]) == {"default", *WEIGHTS, "nwot"}
    shown = compress(*common)
    assert shown.code == 0
    best = max(rows, key=lambda row: row["scores"]["stage-macs"])["arch"]
    assert json.dumps(best) in shown.out
    assert "relation" not in shown.out  # which needs a teacher


OWN = """
import torch
from torch import nn


def plain(width, depth=1, classes=10):
    convs = [nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()) for _ in range(depth)]
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    return nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), *convs, *pooled)


def no_network():
    return 3
"""


def test_rank_takes_networks_of_the_users_own(compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranked_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    names = ["ranked_nets:plain(8)", "ranked_nets:plain(32, depth=2)", "ranked_nets:plain(16, classes=7)"]
    archs = [*({"arch": name} for name in names), ARCHS[0]]
    Path("archs.json").write_text(json.dumps(archs))
    common = ("rank", "archs.json", "--data", "builtin:digits", "--input", "1x16x16", "--json")
    ran = compress(*common, "--space", "cifar-resnet", "--score", "nwot", "--score", "depth")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [row["arch"] for row in rows] == [*names, ARCHS[0]]
    assert [row["params"] for row in rows[:3]] == [80 + 584 + 90, 320 + 2 * 9248 + 330, 160 + 2320 + 119]
    assert rows[1]["macs"] == 64 * (9 * 32 + 2 * 9 * 32 * 32) + 320
    assert rows[1]["scores"]["default"] == max(row["scores"]["default"] for row in rows[:3])
    for entry, says in (
        ({"arch": "ranked_nets:no_network"}, "entry 0: ranked_nets:no_network returned int, not a torch.nn.Module"),
        ({"arch": "ranked_nets:gone"}, "entry 0: ranked_nets:gone failed: AttributeError"),
        ({"arch": "ranked_nets:plain(os)"}, "arguments are Python literals"),
        ({"depths": [1, 1, 1]}, "entry 0: it names no code of yours, and no space is named"),
    ):
        Path("archs.json").write_text(json.dumps([entry]))
        refused = compress(*common)
        assert refused.code == 2
        assert says in refused.err
    Path("archs.json").write_text(json.dumps([{"arch": names[0]}]))
    refused = compress(*common[:4], "--input", "3x16x16")
    assert refused.code == 2
    assert "does not run on inputs of 3x16x16" in refused.err


WIDE: dict[str, list[dict[str, Any]]] = {
    "mobilenetv2": [{"blocks": [[1, 16, 1, 1], [6, w, 1, 2], [6, w, 2, 2]], "last": 2 * w} for w in (576, 960, 1280)],
    "cifar-resnet": [{"depths": [1, 1, 1], "widths": [16, 64, 1024]}, {"depths": [1, 1, 24], "widths": [8, 8, 8]}],
    "resnet": [{"depths": [1, 1, 1, 1], "widths": [16, 32, 64, 768]}, {"depths": [1, 1, 9, 1], "widths": [8, 8, 8, 8]}],
    "shufflenetv2": [{"out_channels": [24, 48, 1536, 10_000], "num_blocks": [1, 1, 20]}],
    "imdn": [{"width": w, "blocks": n, "distil": 8, "attention": False, "scale": 2} for w, n in ((160, 1), (16, 18))],
}
"""Networks beyond the bounds of the search spaces."""


@pytest.mark.slow
@pytest.mark.parametrize("space", list(WIDE))
def test_bounds_of_a_search_space_are_no_bounds_of_rank(space: str, tmp_path: Path) -> None:
    (tmp_path / "archs.json").write_text(json.dumps(WIDE[space]))
    data = "builtin:photographs" if space == "imdn" else "builtin:digits"
    rows = rank(tmp_path / "archs.json", space, data, progress=quiet)
    assert [row["arch"] for row in rows] == WIDE[space]
    assert all(row["params"] > 0 and 0 < row["scores"]["default"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([[64, 4096, 1, 1]] * 2, "entry 1: the network has 2,"),
        ([[1, 48, 1, 1], [64, 16, 1, 1]], "entry 1: a feature map has 12,582,912 values"),
        ([[1, 20_000, 1, 1]], "entry 1: mobilenetv2: blocks[0], width, has 20000"),
    ],
)
def test_rank_refuses_what_would_fill_memory(tmp_path: Path, blocks: list[list[int]], says: str) -> None:
    listed = [{"blocks": each, "last": 8} for each in ([[1, 16, 1, 1]], blocks)]
    (tmp_path / "archs.json").write_text(json.dumps(listed))
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "data.npz", x=images, y=np.arange(10) % 2)
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        rank(tmp_path / "archs.json", "mobilenetv2", str(tmp_path / "data.npz"), progress=quiet)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        ("[", (), "is not JSON"),
        ("{}", (), "is not a list of encodings"),
        ("[]", (), "is not a list of encodings"),
        ('[{"depths": [1, 1, 1]}, {"depths": [1, 1]}]', (), "entry 1: cifar-resnet: depths has 2 items"),
        ('[{"depth": [1, 1, 1]}]', (), "entry 0"),
        ('[{"depths": [1, 1, 1]}]', ("--score", "nwott"), "did you mean 'nwot'"),
        ('[{"depths": [1, 1, 1]}]', ("--score", "relation"), "--teacher"),
        ('[{"depths": [1, 1, 1]}]', ("--space", "cifar-resnt"), "did you mean 'cifar-resnet'"),
    ],
)
def test_rank_refuses(compress, tmp_path: Path, content: str, more: tuple[str, ...], says: str) -> None:
    (tmp_path / "archs.json").write_text(content)
    space = () if "--space" in more else ("--space", "cifar-resnet")
    ran = compress("rank", tmp_path / "archs.json", "--data", "builtin:digits", *space, *more)
    assert ran.code == 2
    assert says in ran.err


@pytest.mark.slow
def test_branches_are_trained_then_folded_then_quantised(compress, tmp_path: Path) -> None:
    settings = {
        "search.space": "repvgg", "search.budget": ["params=20%"], "search.evaluations": 8, "search.halving_minutes": 0,
        "distill.steps": 12, "quantize.distill.steps": 8,
    }  # fmt: skip
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    ran = compress(
        "run", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", "balanced", *sets,
        "-o", tmp_path / "run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["result"]["precision"] == "int8"
    # Without batch normalisation, at the rate of networks that have it, the training in integers ended at chance.
    curves = {each["kind"]: each["metrics"].get("curve", []) for each in report["passes"]}
    assert 0 < max(point["lr"] for point in curves["quantize"]) <= 0.001
    graph = onnx.load(tmp_path / "run" / "bundle" / "model.onnx").graph
    assert all(w.dims[2:] == [3, 3] for w in graph.initializer if len(w.dims) == 4), "one 3x3 convolution a block"


@pytest.mark.slow
def test_search(compress, tmp_path: Path) -> None:
    common = ("run", TEACHER, "--target", "host", "--seed", "1")
    settings = ("--set", "search.evaluations=12", "--set", "search.finalists=2", "--set", "search.inits=1")
    budget = ("--budget", "params=50%", "--budget", "latency=90%")
    ran = compress(*common, "--profile", "search", *settings, *budget, "-o", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    (record,) = report["passes"]
    assert record["settings"]["budget"] == ["params=50%", "latency=90%"]
    metrics = record["metrics"]
    assert metrics["params"] <= report["teacher"]["params"] / 2
    assert metrics["latency_share"] <= 0.9
    assert report["result"]["params"] == metrics["params"]
    resolved = tomllib.loads((tmp_path / "run" / "resolved.toml").read_text())
    assert Path(resolved["pass"][0]["table"]).is_file()
    again = compress(
        "run", TEACHER, "--profile", tmp_path / "run" / "resolved.toml", "-o", tmp_path / "again", "--json"
    )
    assert again.code == 0, again.err
    (rerun,) = json.loads(again.out)["passes"]
    assert rerun["metrics"] == metrics


@pytest.mark.slow
def test_what_scales_and_the_graph_take_counts_as_bytes(compress, tmp_path: Path) -> None:
    """All parameters that a budget of bytes would hold leave no room for them: smaller students are measured then."""
    settings = ("--set", "search.evaluations=16", "--set", "search.finalists=2", "--set", "search.inits=1")
    ran = compress(
        "run", TEACHER, "--target", "host", "--profile", "search", *settings, "--budget", "bytes=40k",
        "-o", tmp_path / "run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (record,) = json.loads(ran.out)["passes"]
    finalists = record["metrics"]["finalists"]
    assert finalists
    assert all(each["bytes"] <= 40_000 for each in finalists)
    assert all(each["params"] > 10_000 for each in finalists)  # within it, but near it


@pytest.mark.slow
def test_a_budget_that_nothing_obeys(compress, tmp_path: Path) -> None:
    ran = compress(
        "run", TEACHER, "--target", "host", "--profile", "search", "--budget", "params=100", "-o", tmp_path / "run",
        "--set", "search.evaluations=20",
    )  # fmt: skip
    assert ran.code == 3
    assert "no student of cifar-resnet obeys params=100" in ran.err


@pytest.mark.slow
def test_a_profiles_own_budget_may_be_soft(compress, tmp_path: Path) -> None:
    profile = tmp_path / "ambitious.toml"
    profile.write_text(
        '[[pass]]\nkind = "search"\nbudget = ["params=1%", "macs=99%"]\nsoft_budget = true\nevaluations = 4\n'
    )
    common = ("run", TEACHER, "--data", "builtin:digits", "--target", "host", "--profile", profile)
    ran = compress(*common, "-o", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    (record,) = report["passes"]
    loosened = record["metrics"]["budget"]
    share = float(re.fullmatch(r"params=([\d.]+)%, macs=(99|100)%", loosened)[1])
    assert 1 < share < 50
    assert record["metrics"]["params"] <= report["teacher"]["params"] * share / 100
    assert record["warnings"] == [f"no student obeys params=1%, macs=99%: {loosened} was the budget"]
    asked = compress(*common, "--budget", "params=1%", "-o", tmp_path / "asked")
    assert asked.code == 3
    assert "no student of cifar-resnet obeys params=1%" in asked.err


# -- several families ---------------------------------------------------------------------------


def test_branches_are_families_and_the_warm_starts_of_one() -> None:
    families = {
        name: Branch.of(name, "plain", InputSpec(3, 32, 32), 10, 8, None) for name in ("cifar-resnet", "repvgg")
    }
    own = families["cifar-resnet"]
    cold, warm = branches(families, own.holds)
    assert (cold.family, cold.warm) == ("repvgg", False)
    assert (warm.family, warm.warm) == ("cifar-resnet", True)
    alone = branches({"cifar-resnet": own}, own.holds)
    assert [(each.family, each.warm) for each in alone] == [("cifar-resnet", False), ("cifar-resnet", True)]
    assert [each.warm for each in branches(families, lambda _: False)] == [False, False]


@pytest.mark.parametrize(
    ("space", "minutes", "families"),
    [
        ("auto", 0, ("cifar-resnet",)),
        ("auto", 1, ("cifar-resnet", "mobilenetv2", "repvgg")),
        ("repvgg, mobilenetv3", 0, ("repvgg", "mobilenetv3")),
    ],
)
def test_the_families_that_are_searched(space: str, minutes: float, families: tuple[str, ...]) -> None:
    teacher: Any = SimpleNamespace(source=SimpleNamespace(family="cifar-resnet"))
    assert Search(space=space, halving_minutes=minutes)._families(teacher, "classification") == families
