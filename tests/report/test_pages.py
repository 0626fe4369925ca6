"""What the pages of reports say, and ``compress report``."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specimen import HOSTILE, SECTIONS, crops, hostile, metric, predictions, specimen, stage, verified

from compressor.core import Exit, UsageError
from compressor.report.charts.waterfall import waterfall
from compressor.report.document import SCHEMA_VERSION, Report
from compressor.report.html import render_comparison, render_html
from compressor.report.pages import write_pages
from compressor.report.reading import read_report
from compressor.report.sections.gains import gains
from compressor.report.sections.layers import layers
from compressor.report.sections.samples import samples
from compressor.report.sections.search import search
from compressor.report.tiles import tiles
from compressor.tasks.classification import Classification

LIGHT: dict[str, Any] = {"passes": [], "stages": [], "samples_ms": None, "samples": None}
"""A report without charts is rendered at once."""


class Page(HTMLParser):
    """Tags and their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for name, attrs in self.tags if name == tag and attribute in attrs]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(specimen()))


def test_a_specimen_is_a_report() -> None:
    assert set(specimen()) == {field.name for field in dataclasses.fields(Report)}


def test_the_page_has_every_section_and_leads_to_each(page: Page) -> None:
    assert page.all("h2", "id") == SECTIONS
    assert page.all("a", "href")[1:] == [f"#{name}" for name in SECTIONS]


@pytest.mark.parametrize(
    "words",
    [
        "Size of the file: teacher 3.42 MB",
        "Latency, median at batch 1: teacher 2.01 ms",
        "Pareto front of score against latency, of 400 scored",
        "distill: the loss goes from 2 to 0.0667 in 1,200 steps",
        "signal to noise of 60 tensors",
        "60 layers with weights of 4 to 8 bits",
        "teacher: 480 samples, median 2",
        "medians of 24 blocks of teacher, result, in order",
    ],
)
def test_every_chart_is_drawn_and_told(words: str, page: Page) -> None:
    assert words in " | ".join(page.all("svg", "aria-label"))


@pytest.mark.parametrize(
    "words",
    [
        "11.1x smaller · 7.0x faster · -1.66 points",
        "Missed: bytes: 9,000 over",
        "its 90 % bootstrap interval 6.87 to 7.02",
        "compress run 'resnet 56.pt' --target host",
        "81.00 % after 90 steps",
        "AMD EPYC, x86_64, 2 cores",
    ],
)
def test_the_page_says(words: str, page: Page) -> None:
    assert words in page.text


def test_a_page_is_the_same_for_the_same_report() -> None:
    report = specimen() | {"passes": []}
    assert render_html(report) == render_html(copy.deepcopy(report))


def test_a_report_with_nothing_in_it_makes_a_page() -> None:
    bare = specimen() | {
        "stages": [], "passes": [], "samples": None, "samples_ms": None, "budgets": [], "bundle": None, "data": None,
        "speedup": None, "speedup_interval": None, "why_no_metric": "no data", "why_no_latency": "no board",
    }  # fmt: skip
    for name in ("teacher", "result"):
        bare[name] |= {"metric": None, "latency_ms": None, "bytes": None, "precision": None}
    page = Page(render_html(bare))
    assert page.all("h2", "id") == ["summary", "passes", "environment", "bundle", "again"]
    assert "size unknown · latency not measured · accuracy not measured" in page.text
    assert not page.all("svg", "role")


# -- strangers' words -----------------------------------------------------------------------------


def plain(text: str) -> None:
    """Assert that ``text`` has the markup of the templates and of Matplotlib, and nothing else."""
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(source.startswith("data:image/png;base64,iVBORw0KGgo") for source in page.all("img", "src"))
    assert all(link.startswith("#") for link in page.all("a", "href") + page.all("use", "xlink:href"))
    assert text.count("url(") == text.count("url(#")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "{{ 7 * 7 }}" in page.text


