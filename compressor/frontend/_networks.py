"""From weights to the network that they are of, and from an artifact to its network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Json, Model, UsageError
from compressor.frontend._loader import LoadedNetwork
from compressor.frontend._weights import Weights, fit, some
from compressor.models.common.family import Family
from compressor.models.common.headed import architecture
from compressor.user_code import call

__all__ = ["given", "load", "make", "recognised"]

_ARCH = "--arch package.module:callable"


def load_network(model: Model) -> nn.Module:
    """The network of an artifact, in eval mode. Raises UsageError where its weights cannot be read."""
    source = model.torch
    module = make(source.family, source.settings)
    reference = module.state_dict()
    try:
        state = safetensors.torch.load_file(source.weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"cannot read {source.weights}: {error}", hint="start over: --fresh") from error
    module.load_state_dict(fit(Weights(state), reference, source.family).state)
    return module


def recognised(weights: Weights, path: Path) -> LoadedNetwork:
    """The family of ``models/`` whose keys and shapes these are. Raises UsageError where there is none."""
    weights = _spellings(weights)[-1]
    known = catalog.names("models")
    misfit: UsageError | None = None
    for name in known:
        family: type[Family] = catalog.find("models", name)
        renamed = {family.rename(key): tensor for key, tensor in weights.state.items()}
        try:
            known_as = family.recognise({key: tuple(t.shape) for key, t in renamed.items()})
            if known_as is None or len(renamed) != len(weights.state):
                continue
            with torch.device("meta"):
                reference = known_as.build().state_dict()
            fitted = fit(Weights(renamed, weights.notes), reference, f"{name}, which they look like")
        except UsageError as error:
            misfit = misfit or error
            continue
        settings = dataclasses.asdict(known_as)  # type: ignore[call-overload]
        return LoadedNetwork(name, settings, fitted.state, known_as.channels, known_as.outputs, fitted.notes)
    raise misfit or UsageError(
        f"{path}: the architecture is not recognised (keys such as {some(list(weights.state))}); "
        f"known families: {', '.join(known)}",
        hint=f"give the code that builds it: {_ARCH}",
    )


def given(weights: Weights, arch: str) -> LoadedNetwork:
    """The user's own architecture: of the key spellings, the one that fits its module best."""
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", arch):
        raise UsageError(f"not a callable's name: {arch!r}", hint=f"write {_ARCH}")
    module = make(arch, {})
    reference = module.state_dict()
    best = max(_spellings(weights), key=lambda version: len(version.state.keys() & reference.keys()))
    fitted = fit(best, reference, arch)
    return LoadedNetwork(arch, {}, fitted.state, channels(module), None, fitted.notes)


def channels(module: nn.Module) -> int | None:
    """Those that its first convolution takes."""
    return next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), None)


def make(family: str, settings: Mapping[str, Json]) -> nn.Module:
    """A network in eval mode: of a known family, of the user's own code, or of a file that was trusted before."""
    if ":" not in family:
        return architecture(family, settings).build().eval()
    if settings:
        from compressor.frontend._trusted import again

        return again(family.partition(":")[2], settings)
    return settled(_own(family), family)


def settled(module: nn.Module, whose: str) -> nn.Module:
    """A module in float32 on the CPU, in eval mode. Raises UsageError where its state is not all tensors."""
    if any(not isinstance(t, Tensor) or nn.parameter.is_lazy(t) for t in module.state_dict().values()):
        raise UsageError(
            f"{whose} has lazy layers, or state that is no tensor",
            hint="give its layers their input sizes, and keep what is no tensor out of its state dict",
        )
    return module.to("cpu", torch.float32).eval()


def _own(family: str) -> nn.Module:
    module = call(family)
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"{family} returned {type(module).__name__}, not a torch.nn.Module", hint="return the network itself"
        )
    return module


def _spellings(weights: Weights) -> list[Weights]:
    """The weights as they are, and with one prefix after the other stripped."""
    versions = [weights]
    while (stripped := versions[-1].stripped()) is not None:
        versions.append(stripped)
    return versions
