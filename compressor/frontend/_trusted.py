"""Model files whose code is run, because the user gave ``--trust``."""

from __future__ import annotations

from dataclasses import replace
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Json
from compressor.frontend._candidates import candidates
from compressor.frontend._exported import input_of
from compressor.frontend._loaded import LoadedNetwork
from compressor.frontend._networks import channels, fit_arch, recognise
from compressor.frontend._trusted_file import file_sha256, module_in, run_file
from compressor.frontend._weights import Weights
from compressor.modules import state_dict

__all__ = ["load_trusted"]


def load_trusted(file: BufferedReader, path: Path, form: str, arch: str | None) -> LoadedNetwork:
    """Run a scanned file and load what it makes: weights, or a whole module.

    A module that is one of a known family, by its keys and by what it computes, is taken as that: its
    file is not needed again. Raises UsageError for what cannot be loaded, or is no network.
    """
    made = run_file(file, path, form)
    module = module_in(made, path)
    state = made if module is None else state_dict(module)
    found = candidates(state, path) if state or module is None else (Weights({}),)
    said = f"loaded with --trust: the code in {path} was run"
    found = tuple(replace(weights, notes=(said, *weights.notes)) for weights in found)
    if arch is not None:
        return fit_arch(found, arch)
    if module is None:
        return recognise(found, path)
    (weights,) = found
    input = input_of(made, path) if isinstance(made, torch.export.ExportedProgram) else None
    if (known := _known(module, weights, path)) is not None:
        return known
    first = channels(module) if input is None else input.channels
    settings: dict[str, Json] = {"path": str(path.resolve()), "sha256": file_sha256(file)}
    return LoadedNetwork(f"trusted:{form}", settings, weights.state, first, None, weights.notes, input)


def _known(module: nn.Module, weights: Weights, path: Path) -> LoadedNetwork | None:
    """Return the network of a known family where the module has its keys and computes the same; else None."""
    try:
        known = recognise((weights,), path)
        side = catalog.find("models", known.family).input_size
        samples = torch.randn(2, known.channels or 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected, got = known.build()(samples), module(samples)
    except Exception:  # noqa: BLE001 - its code may raise anything; it is then no network that is known here
        return None
    scale = float(expected.abs().max())
    same = isinstance(got, Tensor) and got.shape == expected.shape and torch.allclose(expected, got, atol=1e-3 * scale)
    return known if same else None