def test_no_string_of_a_report_becomes_markup() -> None:
    poisoned = hostile(specimen(shown=4), HOSTILE)
    plain(render_html(poisoned))
    plain(render_comparison([(HOSTILE, poisoned), (HOSTILE, poisoned)]))
    plain(render_html(hostile(specimen() | LIGHT | {"samples": crops(2)}, HOSTILE)))


def test_an_image_is_a_png_in_base64_or_not_shown() -> None:
    sample = predictions(1)["shown"][0]
    for png in ("javascript:alert(1)", 'iVBORw0KGgo" onload="x', None, 7, "R0lGODlh", "iVBORw0KGgo//x.example/#"):
        images = [{"caption": "", "png": png}]
        shown = samples(specimen() | {"samples": predictions(1) | {"shown": [sample | {"images": images}]}})
        assert shown is not None
        assert shown.pictures[0].images == ()


# -- gains --------------------------------------------------------------------------------------


def test_size_is_owed_to_the_structure_and_accuracy_to_the_weights_too() -> None:
    section = gains(specimen())
    assert section is not None
    size, latency, accuracy = (chart.svg for chart in section.charts)
    assert 'aria-label="Size of the file: teacher 3.42 MB, search −2.42 MB, quantize −691 kB, result 309 kB"' in size
    assert "search −1.21 ms, quantize −0.51 ms, result 0.29 ms" in latency
    assert "teacher 89.00 %, search + distill −0.90 points, quantize −0.76 points, result 87.34 %" in accuracy
    assert section.table is not None
    assert section.table.rows[1] == ("search + distill + lower", "fp32", "250k", "1.00 MB", "0.80 ms", "88.10 %")


def test_what_lowers_the_precision_is_owed_the_size() -> None:
    half = stage(["lower"], None, None, precision="fp16", size=1_700_000, ms=1.9, top1=0.89)
    section = gains(specimen() | {"stages": [half]})
    assert section is not None
    assert "teacher 3.42 MB, lower −1.72 MB, result 1.70 MB" in section.charts[0].svg
    assert "teacher 89.00 %, result 89.00 %" in section.charts[2].svg


def test_without_latencies_there_is_no_chart_of_them() -> None:
    report = specimen()
    report["stages"][0]["latency_ms"] = None
    section = gains(report)
    assert section is not None
    assert [chart.title for chart in section.charts] == ["Size of the file", "top1"]


def test_many_steps_are_drawn_as_few() -> None:
    steps = [(f"tune{i}", 100.0 - i) for i in range(1, 60)] + [("quantize", 10.0)]
    drawn = waterfall("size", 100.0, steps, str, "{:+.0f}".format, str, lower_is_better=True)
    assert "47 smaller steps -47, result 10.0" in drawn
    assert "quantize -31" in drawn


def test_a_rounding_error_is_no_mountain() -> None:
    """An axis of marks spans a tenth of a point at least: 32.2101 to 32.2102 dB is a hair's breadth on it."""
    drawn = str(waterfall("psnr", 32.2101, [("lower", 32.2102)], str, str, "{:.2f}".format, lower_is_better=False))
    assert "32.20" in drawn
    assert "32.24" in drawn


# -- other sections -------------------------------------------------------------------------------


def test_bits_are_drawn_where_layers_differ() -> None:
    report = specimen()
    drawn = layers(report)
    assert drawn is not None
    assert [chart.title[:9] for chart in drawn.charts] == ["Drift: th", "Precision"]
    assert drawn.words[-1].startswith("Layers with weights: 12 of 8 bits, 12 of 7 bits")
    alike = verified(3)
    for each in alike["layers"]:
        each["bits"] = 8
    report["passes"][-1]["metrics"] = alike | {"first_drift": {"tensor": "relu_2", "db": 9.0}}
    drawn = layers(report)
    assert drawn is not None
    assert len(drawn.charts) == 1
    assert drawn.words[0] == "The first to drift is relu_2, at 9 dB."


