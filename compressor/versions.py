"""Versions of this program and of the libraries that a result depends on."""

from __future__ import annotations

import importlib.metadata

from compressor import __version__

__all__ = ["installed_versions"]

_LIBRARIES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnx-ir",
    "nncf",
    "brevitas",
    "accelerate",
    "numpy",
    "pillow",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


def installed_versions() -> dict[str, str]:
    """Return the version of each package by its name; a package that is not installed is left out."""
    found = {"compressor": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
