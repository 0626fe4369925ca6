"""A front of students: the plans, one run each, what they share, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from places import TEACHER

COMMON = ("run", TEACHER, "--data", "builtin:digits", "--target", "host")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--pareto", "8%"), "not shares of a latency: '8%'"),
        (("--pareto", "8%,8%"), "not shares of a latency"),
        (("--pareto", "5ms,8%"), "not shares of a latency"),
        (("--pareto", "8%,x"), "not a budget: 'latency=x'"),
        (("--pareto", "8%,13%", "--budget", "latency=9%"), "and so does a budget"),
        (("--pareto", "8%,13%", "--set", 'search.budget=["latency=9%"]'), "and so does a budget"),
        (("--pareto", "8%,13%", "--profile", "ptq"), "is for profiles that search students, and ptq does not"),
    ],
)
def test_what_is_no_front(compress: Any, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    got = compress(*COMMON, *arguments, "-o", tmp_path / "front")
    assert got.code == 2
    assert says in " ".join(got.err.split())
    assert not (tmp_path / "front").exists()


def test_a_front_can_be_checked_without_a_run(compress: Any, tmp_path: Path) -> None:
    got = compress(
        *COMMON, "--profile", "balanced", "--pareto", "8%, 12.5%", "--dry-run", "--json", "-o", tmp_path / "front"
    )
    assert got.code == 0, got.err
    plans = json.loads(got.out)
    assert [Path(each["output"]).name for each in plans.values()] == list(plans) == ["latency-8", "latency-12.5"]
    assert not (tmp_path / "front").exists()


@pytest.mark.slow
def test_a_front_of_students(compress: Any, tmp_path: Path) -> None:
    settings = ("--set", "search.evaluations=6", "--set", "search.finalists=1", "--set", "search.inits=1")
    arguments = ("--profile", "search", *settings, "--pareto", "0.01%,60%,90%", "-o", tmp_path / "front")
    got = compress(*COMMON, *arguments, "--json")
    assert got.code == 3
    assert (
        "latency-0.01: search (pass 1 of 1, after nothing): no student of cifar-resnet obeys latency=0.01%" in got.err
    )
    told = json.loads(got.out)
    assert [each["run"] for each in told["runs"]] == ["latency-60", "latency-90"]
    reports = [json.loads((tmp_path / "front" / f"latency-{n}" / "report.json").read_text()) for n in (60, 90)]
    for report, share in zip(reports, (0.6, 0.9), strict=True):
        assert report["passes"][0]["metrics"]["latency_share"] <= share
    assert "2 runs compared" in Path(told["page"]).read_text()
    # The teacher was timed once, and its normalisation found once.
    shared = sorted(path.name.partition("-")[0] for path in (tmp_path / "front" / "shared").glob("*/*"))
    assert shared.count("normalization") == 1
    assert "latency" in shared
