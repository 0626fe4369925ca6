"""The teacher, settled: what it takes in, how its pixels are scaled, and the data that fits it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import catalog
from compressor.core import InputSpec, Json, Model, Normalization, Progress, UsageError
from compressor.frontend import Ingested, ingest
from compressor.plan import Plan
from compressor.store import Store, file_sha256
from compressor.train import workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from compressor.data import PhotographSource, Prepared, Source
    from compressor.data._photographs import PreparedSource

__all__ = ["Teacher", "take_in"]

_SAMPLE = 512
"""Training images on which normalisations are tried; down to a quarter of them for heavy networks."""
_SAMPLE_MACS = 100_000_000_000
"""What one normalisation may cost to try: some ten seconds on two cores."""


@dataclass(frozen=True)
class Teacher:
    """A model file that was read and understood; nothing is written yet."""

    ingested: Ingested
    file_sha256: str
    input: InputSpec
    params: int
    macs: int
    outputs: int
    enlarges: int | None = None
    """As in `compressor.core.Model`."""

    def settle(
        self, plan: Plan, store: Store, progress: Progress
    ) -> tuple[Model, Prepared | PreparedSource | None, tuple[str, ...]]:
        """Write its weights to the run's folder, settle its normalisation, prepare the data.

        Returns the model, the data, and sentences for the report.
        Raises UsageError where data and model do not fit, or no normalisation is clearly right.
        """
        from compressor.frontend import save

        normalization, said = self._normalization(plan, store, progress)
        weights = store.folder / "teacher" / "model.safetensors"
        weights.parent.mkdir(exist_ok=True)
        sha256 = save(self.ingested.state, weights) if workers.is_main_process() else file_sha256(weights)
        model = Model(
            family=self.ingested.family,
            settings=self.ingested.settings,
            weights=weights,
            sha256=sha256,
            params=self.params,
            macs=self.macs,
            outputs=self.outputs,
            input=self.input,
            normalization=normalization,
            enlarges=self.enlarges,
        )
        data = None if plan.source is None else plan.source.prepare(self.input, normalization, self.enlarges)
        return model, data, (*self.ingested.notes, said, *(data.notes if data else ()))

    def known_normalization(self, plan: Plan) -> tuple[Normalization, str] | None:
        """What is known of it without running the network: given, or the family's where there is no data.

        None where training data can tell. Raises UsageError where nothing can.
        """
        from compressor.preprocessing import parse_normalization

        channels, default = self.input.channels, family_default(self.ingested, self.input.channels)
        if plan.options.normalize is not None:
            given = parse_normalization(plan.options.normalize, channels)
            if self.enlarges is not None and given.range[1] != 1.0:
                raise UsageError(
                    f"--normalize {given.name}: a network that makes images must make them in [0, 1]",
                    hint="wrap it in a module that scales what it takes and gives, and name that with --arch",
                )
            return given, f"normalisation {given.name} as given"
        if self.enlarges is not None:
            # It is no evidence of a scaling that scores are best with it: there are none. [0, 1] is the rule.
            known = parse_normalization(default or "unit", channels)
            return known, f"normalisation {known.name}: {'the family' if default else 'super-resolution'}'s default"
        if plan.source is not None and plan.source.train is not None:
            return None
        if default is None:
            raise UsageError(
                f"how {plan.options.arch or self.ingested.family} wants its pixels scaled is not known, "
                "and there is no training data to find out with",
                hint="--normalize imagenet|cifar10|unit|symmetric|raw|MEAN/STD",
            )
        return parse_normalization(default, channels), f"normalisation {default}: the family's default, not checked"

    def _normalization(self, plan: Plan, store: Store, progress: Progress) -> tuple[Normalization, str]:
        import torch

        from compressor.data import Source
        from compressor.preprocessing import infer_normalization, parse_normalization

        if (known := self.known_normalization(plan)) is not None:
            return known
        channels, default = self.input.channels, family_default(self.ingested, self.input.channels)
        assert isinstance(plan.source, Source)
        assert plan.source.train is not None
        train = plan.source.train
        drawn = train.sample(max(_SAMPLE // 4, min(_SAMPLE, _SAMPLE_MACS // max(1, self.macs))))

        def infer() -> dict[str, Json]:
            module = self.ingested.build()

            def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
                progress("finding the normalisation", 0, 1)
                with torch.inference_mode():
                    scores: NDArray[np.float32] = module(torch.from_numpy(batch)).numpy()
                return scores

            pixels = train.pixels(drawn, self.input)
            inferred = infer_normalization(predict, pixels, train.labels[drawn], default, channels)
            return {"name": inferred.normalization.name, "note": inferred.note}

        found = store.memo(
            "normalization", [self.file_sha256, plan.options.arch, self.input.shape, train.fingerprint], infer
        )
        return parse_normalization(found["name"], channels), found["note"]


def load_teacher(
    path: Path,
    arch: str | None,
    given: InputSpec | None,
    source: Source | PhotographSource | None,
    *,
    trust: bool = False,
) -> Teacher:
    """Read a model file, settle its input (flag, file, family, data) and count what it costs.

    Raises UsageError or UnsafeInput as `ingest` does, and UsageError where model, input and data do not fit.
    """
    # Nothing here imports torch before this is done: a file that is refused is refused at once.
    ingested = ingest(path, arch=arch, trust=trust)
    from compressor.models._cost import cost

    module = ingested.build()
    input = _input(ingested, given, source)
    counted = cost(module, input)
    outputs, enlarges = _made(module, input)
    if source is not None:
        _suits(source, input, enlarges)
    if source is not None and enlarges is None and outputs != len(source.classes):
        raise UsageError(
            f"the model tells {outputs} classes apart, the data has {len(source.classes)}",
            hint="give the data that the model was trained for",
        )
    return Teacher(ingested, file_sha256(path), input, counted.params, counted.macs, outputs, enlarges)


def family_default(ingested: Ingested, channels: int) -> str | None:
    """The normalisation that a known family's published teachers were trained with."""
    known = _family(ingested)
    return known.normalization if known is not None and channels == 3 else None


