"""A run, from the model file to the bundle: load the teacher, run pass after pass, publish, judge."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from compressor.atomic import write
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
    Task,
    Unavailable,
    UsageError,
)
from compressor.machine import machine, machine_of, target_mismatch
from compressor.plan import Plan
from compressor.report.document import DataUsed, build_report, write_report
from compressor.resolved import resolved_toml
from compressor.run_log import describe_pass, log_to
from compressor.settings import settings_of
from compressor.store import Store, digest, identity
from compressor.train import workers
from compressor.versions import installed_versions

if TYPE_CHECKING:
    from compressor.data import AnySource
    from compressor.teacher import Teacher

__all__ = ["Compressed", "Watcher", "check", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Callbacks through which a run tells how far it is."""

    progress: Progress
    """Called during long work."""
    started: Callable[[str, int, int], None]
    """Called before each pass with its kind, its number from 1, and how many passes there are."""
    finished: Callable[[Record], None]
    """Called after each pass."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A finished run."""

    report: Json
    """The content of ``report.json``."""
    folder: Path
    missed: BudgetMissed | None
    """The shortfall, where a budget or the allowed drop was missed; else None."""

    @property
    def bundle(self) -> Path | None:
        """The deployable folder; None where the profile has no verify pass."""
        return self.folder / "bundle" if self.report["bundle"] else None


def check(plan: Plan, folder: Path, *, fresh: bool = False) -> Teacher:
    """Load the teacher and check that ``plan`` can run in ``folder``. Nothing is written.

    Raises UsageError or UnsafeInput for a model, data or folder that cannot be used, Unavailable for a board.
    """
    store = Store(folder.resolve())
    store.check_usable()
    from compressor.teacher import teacher_of

    teacher = teacher_of(plan)
    teacher.known_normalization(plan)
    _check_board(plan)
    store.check_inputs(_inputs(plan, teacher), fresh=fresh)
    return teacher


def run(
    plan: Plan,
    folder: Path,
    command: Sequence[str],
    watcher: Watcher,
    *,
    fresh: bool = False,
    shared: Path | None = None,
) -> Compressed:
    """Run a checked plan in ``folder``. Passes that an earlier, stopped run finished are taken from its cache.

    ``shared`` is a folder for what other runs of the same teacher and data use too.
    Under ``torchrun`` every process calls this with the same ``folder``: see `compressor.train.workers`.
    Raises CompressError. A missed budget is not raised: it stands in the result.
    """
    store = Store(folder.resolve())
    with _begun(plan, store, fresh=fresh and not workers.restarted()) as teacher:
        if shared is not None:
            store.share(shared.resolve() / _shareable(plan, teacher))

        def resolve() -> tuple[Artifact, Data | None, Sequence[str]]:
            model, data, notes = teacher.resolve(plan, store, watcher.progress)
            further = teacher.resolve_further(plan, store, watcher.progress)
            return Artifact(model, further_teachers=further), data, notes

        artifact, data, notes = workers.main_first(resolve, resolve, plan.device)
        artifact = run_passes(plan, teacher.task, artifact, data, store, watcher)
        outcomes = judge(plan.budgets, plan.max_drop, artifact.measurements) if artifact.measurements else []
        report = workers.main_first(
            lambda: _publish(plan, teacher.task, artifact, notes, outcomes, store, command),
            lambda: json.loads((store.folder / "report.json").read_text(encoding="utf-8")),
            plan.device,
        )
    return Compressed(report, folder, _missed(outcomes, folder))


def _check_board(plan: Plan) -> None:
    """Raise Unavailable where the board cannot be reached, or is another device than the target."""
    if plan.options.board is None:
        return
    with Board.parse(plan.options.board).session() as session:
        found = machine_of(session.facts, session.state())
    if why := target_mismatch(plan.target, found):
        raise Unavailable(f"{plan.options.board} is not the target: {why}", hint="--target, the board's own")


@contextlib.contextmanager
def _begun(plan: Plan, store: Store, *, fresh: bool) -> Iterator[Teacher]:
    """Load the teacher. The main process also checks the plan, and holds the run's folder and log meanwhile."""
    from compressor.teacher import teacher_of

    if not workers.is_main_process():
        yield teacher_of(plan)
        return
    teacher = check(plan, store.folder, fresh=fresh)
    with store.claimed(_inputs(plan, teacher), fresh=fresh), log_to(store.folder / "logs"):
        yield teacher


