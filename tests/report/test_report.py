"""report.json and its views."""

import dataclasses
import errno
import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compressor.budgets import Outcome
from compressor.core import (
    Artifact,
    Bundle,
    CompressError,
    Engine,
    Exit,
    InputSpec,
    Latency,
    Measurement,
    Measurements,
    Metric,
    Model,
    Normalization,
    OnnxModel,
    PassSpec,
    Profile,
    Record,
    Target,
    TorchSource,
    UsageError,
    image_signature,
)
from compressor.machine import Machine
from compressor.report.console import print_summary
from compressor.report.document import SCHEMA_VERSION, DataUsed, Report, build_report, write_report
from compressor.report.html import render_html
from compressor.report.summary import Summary

HOSTILE = "<script>alert('x')</script>[red]\x1b[31m\u202e"

TARGET = Target("host", "this machine", "onnxruntime", "here", "any", ("fp32", "int8"), 21)
PROFILE = Profile("ptq", "post-training quantisation", (PassSpec("lower"), PassSpec("quantize")))
MACHINE = Machine("x86_64", None, "AMD EPYC", ("avx2", "fma"), 2, 7900, None, (0.1, 0.2, 0.3), "Linux 6", "3.11.7")

MET = Outcome("latency", "latency=5ms", 4.0, True, None)
MISSED = Outcome("bytes", "bytes=500k", 901_234.0, False, "bytes=500k: 901,234 is over 500,000")
UNJUDGED = Outcome("latency", "latency=5ms", None, None, "latency=5ms: not measured: no board")


def latency(median: float) -> Latency:
    raw = tuple((median,) * 20 for _ in range(24))
    return Latency(median, median * 1.1, median * 1.3, samples=480, threads=1, raw=raw)


def metric(value: float, name: str = "top1", unit: str = "%") -> Metric:
    return Metric(name, value, samples=10_000, fingerprint="f" * 64, source="cifar10.npz, test half", unit=unit)


