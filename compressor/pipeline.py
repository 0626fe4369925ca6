"""A run, from the model file to the bundle, in one place: ingest, pass by pass, publish, judge."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from compressor import __version__
from compressor.atomic import write
from compressor.bench.machine import fits, machine, machine_of
from compressor.bench.ssh import Board
from compressor.budgets import Outcome, judge
from compressor.core import (
    Artifact,
    BudgetMissed,
    CompressError,
    Context,
    Data,
    Json,
    Model,
    OnnxModel,
    Pass,
    Progress,
    Record,
    Result,
    Stage,
    Unavailable,
    UsageError,
)
from compressor.plan import Plan, settings_of
from compressor.report.document import DataUsed, build_report, write_report
from compressor.store import Store, digest, identity
from compressor.train import workers

if TYPE_CHECKING:
    from compressor.teacher import Teacher

__all__ = ["Compressed", "Watcher", "check", "run"]

_LIBRARIES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnx-ir",
    "nncf",
    "brevitas",
    "accelerate",
    "numpy",
    "pillow",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom a run tells what it does."""

    progress: Progress
    started: Callable[[str, int, int], None]
    """(kind, number from 1, how many)"""
    done: Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a run left behind."""

    report: Json
    """What ``report.json`` holds."""
    folder: Path
    missed: BudgetMissed | None
    """The shortfall, where a budget or the allowed drop was missed."""

    @property
    def bundle(self) -> Path | None:
        """The deployable folder; None where the profile has no verify pass."""
        return self.folder / "bundle" if self.report["bundle"] else None


def check(plan: Plan, folder: Path, *, fresh: bool = False) -> Teacher:
    """Read the model and refuse what cannot be run, or not into ``folder``, before anything is written."""
    from compressor.teacher import load_teacher

    store = Store(folder.resolve())
    store.vacant()
    teacher = load_teacher(plan.model, plan.options.arch, plan.input, plan.source, trust=plan.trust)
    teacher.known_normalization(plan)
    _check_board(plan)
    store.admit(_inputs(plan, teacher), fresh=fresh)
    return teacher


def _check_board(plan: Plan) -> None:
    """Raise Unavailable where the board cannot be reached, or is another device than the target."""
    if plan.options.board is None:
        return
    with Board.parse(plan.options.board).session() as session:
        found = machine_of(session.facts, session.state())
    if why := fits(plan.target, found):
        raise Unavailable(f"{plan.options.board} is not the target: {why}", hint="--target, the board's own")


def run(plan: Plan, folder: Path, command: Sequence[str], watcher: Watcher, *, fresh: bool = False) -> Compressed:
    """Run a checked plan into ``folder``. Finished passes of an earlier, stopped run are not run again.

    Of several processes (``torchrun``) the first does what is written here; they share ``folder`` and train together.
    """
    if not workers.is_main_process():
        return _follow(plan, folder, watcher)
    fresh = fresh and not workers.restarted()
    teacher = check(plan, folder, fresh=fresh)
    store = Store(folder.resolve())
    with store.claimed(_inputs(plan, teacher), fresh=fresh), _logged(store.folder):
        model, data, notes = teacher.settle(plan, store, watcher.progress)
        workers.barrier(plan.device)
        artifact = run_passes(plan, Artifact(model), data, store, watcher)
        outcomes = _outcomes(plan, artifact)
        report = _publish(plan, artifact, notes, outcomes, store, command)
        workers.barrier(plan.device)
    return Compressed(report, folder, _missed(outcomes, folder))


def _follow(plan: Plan, folder: Path, watcher: Watcher) -> Compressed:
    """A further process's share of a run: it trains where the first does, reads what that writes, writes nothing."""
    from compressor.teacher import load_teacher

    teacher = load_teacher(plan.model, plan.options.arch, plan.input, plan.source, trust=plan.trust)
    store = Store(folder.resolve())
    workers.barrier(plan.device)
    model, data, _ = teacher.settle(plan, store, watcher.progress)
    artifact = run_passes(plan, Artifact(model), data, store, watcher)
    workers.barrier(plan.device)
    report = json.loads((store.folder / "report.json").read_text(encoding="utf-8"))
    return Compressed(report, folder, _missed(_outcomes(plan, artifact), folder))


def _outcomes(plan: Plan, artifact: Artifact) -> Sequence[Outcome]:
    return judge(plan.budgets, plan.max_drop, artifact.measurements) if artifact.measurements else []