def _missed(outcomes: Sequence[Outcome], folder: Path) -> BudgetMissed | None:
    shortfalls = [o.shortfall for o in outcomes if not o.met and o.shortfall]
    if not shortfalls:
        return None
    return BudgetMissed("; ".join(shortfalls), hint=f"the bundle is kept in {folder}; loosen the limit or shrink more")


# -- passes -----------------------------------------------------------------------------------


def run_passes(
    plan: Plan, task: Task, artifact: Artifact, data: Data | None, store: Store, watcher: Watcher
) -> Artifact:
    """Run the passes in order, each on what the one before it made. Raises CompressError naming the pass."""
    since_graph: list[tuple[str, Model, Model]] = []
    for number, each in enumerate(plan.passes, start=1):
        watcher.started(each.kind, number, len(plan.passes))
        before = artifact
        try:
            artifact, record = _run_pass(each, before, plan, task, data, store, watcher.progress)
        except Exception as error:
            if (explained := _explained(error, plan, number, before, store)) is None:
                raise
            raise explained from error
        since_graph.append((each.kind, before.result, artifact.result))
        if artifact.onnx is not None and artifact.onnx != before.onnx:
            artifact = replace(artifact, stages=(*artifact.stages, _stage(since_graph, artifact.onnx)))
            since_graph = []
        artifact = replace(artifact, log=(*artifact.log, record))
        _log.info("%s", describe_pass(record))
        watcher.finished(record)
    return artifact


def _explained(error: Exception, plan: Plan, number: int, before: Artifact, store: Store) -> CompressError | None:
    """Return the error to raise instead of ``error`` from pass ``number``; None where it is to pass as it is.

    A CompressError is given the pass's name and passes as it is.
    """
    if gone := store.missing(before):
        return UsageError(f"{gone} was deleted during the run", hint="the same command makes it again")
    if workers.lost(error):
        return CompressError(
            "another process of this run ended",
            hint="its own message says why; torchrun --max-restarts N goes on by itself from where it was",
        )
    if isinstance(error, CompressError):
        earlier = ", ".join(p.kind for p in plan.passes[: number - 1]) or "nothing"
        kind = plan.passes[number - 1].kind
        error.what = f"{kind} (pass {number} of {len(plan.passes)}, after {earlier}): {error.what}"
    return None


def _stage(since: Sequence[tuple[str, Model, Model]], onnx: OnnxModel) -> Stage:
    """Make the stage of a new graph. ``since`` has the passes since the graph before: kind, network before, after."""
    structure = [kind for kind, a, b in since if _architecture(a) != _architecture(b)]
    weights = [kind for kind, a, b in since if a.sha256 != b.sha256]
    return Stage(
        tuple(kind for kind, _, _ in since),
        structure[-1] if structure else None,
        weights[-1] if weights else None,
        since[-1][2],
        onnx,
    )


def _architecture(model: Model) -> Json:
    """What tells two architectures apart."""
    return [model.sha256] if model.source is None else [model.source.family, dict(model.source.settings)]


def _run_pass(
    each: Pass, artifact: Artifact, plan: Plan, task: Task, data: Data | None, store: Store, progress: Progress
) -> tuple[Artifact, Record]:
    """Run a pass, or take its result from the cache."""
    key = _key(each, artifact, plan, task, data)

    def make() -> tuple[Result, Record]:
        with store.workdir(each.kind, key) as workdir:
            result, record = _perform(each, artifact, plan, task, data, store, progress, workdir)
            store.finish(each.kind, key, each.produces, result, record)
        return result, record

    def join() -> None:
        with TemporaryDirectory() as scratch:
            _perform(each, artifact, plan, task, data, store, progress, Path(scratch))

    (result, record), cached = workers.run_once(
        make,
        lambda: store.finished(each.kind, key, artifact),
        plan.device,
        repeat=each.volatile,
        join=join if each.collective else None,
    )
    return result.artifact, replace(record, cached=cached)


