"""Figures as text."""

from __future__ import annotations

import pytest

from compressor.figures import (
    count,
    drop,
    duration,
    format_change,
    format_drop,
    format_metric,
    format_movement,
    format_value,
    milliseconds,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.89, "%", "89.00 %"), (37.314, "dB", "37.31 dB"), (0.0123456, "", "0.01235"), (12.0, "px", "12 px")],
)
def test_a_metric_is_printed_by_its_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text
    assert format_metric({"name": "any", "value": value, "unit": unit}) == text


def test_no_metric_is_a_dash() -> None:
    assert format_metric(None) == "—"


@pytest.mark.parametrize(
    ("before", "after", "unit", "text"),
    [
        (0.89, 0.879, "%", "-1.10 points"),
        (37.31, 37.61, "dB", "+0.30 dB"),
        (0.89, 0.890001, "%", ""),
        (0.5, 0.4877, "", "-0.0123"),
        (0.5, 0.5000001, "", ""),
    ],
)
def test_a_change_has_a_sign(before: float, after: float, unit: str, text: str) -> None:
    assert format_change(before, after, unit) == text


def test_a_drop_is_a_loss_in_either_direction() -> None:
    assert drop(0.89, 0.88, "%") == pytest.approx(1.0)
    assert drop(37.0, 37.5, "dB") == pytest.approx(-0.5)
    assert drop(0.2, 0.3, "", higher_is_better=False) == pytest.approx(0.1)
    assert format_drop(1.1, "%") == "1.10 points"
    assert format_movement(0.2, 0.3, "px") == "rose by 0.1 px"
    assert format_movement(0.89, 0.879, "%") == "fell by 1.10 points"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0.0431, "0.043 ms"), (6.0, "6.00 ms"), (12.54, "12.5 ms"), (2500.4, "2500 ms")],
)
def test_milliseconds(value: float | None, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", "—"),
        (0, "", "0"),
        (999, "B", "999 B"),
        (853_018, "", "853k"),
        (901_234, "B", "901 kB"),
        (3_434_034, "B", "3.43 MB"),
        (125_485_706, "", "125M"),
        (41_000_000_000, "", "41.0G"),
    ],
)
def test_counts(value: float | None, unit: str, text: str) -> None:
    assert count(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.26, "0.3 s"), (41.6, "42 s"), (725, "12 min 05 s"), (59.7, "60 s"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