def test_the_search_names_the_student_that_was_chosen() -> None:
    section = search(specimen())
    assert section is not None
    assert section.table is not None
    assert [row[1] for row in section.table.rows] == ["chosen", ""]
    assert "the first by score" in section.words[-1]
    assert "5 students on the Pareto front" in section.charts[0].svg


def test_predictions_say_who_is_right_in_words_too() -> None:
    section = samples(specimen())
    assert section is not None
    assert section.pictures[0].lines == (("", "cat"), ("good", "✓ teacher: cat"), ("bad", "✗ result: dog"))
    assert section.table is not None
    assert section.table.rows[0] == ("only the teacher is right", "310", "3.10 %")


def test_crops_stand_side_by_side() -> None:
    section = samples(specimen() | {"samples": crops(2)})
    assert section is not None
    assert section.title == "Crops"
    assert [caption for _, _, caption in section.pictures[0].images] == ["input", "teacher", "result", "target"]
    assert section.layout == "rows"
    assert section.pictures[0].lines[2] == ("", "result: 27.25 dB (-0.25 dB)")


def test_tiles_have_bars_as_long_as_their_figures() -> None:
    size, speed, quality = tiles(specimen())
    assert (size.change, size.teacher_share, size.result_share) == ("11.1x smaller", 100, 9)
    assert (speed.teacher, speed.result, speed.result_share) == ("2.01 ms", "0.29 ms", 14)
    assert (quality.name, quality.change, quality.better) == ("top1", "-1.66 points", False)


# -- a great deal ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enormous() -> dict[str, Any]:
    """200 passes, 10,000 latency samples and 10,000 sample predictions, 5,000 layers, long warnings."""
    report = specimen(more_passes=194, samples=10_000, shown=100, layers=5000)
    report["samples"]["shown"] *= 100
    for done in report["passes"]:
        done["warnings"] = ["of something that is told at great length " * 100] * 30
    return report


@pytest.mark.slow
def test_a_great_deal_makes_a_small_page(enormous: dict[str, Any]) -> None:
    assert len(enormous["passes"]) == 200
    assert sum(map(len, enormous["samples_ms"]["result"])) > 9_900
    begun = copy.deepcopy(enormous)
    text = render_html(enormous)
    assert enormous == begun
    assert len(text.encode()) < 3_000_000
    page = Page(text)
    assert page.all("h2", "id") == SECTIONS
    assert "184 more trainings are in report.json." in page.text
    assert "dist was chosen among 3 methods" in page.text
    assert "learned from 2 teachers, whose answers weighed 0.75, 0.25" in page.text
    assert "4750 more are in report.json." in page.text


# -- samples of a real evaluation ----------------------------------------------------------------


class Split:
    """Grey images whose pixels are their row."""

    name = "test"

    def __init__(self, labels: list[int]) -> None:
        self.labels = np.asarray(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Any) -> Any:
        return np.stack([np.full((1, 100, 80), row, np.uint8) for row in indices])


def told(teacher: list[int], result: list[int], labels: list[int]) -> dict[str, Any]:
    outcomes = {"teacher": np.asarray(teacher), "result": np.asarray(result)}
    made = Classification().samples(Split(labels), ("cat", "dog"), outcomes, {}, 0)  # type: ignore[arg-type]
    json.dumps(made)
    return made


def test_samples_show_first_what_only_one_has_right() -> None:
    made = told([0, 0, 1, 1, -1], [0, 1, 0, 1, 5], [0, 0, 0, 1, 1])
    assert [fact["value"] for fact in made["facts"]] == [1, 1, 1, 2]
    names = [(each["name"], *(line["text"] for line in each["lines"])) for each in made["shown"]]
    assert names[:3] == [("cat", "cat", "dog"), ("cat", "dog", "cat"), ("dog", "none", "none")]
    assert len(names) == 5