def _perform(
    each: Pass,
    artifact: Artifact,
    plan: Plan,
    task: Task,
    data: Data | None,
    store: Store,
    progress: Progress,
    workdir: Path,
) -> tuple[Result, Record]:
    context = Context(
        plan.target,
        plan.profile,
        task,
        data,
        workdir,
        plan.seed,
        plan.device,
        progress,
        store.memo,
        store.kept,
        artifact.further_teachers,
        plan.options.board,
        plan.max_drop,
    )
    start = time.perf_counter()
    result = each.run(artifact, context)
    seconds = time.perf_counter() - start
    record = Record(each.kind, settings_of(each), seconds, False, result.metrics, result.warnings, result.pinned)
    return result, record


def _key(each: Pass, artifact: Artifact, plan: Plan, task: Task, data: Data | None) -> str:
    """Return the cache key of a pass: a digest of all that its outcome depends on, and of nothing else."""
    return digest(
        {
            "pass": [each.kind, settings_of(each)],
            "artifact": {
                slot: identity(getattr(artifact, slot)) for slot in sorted(each.needs | {"teacher", "student"})
            },
            "further teachers": [identity(each) for each in artifact.further_teachers],
            "task": [task.kind, dict(task.facts)],
            "target": identity(plan.target),
            "profile": plan.profile.name,
            "board": plan.options.board,
            "max_drop": plan.max_drop if each.kind == "quantize" else None,
            "data": _fingerprints(data),
            "seed": plan.seed,
            "versions": installed_versions(),
        }
    )


def _inputs(plan: Plan, teacher: Teacher) -> dict[str, Json]:
    """Return what a run's folder belongs to: a run with the same inputs goes on there, another is refused."""
    options = plan.options
    return {
        "model": teacher.file_sha256,
        "arch": options.arch,
        "further teachers": [each.file_sha256 for each in teacher.further],
        "trust": plan.trust,
        "target": identity(plan.target),
        "passes": [[each.kind, settings_of(each)] for each in plan.passes],
        "data": _fingerprints(plan.source),
        "input": options.input,
        "normalize": options.normalize,
        "channels": options.channels,
        "layout": options.layout,
        "task": options.task,
        "metric": teacher.task.facts.get("metric"),
        "seed": plan.seed,
        "board": options.board,
    }


def _shareable(plan: Plan, teacher: Teacher) -> str:
    """Return a name for what runs may share that differ in their passes alone."""
    return digest({name: value for name, value in _inputs(plan, teacher).items() if name != "passes"})[:16]


def _fingerprints(data: Data | AnySource | None) -> list[str | None] | None:
    """Return the fingerprints of the training samples and of those evaluated on."""
    if data is None:
        return None
    return [data.train.fingerprint if data.train else None, data.evaluate.fingerprint]


# -- publishing -------------------------------------------------------------------------------


def _publish(
    plan: Plan,
    task: Task,
    artifact: Artifact,
    notes: Sequence[str],
    outcomes: Sequence[Outcome],
    store: Store,
    command: Sequence[str],
) -> Json:
    """Write bundle, resolved.toml and report to the run's folder, each whole or not at all. Return the report."""
    if artifact.bundle is not None:
        place = store.publish(artifact.bundle.path, "bundle")
        artifact = replace(artifact, bundle=replace(artifact.bundle, path=place))
    write(store.folder / "resolved.toml", resolved_toml(plan, artifact).encode("utf-8", "replace"))
    report = build_report(
        artifact,
        task=task.kind,
        target=plan.target,
        profile=plan.profile,
        seed=plan.seed,
        command=command,
        environment=machine(),
        versions=installed_versions(),
        data=_data_used(plan),
        budgets=outcomes,
        notes=notes,
    )
    write_report(report, store.folder)
    return report


def _data_used(plan: Plan) -> DataUsed | None:
    """Name the data of the run for its report."""
    if plan.source is None:
        return None
    splits = [split for split in (plan.source.train, plan.source.evaluate) if split is not None]
    names = " and ".join(name for name in (plan.options.data, plan.options.eval) if name)
    return DataUsed(names, {split.name: split.fingerprint for split in splits})
