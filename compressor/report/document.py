"""``report.json``: what a run made, what it costs, and how that was measured."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.atomic import refusals, write
from compressor.budgets import Outcome
from compressor.core import Artifact, Json, Latency, Measurement, Profile, Target
from compressor.machine import Machine
from compressor.report.html import render_html

SCHEMA_VERSION = 2

UNMEASURED = "the profile has no measure pass"


@dataclass(frozen=True, slots=True)
class DataUsed:
    """Which samples the run learned from and was judged on."""

    source: str
    """The data's name on the command line."""
    fingerprints: Mapping[str, str]
    """The fingerprint of each half, by the half's name."""


@dataclass(frozen=True, slots=True)
class Side:
    """Costs and quality of the teacher or of the result."""

    family: str
    precision: str | None
    params: int
    macs: int
    bytes: int | None
    """Size of the file: the teacher's fp32 export, or the file that the target loads."""
    metric: Json
    """``{name, value, unit, higher_is_better, samples, fingerprint, source, also}``. The unit ``%`` says that ``value``
    is a fraction which is printed as a percentage."""
    latency_ms: Json
    """``{median, p90, p99, samples, estimated, threads}`` at batch 1; p90 and p99 are null with too few samples."""
    memory_bytes: int | None = None
    """Size of the constants that the runtime holds once the file is loaded: weight codes are unpacked by then."""


@dataclass(frozen=True, slots=True)
class Report:
    """``report.json``, key by key. A figure that is missing is null, and a ``why_no_…`` says why."""

    schema_version: int
    status: str
    """``ok``, or ``missed`` where a budget or the allowed drop was missed or could not be judged."""
    command: Sequence[str]
    environment: Machine
    versions: Mapping[str, str]
    seed: int
    target: str
    profile: str
    task: str
    """What the network is for: a file of ``tasks/``."""
    inputs: Sequence[Json]
    """``{name, dtype, shape}``; an axis is a size, or a name where it is free."""
    outputs: Sequence[Json]
    """``{name, dtype, shape}``."""
    sizes: Mapping[str, int]
    """The size of each free axis at which the network was counted, timed and verified."""
    normalization: Json
    """``{name, scale, mean, std, channels, layout}``: the image input is ``(pixel * scale - mean) / std``; null where
    no input is an image, or its preparation is not known."""
    data: DataUsed | None
    teacher: Side
    result: Side
    speedup: float | None
    """Median over the blocks of the teacher's latency divided by the result's."""
    speedup_interval: Sequence[float] | None
    """Its 90 % bootstrap interval."""
    why_no_metric: str | None
    why_no_latency: str | None
    budgets: Sequence[Outcome]
    """``{name, limit, value, met, shortfall}``; ``met`` is null where there is no value to judge."""
    stages: Sequence[Json]
    """The graphs that were made on the way; the last is the result's: ``{passes, structure, weights, precision, params,
    macs, bytes, metric, latency_ms}``. ``passes`` ran since the graph before; ``structure`` and ``weights`` name the
    last of them that changed the architecture and the weights, or are null."""
    passes: Sequence[Json]
    """``{kind, settings, seconds, cached, metrics, warnings}``, in the order they ran."""
    notes: Sequence[str]
    """How the run read what it was given: the file, the normalisation, the data."""
    engine: str | None
    """``ready``, ``pending`` until ``todo`` is done, or null where no engine was built."""
    todo: str | None
    bundle: Json
    """``{path, manifest_sha256, files: [{name, bytes}]}``."""
    samples_ms: Json
    """``{teacher, result}``: every latency sample in ms, a list for each block."""
    samples: Json
    """Single samples through teacher and result, as the task describes them; small and bounded; null without data.

    ``{layout, title, text, judged_on, facts: [{name, value, of}], shown: [{name, images: [{caption, png}],
    lines: [{name, text, good}]}]}``. ``layout`` is ``grid``, small samples in a grid, or ``rows``, a sample on each
    row with its images side by side. ``facts`` are counts out of ``of``. ``png`` is base64. ``good`` is true or false
    where a line is right or wrong, else null."""


