"""From a model file to an architecture and its weights."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Json, Model, UsageError
from compressor.ingest._file import read
from compressor.ingest._weights import Weights, fit, some, unwrap
from compressor.models._family import Family

_ARCH = "--arch package.module:callable"


@dataclass(frozen=True, eq=False)
class Ingested:
    """A model that has entered: what builds it, and weights that fit it exactly."""

    family: str
    """A file of ``models/``, or the user's own ``package.module:callable``."""
    settings: Mapping[str, Json]
    """The family's own fields; empty for the user's own."""
    state: Mapping[str, Tensor]
    """Float32 weights and integer buffers under the module's own keys, on the CPU."""
    channels: int | None
    """Input channels; None where they cannot be seen without running the model."""
    outputs: int | None
    """Classes; None where they cannot be seen without running the model."""
    notes: tuple[str, ...]
    """How the weights were found in the file, for people."""

    def build(self) -> nn.Module:
        """The network with these weights, in eval mode."""
        module = _make(self.family, self.settings)
        module.load_state_dict(self.state)
        return module.eval()


def ingest(path: Path, *, arch: str | None = None) -> Ingested:
    """Read a checkpoint and recognise its architecture, or take the user's own: ``package.module:callable``.

    Raises UnsafeInput for a file with code in it, and UsageError for one that cannot be read or recognised.
    """
    weights = unwrap(read(path), path)
    versions = [weights]
    while (weights := versions[-1].stripped() or weights) is not versions[-1]:
        versions.append(weights)
    return _recognised(versions[-1], path) if arch is None else _given(versions, arch)


def load(model: Model) -> nn.Module:
    """The network of an artifact, in eval mode. Raises UsageError where its weights cannot be read."""
    module = _make(model.family, model.settings)
    reference = module.state_dict()
    try:
        state = safetensors.torch.load_file(model.weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"cannot read {model.weights}: {error}", mend="start over: --fresh") from error
    module.load_state_dict(fit(Weights(state), reference, model.family).state)
    return module.eval()


def _recognised(weights: Weights, path: Path) -> Ingested:
    known = catalog.names("models")
    misfit: UsageError | None = None
    for name in known:
        family: type[Family] = catalog.find("models", name)
        renamed = {family.rename(key): tensor for key, tensor in weights.state.items()}
        try:
            architecture = family.recognise({key: tuple(t.shape) for key, t in renamed.items()})
            if architecture is None or len(renamed) != len(weights.state):
                continue
            with torch.device("meta"):
                reference = architecture.build().state_dict()
            fitted = fit(Weights(renamed, weights.notes), reference, f"{name}, which they look like")
        except UsageError as error:
            misfit = misfit or error
            continue
        settings = dataclasses.asdict(architecture)  # type: ignore[call-overload]
        return Ingested(name, settings, fitted.state, architecture.channels, architecture.outputs, fitted.notes)
    raise misfit or UsageError(
        f"{path}: the architecture is not recognised (keys such as {some(list(weights.state))}); "
        f"known families: {', '.join(known)}",
        mend=f"give the code that builds it: {_ARCH}",
    )


def _given(versions: list[Weights], arch: str) -> Ingested:
    """The user's own architecture: of the key spellings, the one that fits its module best."""
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", arch):
        raise UsageError(f"not a callable's name: {arch!r}", mend=f"write {_ARCH}")
    module = _make(arch, {})
    reference = module.state_dict()
    best = max(versions, key=lambda version: len(version.state.keys() & reference.keys()))
    fitted = fit(best, reference, arch)
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return Ingested(arch, {}, fitted.state, channels, None, fitted.notes)


def _make(family: str, settings: Mapping[str, Json]) -> nn.Module:
    """A network of a known family, or of the user's own code, freshly initialised."""
    if ":" not in family:
        architecture: Family = catalog.make(catalog.find("models", family), settings, family)
        return architecture.build()
    name, _, attribute = family.partition(":")
    with _importing_from_here():
        try:
            module = getattr(importlib.import_module(name), attribute)()
        except Exception as error:  # it is the user's code: it may raise anything
            raise UsageError(
                f"{family} failed: {type(error).__name__}: {error}",
                mend=f"make `python -c 'import {name}; {name}.{attribute}()'` work in this folder",
            ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"{family} returned {type(module).__name__}, not a torch.nn.Module", mend="return the network itself"
        )
    if any(not isinstance(t, Tensor) or nn.parameter.is_lazy(t) for t in module.state_dict().values()):
        raise UsageError(
            f"{family} has lazy layers, or state that is no tensor",
            mend="give its layers their input sizes, and keep what is no tensor out of its state dict",
        )
    return module.to("cpu", torch.float32)


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Like ``python -m``: the user's code is mostly in the working directory, which a console script lacks."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
