"""Building a network again, from its family and settings."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compressor.core import Json, UsageError
from compressor.frontend._prepare import prepare
from compressor.frontend._trusted_file import reload_trusted
from compressor.models.common.deployed import deployed
from compressor.models.common.headed import architecture
from compressor.user_code import UserCode

__all__ = ["make_network"]

_DEPLOYED = "deployed"
"""The setting of a network that was trained in its deployed form: its weights have that form's names."""


def make_network(family: str, settings: Mapping[str, Json]) -> nn.Module:
    """Build a network in eval mode: of a known family, of the user's own code, or of a file that was trusted before."""
    own = {key: value for key, value in settings.items() if key != _DEPLOYED}
    if ":" not in family:
        module = architecture(family, own).build().eval()
    elif own:
        module = reload_trusted(family.partition(":")[2], own)
    else:
        module = prepare(_own(family), family)
    return deployed(module) if settings.get(_DEPLOYED) else module


def _own(family: str) -> nn.Module:
    module = UserCode.parse(family).call()
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"{family} returned {type(module).__name__}, not a torch.nn.Module", hint="return the network itself"
        )
    return module