def build_report(
    artifact: Artifact,
    *,
    task: str,
    target: Target,
    profile: Profile,
    seed: int,
    command: Sequence[str],
    environment: Machine,
    versions: Mapping[str, str],
    data: DataUsed | None = None,
    budgets: Sequence[Outcome] = (),
    notes: Sequence[str] = (),
    bundle: Path | None = None,
) -> dict[str, Json]:
    """Build the report of a finished run, as plain JSON values.

    ``bundle`` is the folder in which the user will find the bundle (default: the artifact's).
    """
    model, measured, engine = artifact.teacher, artifact.measurements, artifact.engine
    report = Report(
        schema_version=SCHEMA_VERSION,
        status="ok" if all(outcome.met for outcome in budgets) else "missed",
        command=command,
        environment=environment,
        versions=versions,
        seed=seed,
        target=target.name,
        profile=profile.name,
        task=task,
        **model.signature.to_json(),
        sizes=model.sizes,
        normalization=model.normalization,
        data=data,
        teacher=_teacher(artifact),
        result=_result(artifact),
        speedup=measured.speedup if measured else None,
        speedup_interval=measured.speedup_interval if measured else None,
        why_no_metric=measured.why_no_metric if measured else UNMEASURED,
        why_no_latency=measured.why_no_latency if measured else UNMEASURED,
        budgets=budgets,
        stages=_stages(artifact),
        passes=artifact.log,
        notes=notes,
        engine=engine.status if engine else None,
        todo=engine.todo if engine else None,
        bundle=_bundle(artifact, bundle),
        samples_ms=_samples(artifact),
        samples=measured.samples if measured else None,
    )
    plain: dict[str, Json] = _plain(report)
    return plain


def write_report(report: Mapping[str, Json], folder: Path) -> None:
    """Write ``report.json`` and ``report.html``, each whole or not at all.

    Raises UsageError where the folder cannot be written, and CompressError where the disk is full.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render_html(report)
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "report.json", text)
        write(folder / "report.html", page)


def _teacher(artifact: Artifact) -> Side:
    return _side(
        artifact.measurements.teacher if artifact.measurements else None,
        family=artifact.teacher.family,
        precision="fp32",
        params=artifact.teacher.params,
        macs=artifact.teacher.macs,
        file=artifact.reference.path if artifact.reference else None,
    )


def _result(artifact: Artifact) -> Side:
    file = artifact.engine or artifact.onnx
    return _side(
        artifact.measurements.result if artifact.measurements else None,
        family=artifact.result.family,
        precision=artifact.onnx.precision if artifact.onnx else None,
        params=artifact.result.params,
        macs=artifact.result.macs,
        file=file.path if file else None,
    )


def _side(
    measured: Measurement | None, *, family: str, precision: str | None, params: int, macs: int, file: Path | None
) -> Side:
    """Take what was measured; without a measure pass, what is known without it."""
    if measured is None:
        size = file.stat().st_size if file else None
        return Side(family, precision, params, macs, size, metric=None, latency_ms=None)
    latency = measured.latency and _latency(measured.latency)
    costs = (measured.params, measured.macs, measured.bytes)
    return Side(family, precision, *costs, measured.metric, latency, measured.memory_bytes)


def _latency(latency: Latency) -> dict[str, Json]:
    """Take the figures only: the samples stand at the report's end."""
    return {
        "median": latency.median,
        "p90": latency.p90,
        "p99": latency.p99,
        "samples": latency.samples,
        "estimated": latency.estimated,
        "threads": latency.threads,
    }


def _stages(artifact: Artifact) -> list[Json]:
    return [
        {"passes": stage.passes, "structure": stage.structure, "weights": stage.weights}
        | {"precision": stage.onnx.precision, "params": got.params, "macs": got.macs, "bytes": got.bytes}
        | {"metric": got.metric, "latency_ms": got.latency and _latency(got.latency)}
        for stage in (artifact.measurements.stages if artifact.measurements else ())
        if (got := stage.measured) is not None
    ]


def _samples(artifact: Artifact) -> Json:
    if artifact.measurements is None:
        return None
    latencies = {"teacher": artifact.measurements.teacher.latency, "result": artifact.measurements.result.latency}
    return {side: latency.raw for side, latency in latencies.items() if latency} or None


def _bundle(artifact: Artifact, folder: Path | None) -> Json:
    if artifact.bundle is None:
        return None
    folder = folder or artifact.bundle.path
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "path": folder,
        "manifest_sha256": artifact.bundle.manifest_sha256,
        "files": [{"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size} for path in files],
    }


def _plain(value: object) -> Json:
    """Convert ``value`` to JSON's types.

    JSON has no NaN and no infinity: they become null. UTF-8 has no lone surrogate, which a file name may hold: it
    becomes a question mark.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
