"""A teacher whose task is known, and how it becomes a run's model and data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.core import (
    CompressError,
    Data,
    InputSpec,
    Json,
    Model,
    Normalization,
    Progress,
    Session,
    Task,
    UsageError,
)
from compressor.plan import Plan
from compressor.store import Store, identity
from compressor.teacher._network import Network
from compressor.versions import installed_versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Teacher", "further_plans", "named_by"]

_SAMPLE = 512
"""Training images on which normalisations are tried; down to a quarter of them for heavy networks."""
_SAMPLE_MACS = 100_000_000_000
"""What one normalisation may cost to try: some ten seconds on two cores."""


@dataclass(frozen=True)
class Teacher:
    """A model file that was read and understood; nothing is written yet."""

    network: Network
    file_sha256: str
    task: Task
    image: InputSpec | None
    """The size of its image input; None of any other network."""
    layout: str = "nchw"
    """The layout of its image input: ``nchw`` or ``nhwc``."""
    further: tuple[Teacher, ...] = ()
    """What students learn from beside it."""

    def resolve(
        self, plan: Plan, store: Store, progress: Progress, folder: str = "teacher"
    ) -> tuple[Model, Data | None, tuple[str, ...]]:
        """Write the network to a folder of the run's, settle its normalisation, prepare the data.

        Returns the model, the data, and sentences for the report.
        Raises UsageError where data and model do not fit, or no normalisation is clearly right.
        """
        from compressor.data import FeedSource

        known = self.known_normalization(plan)
        place = store.folder / folder
        place.mkdir(exist_ok=True, parents=True)
        source, graph, sha256 = self.network.write(place)
        model = Model(
            source=source,
            graph=graph,
            sha256=sha256,
            params=self.network.params,
            macs=self.network.macs,
            signature=self.network.signature,
            sizes=self.network.sizes,
            ranges=self.network.ranges,
        )
        if known is None:
            model, note = self._with_normalization(model, plan, store, progress)
        else:
            model, note = replace(model, normalization=known[0]), known[1]
        data: Data | None = None
        if isinstance(plan.source, FeedSource):
            data = plan.source.prepare_feeds(self.network.signature, self.network)
        elif plan.source is not None:
            assert self.image is not None
            assert model.normalization is not None
            name = self.network.signature.input.name
            data = self.task.prepare(plan.source, self.image, model.normalization, name)
        notes = data.notes if data else ()
        return model, data, (*self.network.notes, f"task {self.task.kind}", *([note] if note else []), *notes)

    def resolve_further(self, plan: Plan, store: Store, progress: Progress) -> tuple[Model, ...]:
        """Write the teachers that students learn from beside it, and settle their normalisations."""
        models = []
        for number, (each, alone) in enumerate(zip(self.further, further_plans(plan), strict=True), start=2):
            with named_by(alone.model):
                models.append(each.resolve(alone, store, progress, f"teacher/{number}")[0])
        return tuple(models)

    def mismatch(self, other: Teacher) -> str | None:
        """Tell in a few words why students cannot learn from ``other`` too; None where they can.

        That it tells the data's classes apart was seen when it was loaded.
        """
        if other.task.kind != self.task.kind:
            return f"its task is {other.task.kind}, and the teacher's {self.task.kind}"
        if other.image != self.image or other.layout != "nchw":
            return f"it takes {other.image} ({other.layout}), and the teacher {self.image}"
        return None

    def known_normalization(self, plan: Plan) -> tuple[Normalization | None, str] | None:
        """What is known of it without running the network: given, or the family's where there is no data.

        None where training data can tell. Raises UsageError where nothing can.
        """
        if self.image is None:
            if plan.options.normalize is not None:
                raise UsageError("--normalize is for networks that take images", hint="leave it out")
            return None, ""
        found = self._known(plan, self.image.channels)
        if found is None or found[0] is None:
            return found
        return self._ordered(plan.options.channels, found[0]), found[1]

    def _known(self, plan: Plan, channels: int) -> tuple[Normalization | None, str] | None:
        from compressor.preprocessing import parse_normalization

        default = self.network.default_normalization
        if plan.options.normalize is not None:
            given = parse_normalization(plan.options.normalize, channels)
            if self.task.output_range is not None and given.range[1] != 1.0:
                raise UsageError(
                    f"--normalize {given.name}: a network that makes images must make them in [0, 1]",
                    hint="wrap it in a module that scales what it takes and gives, and name that with --arch",
                )
            return given, f"normalisation {given.name} as given"
        if self.task.output_range is not None:
            # It is no evidence of a scaling that scores are best with it: there are none. [0, 1] is the rule.
            known = parse_normalization(default or "unit", channels)
            return known, f"normalisation {known.name}: {'the family' if default else self.task.kind}'s default"
        if plan.source is not None and plan.source.targets == "labels" and plan.source.train is not None:
            return None
        if default is not None:
            note = f"normalisation {default}: the family's default, not checked"
            return parse_normalization(default, channels), note
        if plan.source is None:
            return None, "how pixels become its input is not known: --normalize tells the bundle"
        raise UsageError(
            f"how {plan.options.arch or self.network.family} wants its pixels scaled is not known, "
            "and there is no labelled training data to find out with",
            hint="--normalize imagenet|cifar10|unit|symmetric|raw|MEAN/STD, with --channels bgr where it takes those",
        )

    def _with_normalization(self, model: Model, plan: Plan, store: Store, progress: Progress) -> tuple[Model, str]:
        """Find the normalisation by what the network makes of training images; return a sentence on it too.

        They run on ONNX Runtime. The graph of a torch network that is made for that is kept, and lowered later.
        """
        from compressor.data import Source
        from compressor.feeds import run_in_batches
        from compressor.preprocessing import infer_normalization, parse_normalization

        assert self.image is not None
        assert isinstance(plan.source, Source)
        assert plan.source.train is not None
        image, train, name = self.image, plan.source.train, self.network.signature.input.name
        drawn = train.sample(max(_SAMPLE // 4, min(_SAMPLE, _SAMPLE_MACS // max(1, self.network.macs))))
        given = plan.options.channels
        exported = None if model.source is None else _place_of_export(model, plan, store)

        def infer() -> dict[str, Json]:
            progress("loading the network", 0, 1)
            session = self._session(model, plan, exported)

            def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
                progress("finding the normalisation", 0, 1)
                outputs = run_in_batches(session, {name: batch}, len(batch))
                scores: NDArray[np.float32] = next(o for o in outputs.values() if o.ndim == 2)
                return scores

            inferred = infer_normalization(
                predict,
                train.pixels(drawn, image),
                train.labels[drawn],
                self.network.default_normalization,
                given,
                self.layout,
            )
            found = inferred.normalization
            return {"name": found.name, "channels": found.channels, "note": inferred.note}

        key = [self.file_sha256, plan.options.arch, image.shape, [given, self.layout], train.fingerprint]
        found = store.memo("normalization", key, infer)
        normalization = self._ordered(found["channels"], parse_normalization(found["name"], image.channels))
        if exported is not None and exported.is_file():
            model = replace(model, source=replace(model.torch, exported=exported))
        return replace(model, normalization=normalization), found["note"]

    def _session(self, model: Model, plan: Plan, exported: Path | None) -> Session:
        """The network on ONNX Runtime; the float graph of a torch network is written to ``exported``."""
        import torch

        from compressor import catalog
        from compressor.lowering.lower import lower_to_float
        from compressor.lowering.save import save

        if exported is None:
            return self.network
        save(lower_to_float(model, self.task, plan.target.opset), exported, "fp32")
        session: Session = catalog.find("backends", "onnxruntime")().open(exported, threads=torch.get_num_threads())
        return session

    def _ordered(self, channels: str | None, normalization: Normalization) -> Normalization:
        """The same for an order of colours, and for the network's layout."""
        return replace(normalization, channels=channels or "rgb", layout=self.layout)


def further_plans(plan: Plan) -> list[Plan]:
    """Return the plan for each further teacher, which has code, normalisation and names of its own."""
    alone = replace(plan.options, arch=None, normalize=None, channels=None, layout=None)
    given = tuple(replace(each, name=None) for each in plan.input) if len(plan.input) == 1 else plan.input
    return [replace(plan, model=path, options=alone, input=given) for path in plan.teachers]


@contextmanager
def named_by(path: Path) -> Iterator[None]:
    """Let errors about a further teacher name it; --normalize is for the first one."""
    try:
        yield
    except CompressError as error:
        error.what = f"--teacher {path}: {error.what}"
        if error.hint and "--normalize" in error.hint:
            error.hint = "give a teacher of a known family, or more training data, which tells how it was trained"
        raise


def _place_of_export(model: Model, plan: Plan, store: Store) -> Path:
    """The file for the float graph of a torch network, one for each version of what makes it."""
    return store.kept("teacher-export", [identity(model), plan.target.opset, installed_versions()]) / "model.onnx"