def _family(ingested: Ingested) -> Any:
    return None if ":" in ingested.family else catalog.find("models", ingested.family)


def _input(ingested: Ingested, given: InputSpec | None, source: Source | PhotographSource | None) -> InputSpec:
    """The flag, the file's or the family's own, or the data's; a family trained at its data's size follows that."""
    from compressor.data import default_size

    if ingested.input is not None:
        if given not in (None, ingested.input):
            raise UsageError(f"--input is {given}, the model takes {ingested.input} alone", hint="leave out --input")
        return ingested.input
    if given is not None:
        if ingested.channels is not None and given.channels != ingested.channels:
            raise UsageError(
                f"--input {given} has {given.channels} channels, the model takes {ingested.channels}",
                hint="mend --input",
            )
        return given
    family, size = _family(ingested), default_size(source)
    side = None if family is None else family.input_size
    if size is not None and (family is None or (family.follows_data and max(size) <= 64)):
        height, width = size
    elif side is not None:
        height = width = side
    else:
        raise UsageError("the model's input size is not known", hint="--input CHANNELSxHEIGHTxWIDTH, such as 3x224x224")
    stored = source.size.channels if source is not None and source.size is not None else 3
    return InputSpec(ingested.channels or stored, height, width)


def _suits(source: Source | PhotographSource, input: InputSpec, enlarges: int | None) -> None:
    """Raises UsageError where the data is for another task, or for another scale."""
    from compressor.preprocessing import parse_normalization

    if (source.task == "super-resolution") != (enlarges is not None) or enlarges is not None:
        source.prepare(input, parse_normalization("unit", input.channels), enlarges)


def _made(module: nn.Module, input: InputSpec) -> tuple[int, int | None]:
    """How many scores the network gives for a sample; or, of images, channels and how many times they are larger.

    Found by running it.
    """
    import torch

    try:
        with torch.inference_mode():
            scores = module(torch.zeros(2, *input.shape))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the model does not take an input of {input}: {reason}", hint="mend --input") from error
    if isinstance(scores, torch.Tensor) and scores.ndim == 4 and scores.shape[:2] == (2, input.channels):
        times, rest = divmod(scores.shape[2], input.height)
        if times >= 1 and not rest and scores.shape[3] == times * input.width:
            return int(scores.shape[1]), times
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or scores.shape[0] != 2:
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UsageError(
            f"the model maps 2 images to {shape}, not to a score a class",
            hint="give a classifier's forward one output; a network that makes images takes and gives as many channels",
        )
    return int(scores.shape[1]), None
