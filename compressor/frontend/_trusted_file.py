"""The file of a module whose code is run, because the user gave ``--trust``."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.core import Json, UsageError
from compressor.frontend._candidates import USUAL
from compressor.frontend._exported import network
from compressor.frontend._file import open_model_file
from compressor.frontend._prepare import prepare
from compressor.frontend._weights import is_averaged
from compressor.user_code import importing_from_here

__all__ = ["file_sha256", "module_in", "reload_trusted", "run_file"]


def reload_trusted(form: str, settings: Mapping[str, Json]) -> nn.Module:
    """Return the module of a file that was trusted in this run. Raises UsageError where the file has changed."""
    path = Path(settings["path"])
    with open_model_file(path) as file:
        if file_sha256(file) != settings["sha256"]:
            raise UsageError(f"{path} is not the file that was trusted: it has changed", hint="start over: --fresh")
        module = module_in(run_file(file, path, form), path)
    assert module is not None
    return module


def file_sha256(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def run_file(file: BufferedReader, path: Path, form: str) -> Any:
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


def module_in(made: Any, path: Path) -> nn.Module | None:
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
