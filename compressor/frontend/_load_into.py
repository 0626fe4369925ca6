"""Weights into a module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from compressor.core import UsageError

__all__ = ["load_into"]


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that fit ``module``, as ones of the version that its own code has.

    Raises UsageError where the module's own way of loading refuses them.
    """
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    try:
        module.load_state_dict(versioned)
    except Exception as error:  # the user's own code may run here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{type(module).__name__} does not load the weights: {reason}",
            hint="check that the file and --arch are of the same version of the network",
        ) from error