def _missed(outcomes: Sequence[Outcome], folder: Path) -> BudgetMissed | None:
    shortfalls = [o.shortfall for o in outcomes if not o.met and o.shortfall]
    if not shortfalls:
        return None
    return BudgetMissed("; ".join(shortfalls), hint=f"the bundle is kept in {folder}; loosen the limit or shrink more")


def run_passes(plan: Plan, artifact: Artifact, data: Data | None, store: Store, watcher: Watcher) -> Artifact:
    """Run the passes in order, each on what the one before it made."""
    since: list[tuple[str, Model, Model]] = []
    for number, each in enumerate(plan.passes, start=1):
        watcher.started(each.kind, number, len(plan.passes))
        before = artifact
        try:
            artifact, record = _run_pass(each, before, plan, data, store, watcher.progress)
        except Exception as error:
            if gone := store.missing(artifact):
                raise UsageError(
                    f"{gone} was deleted during the run", hint="the same command makes it again"
                ) from error
            if workers.lost(error):
                raise CompressError(
                    "another process of this run ended",
                    hint="its own message says why; torchrun --max-restarts N goes on by itself from where it was",
                ) from error
            if not isinstance(error, CompressError):
                raise
            earlier = ", ".join(p.kind for p in plan.passes[: number - 1]) or "nothing"
            error.what = f"{each.kind} (pass {number} of {len(plan.passes)}, after {earlier}): {error.what}"
            raise
        since.append((each.kind, before.result, artifact.result))
        if artifact.onnx is not None and artifact.onnx != before.onnx:
            artifact = replace(artifact, stages=(*artifact.stages, _stage(since, artifact.onnx)))
            since = []
        artifact = replace(artifact, log=(*artifact.log, record))
        _log.info(
            "%s: %.1f s%s %s", each.kind, record.seconds, " (cached)" if record.cached else "", dict(record.metrics)
        )
        watcher.done(record)
    return artifact


def _stage(since: Sequence[tuple[str, Model, Model]], onnx: OnnxModel) -> Stage:
    """A new graph, and the passes since the one before it: each with the network before and after."""
    structure = [kind for kind, a, b in since if (a.family, a.settings) != (b.family, b.settings)]
    weights = [kind for kind, a, b in since if a.sha256 != b.sha256]
    return Stage(
        tuple(kind for kind, _, _ in since),
        structure[-1] if structure else None,
        weights[-1] if weights else None,
        since[-1][2],
        onnx,
    )


def _run_pass(
    each: Pass, artifact: Artifact, plan: Plan, data: Data | None, store: Store, progress: Progress
) -> tuple[Artifact, Record]:
    key = _key(each, artifact, plan, data)
    kept = None if each.volatile else store.finished(each.kind, key, artifact)
    cached = workers.broadcast(lambda: kept is not None, plan.device)
    if not cached and workers.is_main_process():
        with store.workdir(each.kind, key) as workdir:
            result, record = _perform(each, artifact, plan, data, store, progress, workdir)
            store.finish(each.kind, key, each.produces, result, record)
        kept = result, record
    elif not cached and each.collective:
        with TemporaryDirectory() as scratch:
            _perform(each, artifact, plan, data, store, progress, Path(scratch))
    workers.barrier(plan.device)
    if kept is None and (kept := store.finished(each.kind, key, artifact)) is None:
        raise UsageError(
            f"process {workers.rank()} does not see what the first one wrote to {store.folder}",
            hint="name a folder with -o that all processes share",
        )
    result, record = kept
    return result.artifact, replace(record, cached=cached)


def _perform(
    each: Pass,
    artifact: Artifact,
    plan: Plan,
    data: Data | None,
    store: Store,
    progress: Progress,
    workdir: Path,
) -> tuple[Result, Record]:
    context = Context(
        plan.target,
        plan.profile,
        data,
        workdir,
        plan.seed,
        plan.device,
        progress,
        store.memo,
        store.kept,
        plan.options.board,
    )
    begun = time.perf_counter()
    with contextlib.nullcontext() if each.collective else workers.alone():
        result = each.run(artifact, context)
    seconds = time.perf_counter() - begun
    record = Record(each.kind, settings_of(each), seconds, False, result.metrics, result.warnings, result.pinned)
    return result, record


