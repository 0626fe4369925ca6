"""Networks: found from their weights, and built again from an artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from compressor import catalog
from compressor.core import Model, UsageError
from compressor.frontend._build import make_network
from compressor.frontend._fit import expected, fit
from compressor.frontend._load_into import load_into
from compressor.frontend._loaded import LoadedNetwork
from compressor.frontend._prefixes import best_spelling, spellings
from compressor.frontend._weights import Weights, some
from compressor.models.common.family import Family
from compressor.modules import named_modules
from compressor.user_code import UserCode

__all__ = ["channels", "fit_arch", "load_network", "recognise"]

_ARCH = "--arch package.module:callable"


def load_network(model: Model) -> nn.Module:
    """Return the network of an artifact, in eval mode. Raises UsageError where its weights cannot be read."""
    source = model.torch

    def build() -> nn.Module:
        return make_network(source.family, source.settings)

    module = build()
    try:
        state = safetensors.torch.load_file(source.weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"cannot read {source.weights}: {error}", hint="start over: --fresh") from error
    load_into(module, fit(Weights(state), expected(module, build), source.family).state)
    return module


def recognise(found: Sequence[Weights], path: Path) -> LoadedNetwork:
    """Recognise the family of ``models/`` from the keys and shapes of the first group of weights that has a family's.

    Raises UsageError where there is none.
    """
    misfit: UsageError | None = None
    known: list[tuple[Weights, LoadedNetwork]] = []
    for weights in found:
        try:
            if (network := _of_a_family(weights)) is not None:
                known.append((weights, network))
        except UsageError as error:
            misfit = misfit or error
    if known:
        return _first(known)
    raise misfit or UsageError(
        f"{path}: the architecture is not recognised (keys such as {some(list(found[0].state))}); "
        f"known families: {', '.join(catalog.names('models'))}",
        hint=f"give the code that builds it: {_ARCH}",
    )


def _of_a_family(weights: Weights) -> LoadedNetwork | None:
    """Return the network of a known family; None where no family has such keys. Raises UsageError for a near miss."""
    misfit: UsageError | None = None
    for spelled in spellings(weights):
        for name in catalog.names("models"):
            family: type[Family] = catalog.find("models", name)
            renamed = {family.rename(key): tensor for key, tensor in spelled.state.items()}
            try:
                known_as = family.recognise({key: tuple(t.shape) for key, t in renamed.items()})
                if known_as is None or len(renamed) != len(spelled.state):
                    continue
                with torch.device("meta"):
                    wanted = expected(known_as.build(), known_as.build)
                fitted = fit(replace(spelled, state=renamed), wanted, f"{name}, which they look like")
            except UsageError as error:
                misfit = misfit or error
                continue
            settings = dataclasses.asdict(known_as)  # type: ignore[call-overload]
            return LoadedNetwork(name, settings, fitted.state, known_as.channels, known_as.outputs, fitted.notes)
    if misfit is not None:
        raise misfit
    return None


def fit_arch(found: Sequence[Weights], arch: str) -> LoadedNetwork:
    """Build the user's own architecture, with the first group of weights that fits its module.

    Raises UsageError where none fits: what the group lacks of which most tensors fit.
    """
    UserCode.parse(arch)

    def build() -> nn.Module:
        return make_network(arch, {})

    module = build()
    wanted = expected(module, build)
    spelled = sorted((best_spelling(weights, wanted.state) for weights in found), key=lambda each: -each[1])
    known: list[tuple[Weights, LoadedNetwork]] = []
    misfit: UsageError | None = None
    for weights, _ in spelled:
        try:
            fitted = fit(weights, wanted, arch)
        except UsageError as error:
            misfit = misfit or error
            continue
        known.append((weights, LoadedNetwork(arch, {}, fitted.state, channels(module), None, fitted.notes)))
    if not known:
        assert misfit is not None
        raise misfit
    order = [weights.place for weights in found]
    return _first(sorted(known, key=lambda each: order.index(each[0].place)))


def _first(known: Sequence[tuple[Weights, LoadedNetwork]]) -> LoadedNetwork:
    """Return the first network; its notes name the other groups that fit."""
    _, network = known[0]
    others = [".".join(weights.place) or "the outermost dict" for weights, _ in known[1:]]
    notes = (f"others that fit, and were not taken: {some(others)}",) if others else ()
    return replace(network, notes=(*network.notes, *notes))


def channels(module: nn.Module) -> int | None:
    """Return the input channels of the first convolution; None where there is none."""
    return next((m.in_channels for _, m in named_modules(module) if isinstance(m, nn.Conv2d)), None)
