"""What a run may cost, read and judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compressor.budgets import Budget, judge
from compressor.core import Latency, Measurement, Measurements, Metric, UsageError


def metric(value: float, name: str = "top1") -> Metric:
    unit = "dB" if name == "psnr" else "%"
    return Metric(name, value, 1000, "f" * 64, "the test half", unit=unit)


def latency(median: float, *, estimated: bool = False) -> Latency:
    return Latency(median, None, None, 30, 1, estimated)


MEASURED = Measurements(
    teacher=Measurement(1000, 2_000_000, 4000, metric(0.90), latency(10.0)),
    result=Measurement(250, 500_000, 1000, metric(0.88), latency(2.5)),
)
UNMEASURED = replace(
    MEASURED,
    teacher=replace(MEASURED.teacher, metric=None, latency=None),
    result=replace(MEASURED.result, metric=None, latency=None),
    why_no_metric="no data was given",
    why_no_latency="another machine",
)


@pytest.mark.parametrize(
    ("text", "limit", "relative"),
    [
        ("latency=25%", 0.25, True),
        ("latency=5ms", 5.0, False),
        ("latency=500us", 0.5, False),
        ("latency=0.5s", 500.0, False),
        ("latency=5MS", 5.0, False),
        ("latency= 5 ms", 5.0, False),
        ("params=200k", 200_000, False),
        ("params=200K", 200_000, False),
        ("params=1.5m", 1_500_000, False),
        ("params=1M", 1_000_000, False),
        ("params=123", 123, False),
        ("params=150%", 1.5, True),
        ("macs=20M", 20e6, False),
        ("macs=1k", 1e3, False),
        ("macs=2G", 2e9, False),
        ("macs=7", 7, False),
        ("macs=12.5%", 0.125, True),
        ("bytes=500", 500, False),
        ("bytes=500b", 500, False),
        ("bytes=500B", 500, False),
        ("bytes=500k", 500_000, False),
        ("bytes=500kB", 500_000, False),
        ("bytes=1m", 1e6, False),
        ("bytes=1MB", 1e6, False),
        ("bytes=50%", 0.5, True),
    ],
)
def test_a_budget_is_read(text: str, limit: float, relative: bool) -> None:
    budget = Budget.parse(text)
    assert budget.limit == pytest.approx(limit)
    assert budget.relative is relative
    assert budget.text == text
    assert budget.name == text.partition("=")[0]


@pytest.mark.parametrize(
    "text",
    [
        "latency=5",
        "latency=5m",
        "latency=5kb",
        "latency=",
        "latency",
        "latency=-5ms",
        "latency=0ms",
        "latency=0.0%",
        "latency=5 ms ms",
        "latency==5ms",
        "latency=1e3ms",
        "latency=nanms",
        "latency=.5ms",
        "latency=5.ms",
        "latency=5,5ms",
        "latency=٥ms",
        "params=5kb",
        "params=5g",
        "macs=5mb",
        "bytes=5g%",
        "bytes=k",
        "bytes=5kib",
        "params=" + "9" * 400,
    ],
)
def test_what_is_no_budget_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="not a budget") as caught:
        Budget.parse(text)
    assert f"{text.partition('=')[0]}=25" in (caught.value.hint or "")


@pytest.mark.parametrize(("text", "near"), [("latnecy=5ms", "latency"), ("byte=5k", "bytes"), ("Params=1", "params")])
def test_an_unknown_cost_gets_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UsageError, match="unknown budget") as caught:
        Budget.parse(text)
    assert f"did you mean {near!r}?" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("latency=25%", True),
        ("latency=24%", False),
        ("latency=2.5ms", True),
        ("latency=2499us", False),
        ("params=250", True),
        ("params=249", False),
        ("macs=500k", True),
        ("macs=24.9%", False),
        ("bytes=1k", True),
        ("bytes=999", False),
        ("bytes=25%", True),
    ],
)
def test_the_result_is_held_against_the_limit(text: str, met: bool) -> None:
    (outcome,) = judge((Budget.parse(text),), None, MEASURED)
    assert outcome.met is met
    assert outcome.value == getattr(MEASURED.result, outcome.name) or outcome.name == "latency"
    assert (outcome.shortfall is None) is met
    assert met or text in str(outcome.shortfall)


@pytest.mark.parametrize("text", ["latency=25%", "latency=5ms"])
def test_a_latency_that_was_not_measured_is_not_met(text: str) -> None:
    (outcome,) = judge((Budget.parse(text),), None, UNMEASURED)
    assert (outcome.value, outcome.met) == (None, None)
    assert "another machine" in str(outcome.shortfall)


def test_an_estimate_is_no_measurement() -> None:
    guessed = replace(MEASURED, result=replace(MEASURED.result, latency=latency(1.0, estimated=True)))
    (outcome,) = judge((Budget.parse("latency=5ms"),), None, guessed)
    assert outcome.met is None


def test_counts_need_no_measuring() -> None:
    assert all(o.met for o in judge((Budget.parse("params=25%"), Budget.parse("bytes=1k")), None, UNMEASURED))


@pytest.mark.parametrize(("drop", "met"), [(2.0, True), (1.99, False), (0.0, False), (2.01, True)])
def test_a_drop_is_in_percentage_points(drop: float, met: bool) -> None:
    (outcome,) = judge((), drop, MEASURED)
    assert outcome.met is met
    assert outcome.value == pytest.approx(2.0)
    assert outcome.name == "max-drop"
    assert met or "top1 fell by 2.00 points" in str(outcome.shortfall)


def test_a_gain_meets_a_drop_of_nothing() -> None:
    better = replace(MEASURED, result=replace(MEASURED.result, metric=metric(0.95)))
    (outcome,) = judge((), 0.0, better)
    assert outcome.met
    assert outcome.value == pytest.approx(-5.0)


def test_a_drop_of_psnr_is_in_decibels() -> None:
    sharp = Measurements(
        replace(MEASURED.teacher, metric=metric(33.0, "psnr")), replace(MEASURED.result, metric=metric(32.4, "psnr"))
    )
    (outcome,) = judge((), 0.5, sharp)
    assert outcome.met is False
    assert "0.60 dB" in str(outcome.shortfall)


def test_a_drop_without_a_metric_is_not_met() -> None:
    (outcome,) = judge((), 1.0, UNMEASURED)
    assert (outcome.value, outcome.met) == (None, None)
    assert "no data was given" in str(outcome.shortfall)


def test_every_limit_has_its_outcome() -> None:
    outcomes = judge((Budget.parse("bytes=1k"), Budget.parse("latency=1ms")), 5.0, MEASURED)
    assert [(o.name, o.met) for o in outcomes] == [("bytes", True), ("latency", False), ("max-drop", True)]
