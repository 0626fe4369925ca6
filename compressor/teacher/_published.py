"""What a library records beside its networks: the preprocessing that their public weights were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["published_normalization", "published_size"]


def published_normalization(module: nn.Module) -> str | None:
    """Return what ``--normalize`` would say for a network of timm or torchvision; None of any other.

    timm keeps ``mean`` and ``std`` in ``pretrained_cfg``. torchvision's transforms are those of ImageNet for all its
    networks but the detectors, which normalise by themselves.
    """
    config = _config(module)
    mean, std = config.get("mean"), config.get("std")
    if isinstance(mean, tuple | list) and isinstance(std, tuple | list) and len(mean) == len(std) > 0:
        return _name(tuple(map(float, mean)), tuple(map(float, std)))
    home = type(module).__module__
    if not home.startswith("torchvision.models."):
        return None
    return "unit" if home.startswith("torchvision.models.detection") else "imagenet"


def published_size(module: nn.Module) -> tuple[int, int] | None:
    """Return the height and width that timm records for a network; None of any other."""
    size = _config(module).get("input_size")
    if isinstance(size, tuple | list) and len(size) == 3:
        return int(size[1]), int(size[2])
    return None


def _config(module: nn.Module) -> Mapping[str, Any]:
    config = getattr(module, "pretrained_cfg", None)
    return config if isinstance(config, Mapping) else {}


def _name(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    from compressor.preprocessing import NORMALIZATIONS

    for known in NORMALIZATIONS.values():
        if known.name != "raw" and (known.mean, known.std) == (mean, std):
            return known.name
    return "/".join(",".join(f"{value:g}" for value in values) for values in (mean, std))