def measurements() -> Measurements:
    return Measurements(
        teacher=Measurement(853_018, 125_485_706, 3_434_034, metric(0.9437), latency(6.0)),
        result=Measurement(853_018, 125_485_706, 901_234, metric(0.9432), latency(4.0)),
        speedup=1.5,
        speedup_interval=(1.45, 1.57),
    )


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "teacher.onnx").write_bytes(b"\0" * 4000)
    (folder / "model.onnx").write_bytes(b"\0" * 1000)
    (folder / "manifest.json").write_text("{}")
    signature, sizes = image_signature(InputSpec(3, 32, 32), 10)
    teacher = Model(
        source=TorchSource("cifar-resnet", {"depth": 56}, folder / "teacher.safetensors"),
        graph=None,
        sha256="a" * 64,
        params=853_018,
        macs=125_485_706,
        signature=signature,
        sizes=sizes,
        normalization=Normalization("imagenet", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    float_model = OnnxModel(folder / "teacher.onnx", "b" * 64, "fp32", 21)
    return Artifact(
        teacher,
        reference=float_model,
        onnx=OnnxModel(folder / "model.onnx", "c" * 64, "int8", 21, made_from=float_model),
        engine=Engine("onnxruntime", folder / "model.onnx", "c" * 64, "ready"),
        measurements=measurements(),
        bundle=Bundle(folder, "d" * 64),
        log=(
            Record("lower", {"precision": "fp32"}, 2.31, True, {"opset": 21}, ()),
            Record(
                "quantize",
                {"method": "ptq", "samples": 300},
                12.5,
                False,
                {"bytes_before": 3_434_034, "bytes": 901_234, "sqnr_db": float("inf"), "layers": [{"db": 30.0}]},
                (HOSTILE,),
            ),
        ),
    )


def report_of(artifact: Artifact, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "task": "classification",
        "target": TARGET,
        "profile": PROFILE,
        "seed": 0,
        "command": ["compress", "run", f"{HOSTILE}.pt", "--target", "host"],
        "environment": MACHINE,
        "versions": {"compressor": "0.1.0", "onnxruntime": "1.24.0"},
        "data": DataUsed("cifar10.npz", {"train": "1" * 64, "test": "2" * 64}),
        "budgets": (MET, Outcome("max-drop", "1 points", 0.05, True, None)),
        "notes": (HOSTILE,),
    }
    return build_report(artifact, **{**settings, **changes})


@pytest.fixture
def report(artifact: Artifact) -> dict[str, Any]:
    return report_of(artifact)


def measured(artifact: Artifact, **changes: Any) -> dict[str, Any]:
    assert artifact.measurements
    return report_of(
        dataclasses.replace(artifact, measurements=dataclasses.replace(artifact.measurements, **changes)), budgets=()
    )


def with_result(artifact: Artifact, **changes: Any) -> Measurement:
    assert artifact.measurements
    return dataclasses.replace(artifact.measurements.result, **changes)


# -- report.json ------------------------------------------------------------------------------


def test_the_document_holds_the_schema_in_order(report: dict[str, Any]) -> None:
    assert list(report) == [f.name for f in dataclasses.fields(Report)]
    assert report["schema_version"] == SCHEMA_VERSION
    assert (report["target"], report["profile"], report["seed"], report["status"]) == ("host", "ptq", 0, "ok")
    assert report["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 32, 32]}]
    assert report["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    assert report["sizes"] == {"batch": 1}
    assert report["engine"] == "ready"
    for side in ("teacher", "result"):
        assert {"params", "macs", "bytes", "metric", "latency_ms"} <= set(report[side])
        assert {"name", "value", "samples", "unit", "higher_is_better"} <= set(report[side]["metric"])
        assert {"median", "p90", "p99", "samples", "estimated", "threads"} == set(report[side]["latency_ms"])
        assert len(report["samples_ms"][side]) == 24
    assert {"kind", "settings", "seconds", "cached", "metrics", "warnings", "pinned"} == set(report["passes"][0])
    assert report["budgets"][0] == dataclasses.asdict(MET)
    assert report["bundle"]["files"][0] == {"name": "manifest.json", "bytes": 2}


def test_it_is_strict_json_and_survives_the_disk(report: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs/one"
    write_report(report, folder)
    assert json.loads((folder / "report.json").read_text("utf-8")) == report
    assert report["passes"][1]["metrics"]["sqnr_db"] is None
    assert (folder / "report.html").read_text("utf-8") == render_html(report)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]


def test_a_lone_surrogate_in_a_file_name_is_written(artifact: Artifact, tmp_path: Path) -> None:
    report = report_of(artifact, command=["compress", "run", "caf\udce9.pt"])
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["command"][2] == "caf?.pt"


def test_a_report_is_replaced_whole_or_not_at_all(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(report, tmp_path / "run")
    before = (tmp_path / "run/report.json").read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CompressError, match="the disk is full") as caught:
        write_report({**report, "seed": 1}, tmp_path / "run")
    assert caught.value.code is Exit.INTERNAL
    assert (tmp_path / "run/report.json").read_bytes() == before
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_folder_that_cannot_be_made_is_a_usage_error(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        write_report(report, tmp_path / "file/run")


@pytest.mark.parametrize(("outcome", "status"), [(MET, "ok"), (UNJUDGED, "missed"), (MISSED, "missed")])
def test_the_status_is_missed_where_a_budget_was(artifact: Artifact, outcome: Outcome, status: str) -> None:
    assert report_of(artifact, budgets=[MET, outcome])["status"] == status


def test_without_a_measure_pass_what_is_known_is_still_there(artifact: Artifact) -> None:
    report = report_of(dataclasses.replace(artifact, measurements=None, bundle=None))
    assert (report["teacher"]["params"], report["teacher"]["bytes"], report["result"]["bytes"]) == (853_018, 4000, 1000)
    assert report["teacher"]["metric"] is None
    assert report["samples_ms"] is None
    say = Summary.of(report)
    assert say.headline == "4.0x smaller · latency not measured · accuracy not measured"
    assert say.missing == (
        "accuracy was not measured: the profile has no measure pass",
        "latency was not measured: the profile has no measure pass",
    )
    assert "no bundle" in say.next


def test_the_bundle_is_named_where_the_user_finds_it(artifact: Artifact, tmp_path: Path) -> None:
    shipped = tmp_path / "my runs"
    shipped.mkdir()
    (shipped / "model.onnx").write_bytes(b"12345")
    report = report_of(artifact, bundle=shipped)
    assert report["bundle"]["files"] == [{"name": "model.onnx", "bytes": 5}]
    assert Summary.of(report).next == f"next: compress verify '{shipped}'"


# -- the summary ------------------------------------------------------------------------------


def test_the_headline_says_what_was_gained_and_what_it_cost(report: dict[str, Any]) -> None:
    assert Summary.of(report).headline == "3.8x smaller · 1.5x faster · -0.05 points"


@pytest.mark.parametrize(
    ("speedup", "interval", "words"),
    [
        (1.5, (1.4, 1.6), "1.5x faster"),
        (1.04, (1.02, 1.06), "1.04x faster"),
        (0.8, (0.75, 0.85), "1.2x slower"),
        (1.02, (0.97, 1.07), "as fast, within noise"),
    ],
)
def test_speed_is_claimed_only_where_the_interval_allows(
    artifact: Artifact, speedup: float, interval: tuple[float, float], words: str
) -> None:
    say = Summary.of(measured(artifact, speedup=speedup, speedup_interval=interval))
    assert say.headline.split(" · ")[1] == words


def test_slower_is_said_with_its_interval_the_right_way_round(artifact: Artifact) -> None:
    say = Summary.of(measured(artifact, speedup=0.5, speedup_interval=(0.4, 0.8)))
    row = next(row for row in say.rows if row.name == "latency, median of 480")
    assert (row.change, row.better) == ("2.0x slower (1.25–2.50)", False)


def test_an_estimate_is_called_one(artifact: Artifact) -> None:
    result = with_result(artifact, latency=dataclasses.replace(latency(4.0), estimated=True))
    say = Summary.of(measured(artifact, result=result, speedup=None, speedup_interval=None))
    assert "1.5x faster (estimated)" in say.headline


def test_larger_and_better_are_said_too(artifact: Artifact) -> None:
    result = with_result(artifact, bytes=6_868_068, metric=metric(0.9500))
    assert Summary.of(measured(artifact, result=result)).headline == "2.0x larger · 1.5x faster · +0.63 points"


def test_nothing_gained_is_said(artifact: Artifact) -> None:
    result = with_result(artifact, bytes=3_434_000, metric=metric(0.943701))
    assert Summary.of(measured(artifact, result=result)).headline == "the same size · 1.5x faster · no change in top1"


def test_psnr_is_in_decibels(artifact: Artifact) -> None:
    teacher = dataclasses.replace(measurements().teacher, metric=metric(37.61, "psnr", "dB"))
    result = with_result(artifact, metric=metric(37.31, "psnr", "dB"))
    say = Summary.of(measured(artifact, teacher=teacher, result=result))
    assert say.headline.endswith("-0.30 dB")
    assert "37.31 dB" in [row.result for row in say.rows]


def test_why_there_is_no_latency_is_said(artifact: Artifact) -> None:
    why = "Raspberry Pi 5 is aarch64, and this machine is x86_64."
    teacher = dataclasses.replace(measurements().teacher, latency=None)
    report = measured(
        artifact,
        teacher=teacher,
        result=with_result(artifact, latency=None),
        speedup=None,
        speedup_interval=None,
        why_no_latency=why,
    )
    say = Summary.of(report)
    assert "latency not measured" in say.headline
    assert say.missing == (f"latency was not measured: {why}",)
    assert say.missing[0] in shown(report)
    assert why in render_html(report)
    assert report["samples_ms"] is None


def test_what_is_left_for_the_board_is_said(artifact: Artifact) -> None:
    engine = Engine("onnxruntime", artifact.teacher.torch.weights, "c" * 64, "pending", "copy it there and run run.py")
    report = report_of(dataclasses.replace(artifact, engine=engine, measurements=measurements()))
    assert report["engine"] == "pending"
    assert Summary.of(report).next == "left to do: copy it there and run run.py"


def test_before_and_after_become_one_note(report: dict[str, Any]) -> None:
    assert Summary.of(report).steps[1].notes == ("bytes 3.43 MB → 901 kB",)


def test_parity_is_read_from_the_ladder(artifact: Artifact) -> None:
    parity = {"max_abs": 0.1, "relative_error": 0.01, "db": 24.7, "agreement": 0.992}
    rung = {"from": "fp32", "to": "int8", **parity, "outputs": {"scores": parity}}
    two = {**rung, "outputs": {"scores": parity, "boxes": {**parity, "db": 31.2, "agreement": None}}}
    metrics = {"ladder": [rung, two], "first_drift": {"tensor": "conv1", "db": 12.0}}
    report = report_of(dataclasses.replace(artifact, log=(Record("verify", {}, 1.0, False, metrics, ()),)))
    assert Summary.of(report).steps[0].notes == (
        "fp32 → int8 25 dB, 99.2 % of labels agree",
        "fp32 → int8 scores 25 dB, 99.2 % of labels agree; boxes 31 dB",
        "first to drift conv1, 12 dB",
    )


# -- the views --------------------------------------------------------------------------------


def shown(report: Mapping[str, Any], width: int = 100, terminal: bool = False) -> str:
    stream = io.StringIO()
    print_summary(report, Console(file=stream, width=width, force_terminal=terminal, legacy_windows=False))
    return stream.getvalue()


def test_the_console_ends_with_the_bundle_and_what_to_do(report: dict[str, Any]) -> None:
    folder = report["bundle"]["path"]
    assert shown(report).splitlines()[-1] == f"Bundle: {folder} · next: compress verify {folder}"


@pytest.mark.parametrize("width", [80, 120])
def test_the_console_shows_every_figure_within_its_width(report: dict[str, Any], width: int) -> None:
    text = shown(report, width)
    for figure in ("3.43 MB", "901 kB", "94.32 %", "1.5x faster (1.45–1.57)", "6.00 ms", "cached", "met", "quantize"):
        assert figure in text
    assert all(len(line) <= width for line in text.splitlines()[:-1])


def test_the_console_prints_no_markup_and_no_escapes_of_a_stranger(report: dict[str, Any]) -> None:
    text = shown(report)
    assert "[red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x1b[" in shown(report, terminal=True)


class Page(HTMLParser):
    """Every tag and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetches: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetches += [
            f"{tag} {name}"
            for name, value in attrs
            if name in ("src", "href", "srcset", "action", "onload")
            and not (value or "").startswith("#")  # a place on the page
        ]


def test_the_page_escapes_everything_and_fetches_nothing(report: dict[str, Any]) -> None:
    text = render_html(report)
    page = Page(text)
    assert "script" not in page.tags
    assert not page.fetches
    assert text.count("url(") == text.count("url(#")
    assert "&lt;script&gt;" in text


def test_every_string_of_a_report_may_be_hostile(report: dict[str, Any]) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    poisoned = poison(report)
    assert "script" not in Page(render_html(poisoned)).tags
    assert "\x1b" not in shown(poisoned)


def test_the_page_tells_the_same_as_the_console(report: dict[str, Any]) -> None:
    text = render_html(report)
    for words in ("3.8x smaller · 1.5x faster · -0.05 points", "1.5x faster (1.45–1.57)", "94.32 %", "bytes 3.43 MB"):
        assert words in text
    assert "prefers-color-scheme: dark" in text


def test_a_shortfall_is_named_in_both(artifact: Artifact) -> None:
    report = report_of(artifact, budgets=[MISSED, UNJUDGED])
    for text in (shown(report), render_html(report)):
        assert "Missed: bytes=500k: 901,234 is over 500,000" in text
        assert "Not judged: latency=5ms: not measured: no board" in text


TRAINED: dict[str, Any] = {
    "steps": 20,
    "batch": 128,
    "losses": [{"loss": HOSTILE, "weight": 0.9}, {"loss": "$cross$-entropy", "weight": 0.1}],
    "curve": [
        {"step": 10, "loss": 2.5, "parts": [2.6, 1.9], "lr": 0.1},
        {"step": 20, "loss": 1.25, "parts": [1.2, 1.7], "lr": 0.01},
    ],
}


def test_trainings_are_shown(artifact: Artifact) -> None:
    report = report_of(dataclasses.replace(artifact, log=(Record("distill", {}, 60.0, False, TRAINED, ()),)))
    text = render_html(report)
    page = Page(text)
    assert text.count('aria-label="distill') == 1
    assert "script" not in page.tags
    assert not page.fetches
    assert text.count("url(") == text.count("url(#")
    assert "#0" not in re.sub(r":root \{.*?\}", "", text, flags=re.DOTALL)  # every colour is the page's own
    assert 'aria-label="distill: the loss goes from 2.5 to 1.25 in 20 steps"' in text
    assert "$cross$-entropy" in text
    assert text == render_html(report)
