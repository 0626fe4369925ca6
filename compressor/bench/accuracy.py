"""The metrics of models on samples that ``compress gate --eval`` names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from compressor import catalog
from compressor.bench.bench_model import BenchModel
from compressor.bundle import Manifest
from compressor.core import InputSpec, Metric, Progress, Session, Split, Task, UsageError
from compressor.feeds import judged_at_once
from compressor.machine import judgement, known_target
from compressor.tasks import METRIC, with_metric

if TYPE_CHECKING:
    from compressor.data import AnySource

__all__ = ["evaluate_models"]


def evaluate_models(
    models: Mapping[str, BenchModel], evaluate: str, metric: str | None, progress: Progress
) -> dict[str, Metric]:
    """Return each model's metric on the samples that ``evaluate`` names, the first model being the reference.

    An ONNX file alone says neither its task nor how its input is prepared: it is judged as the bundle beside it.
    Raises UsageError where there is no bundle, the network takes no images, or the samples are not for its task.
    """
    from compressor.data import load_data

    bundle = next((model.manifest for model in models.values() if model.folder), None)
    if bundle is None:
        raise UsageError(
            f"{next(iter(models.values())).path} does not say how its input is prepared",
            hint="give a bundle or a run's folder",
        )
    source = load_data(None, evaluate=evaluate)
    metrics: dict[str, Metric] = {}
    reference: Session | None = None
    with TemporaryDirectory(prefix="compressor-") as folder:
        for name, model in models.items():
            manifest = model.manifest if model.folder else bundle
            task = _task(manifest, metric)
            session = _open(model, manifest, Path(folder))
            split = _prepared(task, manifest, source, reference or session, model.signature.input.name)
            batch = judged_at_once(session.signature, manifest.sizes)
            metrics[name], _ = task.evaluate(session, split, batch, progress, reference)
            reference = reference or session
    return metrics


def _task(manifest: Manifest, metric: str | None) -> Task:
    """The task of a bundle. A metric of the user's own is code, which the command names and no manifest does."""
    facts = {name: fact for name, fact in manifest.task.items() if name not in ("kind", METRIC)}
    if METRIC in manifest.task and metric is None:
        raise UsageError(
            f"the bundle was judged by the metric {manifest.task[METRIC]['name']}, which is code of yours",
            hint="name it: --metric package.module:callable",
        )
    kind = manifest.task["kind"]
    task: Task = catalog.make(catalog.find("tasks", kind), facts, f"task {kind!r} of the manifest")
    return with_metric(task, metric)


def _prepared(task: Task, manifest: Manifest, source: AnySource, session: Session, name: str) -> Split:
    from compressor.data import FeedSource

    if isinstance(source, FeedSource):
        return source.prepare_feeds(session.signature, session).evaluate
    normalization = manifest.normalization
    if normalization is None:
        raise UsageError(
            "how images become the network's input is not known", hint="give arrays by the names of its inputs: an .npz"
        )
    spec = next(spec for spec in manifest.signature.inputs if manifest.image and spec.name == manifest.image.name)
    _, *shape = spec.sized(manifest.sizes)
    size = InputSpec(shape[2], shape[0], shape[1]) if normalization.layout == "nhwc" else InputSpec(*shape)
    return task.prepare(source, size, normalization, name).evaluate


def _open(model: BenchModel, manifest: Manifest, folder: Path) -> Session:
    """Open a model to judge its accuracy: its engine by the target's kernels, else its graph in float."""
    threads = len(os.sched_getaffinity(0))
    backend = catalog.find("backends", manifest.engine.backend)()
    target = known_target(manifest.target)
    judge = None if target is None else judgement(target, backend)
    if judge is not None and judge.exact:
        return judge.open(model.graph(folder), threads=threads)
    session: Session = backend.open(model.loaded(folder).path, threads=threads)
    return session