def _key(each: Pass, artifact: Artifact, plan: Plan, data: Data | None) -> str:
    """What the outcome of a pass depends on, and nothing else."""
    return digest(
        {
            "pass": [each.kind, settings_of(each)],
            "artifact": {
                slot: identity(getattr(artifact, slot)) for slot in sorted(each.needs | {"teacher", "student"})
            },
            "target": identity(plan.target),
            "profile": plan.profile.name,
            "board": plan.options.board,
            "data": None
            if data is None
            else [data.train.fingerprint if data.train else None, data.evaluate.fingerprint],
            "seed": plan.seed,
            "versions": versions(),
        }
    )


def _inputs(plan: Plan, teacher: Teacher) -> dict[str, Json]:
    """What a run's folder belongs to: the same command goes on, another is refused."""
    source, options = plan.source, plan.options
    return {
        "model": teacher.file_sha256,
        "arch": options.arch,
        "trust": plan.trust,
        "target": identity(plan.target),
        "passes": [[each.kind, settings_of(each)] for each in plan.passes],
        "data": None
        if source is None
        else [source.train.fingerprint if source.train else None, source.evaluate.fingerprint],
        "input": options.input,
        "normalize": options.normalize,
        "seed": plan.seed,
        "board": options.board,
    }


def versions() -> dict[str, str]:
    """This program and the libraries whose version a result depends on."""
    found = {"compressor": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _publish(
    plan: Plan,
    artifact: Artifact,
    notes: Sequence[str],
    outcomes: Sequence[Outcome],
    store: Store,
    command: Sequence[str],
) -> Json:
    """Bundle, resolved plan and report, each whole or not at all."""
    if artifact.bundle is not None:
        place = store.publish(artifact.bundle.path, "bundle")
        artifact = replace(artifact, bundle=replace(artifact.bundle, path=place))
    write(store.folder / "resolved.toml", resolved(plan, artifact).encode("utf-8", "replace"))
    report = build_report(
        artifact,
        target=plan.target,
        profile=plan.profile,
        seed=plan.seed,
        command=command,
        environment=machine(),
        versions=versions(),
        data=_used(plan),
        budgets=outcomes,
        notes=notes,
    )
    write_report(report, store.folder)
    return report


def _used(plan: Plan) -> DataUsed | None:
    if plan.source is None:
        return None
    halves = [half for half in (plan.source.train, plan.source.evaluate) if half is not None]
    named = " and ".join(name for name in (plan.options.data, plan.options.eval) if name)
    return DataUsed(named, {half.name: half.fingerprint for half in halves})


def resolved(plan: Plan, artifact: Artifact) -> str:
    """The plan as it ran, as a profile that runs it again."""
    import tomli_w

    said = {k: v for k, v in dataclasses.asdict(plan.options).items() if v is not None and k not in ("profile", "set")}
    for name in ("data", "eval", "target"):
        if name in said and Path(said[name]).exists() and (name != "target" or said[name].endswith(".toml")):
            said[name] = str(Path(said[name]).resolve())
    said |= {"input": str(artifact.teacher.input), "seed": plan.seed, "device": plan.device}
    said["normalize"] = artifact.teacher.normalization.name
    passes = [{"kind": done.kind, **_said({**done.settings, **done.pinned})} for done in artifact.log]
    table = {"name": plan.profile.name, "title": plan.profile.title, "resolved": True, "options": said, "pass": passes}
    return tomli_w.dumps(table)


def _said(table: Json) -> Json:
    """Without what is None: TOML has no word for it."""
    if isinstance(table, Mapping):
        return {key: _said(value) for key, value in table.items() if value is not None}
    return table


class _Log(logging.FileHandler):
    """A log that the disk has no room for is no traceback on the user's screen: what is lost by it says so itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        return


class _logged:  # noqa: N801 - used as a context manager function
    """Write the program's log to ``logs/run.log`` while the run lasts."""

    def __init__(self, folder: Path) -> None:
        (folder / "logs").mkdir(exist_ok=True)
        self._handler = _Log(folder / "logs" / "run.log", encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def __enter__(self) -> None:
        logger = logging.getLogger("compressor")
        logger.setLevel(logging.INFO)
        logger.addHandler(self._handler)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            _log.error("stopped", exc_info=error)
        logging.getLogger("compressor").removeHandler(self._handler)
        with contextlib.suppress(OSError):  # of what the disk had no room for
            self._handler.close()
