"""Model files whose code is run, because the user gave ``--trust``."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import Json, UsageError
from compressor.frontend._candidates import USUAL, candidates
from compressor.frontend._exported import input_of, network
from compressor.frontend._file import open_model_file
from compressor.frontend._loader import LoadedNetwork
from compressor.frontend._networks import channels, fit_arch, prepare, recognise
from compressor.frontend._weights import Weights, is_averaged
from compressor.modules import state_dict
from compressor.user_code import importing_from_here

__all__ = ["load_trusted", "reload_trusted"]


def load_trusted(file: BufferedReader, path: Path, form: str, arch: str | None) -> LoadedNetwork:
    """Run a scanned file and load what it makes: weights, or a whole module.

    A module that is one of a known family, by its keys and by what it computes, is taken as that: its
    file is not needed again. Raises UsageError for what cannot be loaded, or is no network.
    """
    made = _run(file, path, form)
    module = _module(made, path)
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
    settings: dict[str, Json] = {"path": str(path.resolve()), "sha256": _sha256(file)}
    return LoadedNetwork(f"trusted:{form}", settings, weights.state, first, None, weights.notes, input)


def reload_trusted(form: str, settings: Mapping[str, Json]) -> nn.Module:
    """Return the module of a file that was trusted in this run. Raises UsageError where the file has changed."""
    path = Path(settings["path"])
    with open_model_file(path) as file:
        if _sha256(file) != settings["sha256"]:
            raise UsageError(f"{path} is not the file that was trusted: it has changed", hint="start over: --fresh")
        module = _module(_run(file, path, form), path)
    assert module is not None
    return module


def _sha256(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _run(file: BufferedReader, path: Path, form: str) -> Any:
    """Return what the file holds; its code runs here."""
    file.seek(0)
    try:
        with importing_from_here(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form == "torchscript":
                return torch.jit.load(file, map_location="cpu")
            if form == "export":
                return torch.export.load(file)
            return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # its code may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"{path} cannot be loaded: {type(error).__name__}: {reason}",
            hint="run in the folder that its classes are imported from, with the libraries that it was saved with",
        ) from error


def _module(made: Any, path: Path) -> nn.Module | None:
    """Return the network in what was made; None where there is none."""
    if isinstance(made, torch.export.ExportedProgram):
        made = network(made, path)
    elif isinstance(made, Mapping):
        held = {name: value for name, value in made.items() if isinstance(value, nn.Module)}
        usual = sorted(held, key=lambda name: (not is_averaged(str(name)), name not in USUAL))
        made = held[usual[0]] if usual else None
    if isinstance(made, nn.DataParallel):
        made = made.module
    return prepare(made, str(path)) if isinstance(made, nn.Module) else None


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
