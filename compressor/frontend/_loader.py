"""From a model file to an architecture and its weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.core import UnsafeInput
from compressor.frontend._file import open_model_file
from compressor.frontend._loaded import LoadedNetwork
from compressor.frontend._sandbox import read
from compressor.frontend._scan import scan

if TYPE_CHECKING:
    pass

_CODE = (
    "save the weights alone: torch.save(model.state_dict(), path), or as safetensors, and give --arch "
    "package.module:callable where the architecture is not a known one; or, only if you trust whoever made the "
    "file: --trust runs its code with your rights"
)
_log = logging.getLogger(__name__)


def load_checkpoint(path: Path, *, arch: str | None = None, trust: bool = False) -> LoadedNetwork:
    """Read a checkpoint and recognise its architecture, or take the user's own: ``package.module:callable``.

    Nothing in the file is run, and a process of its own reads it; unless it holds code and ``trust`` is
    given: then that code runs here, with all the rights of this process.
    Raises UnsafeInput for a file with code in it, or one that lies about its size, and UsageError for one
    that cannot be read or recognised.
    """
    with open_model_file(path) as file:
        contents = scan(file, path)  # which needs no torch: what is refused here is refused at once
        if contents.code is None:
            found = read(file, path)
            from compressor.frontend._networks import fit_arch, recognise

            return recognise(found, path) if arch is None else fit_arch(found, arch)
        if not trust:
            raise UnsafeInput(f"{path} {contents.code}", hint=_CODE)
        _log.warning("--trust: running the code in %s, with your rights", path)
        from compressor.frontend._trusted import load_trusted

        return load_trusted(file, path, contents.form, arch)