def test_samples_are_few_and_small() -> None:
    made = told([0] * 500, [0, 1] * 250, [0, 0, 0, 1, 0] * 100)
    assert len(made["shown"]) == 24
    assert sum(fact["value"] for fact in made["facts"]) == 500
    images = [each["images"][0]["png"] for each in made["shown"]]
    assert len(set(images)) > 20
    assert max(map(len, images)) < 20_000
    lost = [each for each in made["shown"] if [line["good"] for line in each["lines"]] == [True, False]]
    assert len(lost) == 8


# -- compress report -------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two folders of runs."""
    for name, top1 in (("small", 0.85), ("large", 0.88)):
        report = specimen() | LIGHT
        report["result"]["metric"] = metric(top1)
        report["result"]["bytes"] = {"small": 200_000, "large": 400_000}[name]
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps(report))
    return [tmp_path / "runs" / name for name in ("small", "large")]


def test_the_page_of_a_run_is_written_again(runs: list[Path], compress: Callable[..., Any]) -> None:
    done = compress("report", runs[0])
    assert (done.code, done.out) == (0, f"{runs[0] / 'report.html'}\n")
    text = (runs[0] / "report.html").read_text("utf-8")
    assert text == render_html(read_report(runs[0]))
    again = compress("report", runs[0] / "report.json", "-o", runs[0] / "pages" / "one.html", "--json")
    assert json.loads(again.out) == {
        "page": str(runs[0] / "pages" / "one.html"),
        "runs": [{"run": "small", "status": "ok", "headline": "17.1x smaller · 7.0x faster · -4.00 points"}],
    }
    assert (runs[0] / "pages" / "one.html").read_text("utf-8") == text


def test_several_runs_are_compared_on_one_page(
    runs: list[Path], compress: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = compress("report", *runs)
    assert (done.code, done.out) == (0, "comparison.html\n")
    page = Page((tmp_path / "comparison.html").read_text("utf-8"))
    assert page.all("h2", "id") == ["runs", "trade-off", "commands"]
    for words in ("2 runs compared", "1. small", "2. large", "200 kB\n17.1x smaller", "88.00 %\n-1.00 points"):
        assert words in page.text
    assert page.all("svg", "aria-label")[0] == "top1, % against size of the file: 1: 200 kB, 85.00; 2: 400 kB, 88.00"
    assert "do not compare" not in page.text


def test_what_does_not_compare_is_said(runs: list[Path]) -> None:
    others = [read_report(run) for run in runs]
    others[0]["result"]["metric"]["fingerprint"] = "e" * 64
    others[1]["environment"]["cpu"] = "Cortex-A76"
    page = Page(render_comparison([("a", others[0]), ("b", others[1])]))
    assert "judged on different samples" in page.text
    assert "timed for different targets" in page.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a report"),
        ('{"a": 1}', "is not a report"),
        ('{"schema_version": 1}', "schema version 1"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "teacher": 7}}', "lacks budgets, bundle"),
    ],
)
def test_what_is_no_report_is_a_usage_error(
    content: str | None, words: str, tmp_path: Path, compress: Callable[..., Any]
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    done = compress("report", tmp_path)
    assert done.code == Exit.USAGE
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_is_broken_inside_is_a_usage_error(runs: list[Path], compress: Callable[..., Any]) -> None:
    broken = specimen() | {"passes": [{"kind": 7}], "environment": "none"}
    (runs[0] / "report.json").write_text(json.dumps(broken))
    for arguments in (runs[:1], runs):
        done = compress("report", *arguments, "-o", runs[0] / "page.html")
        assert done.code == Exit.USAGE
        assert "is not a report as this program writes it" in done.err
    assert not (runs[0] / "page.html").exists()


def test_a_page_that_cannot_be_written_is_a_usage_error(runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        write_pages(runs, runs[0])
    with pytest.raises(UsageError, match="cannot write to"):
        write_pages(runs, runs[0] / "report.json" / "page.html")
