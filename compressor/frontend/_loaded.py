"""A network that was loaded from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.core import InputSpec, Json

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LoadedNetwork"]


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network that was loaded: what builds it, and weights that fit it exactly."""

    family: str
    """A file of ``models/``, the user's own ``package.module:callable``, or ``trusted:FORM``."""
    settings: Mapping[str, Json]
    """The family's own fields; empty for the user's own; of a trusted file its path and SHA-256."""
    state: Mapping[str, Tensor]
    """Float32 weights and integer buffers under the module's own keys, on the CPU."""
    channels: int | None
    """Input channels; None where they cannot be seen without running the model."""
    outputs: int | None
    """Classes; None where they cannot be seen without running the model."""
    notes: tuple[str, ...]
    """How the weights were found in the file, for people."""
    input: InputSpec | None = None
    """The only size of input that it takes, where its file says so."""

    def build(self) -> nn.Module:
        """Return the network with these weights, in eval mode."""
        from compressor.frontend._build import make_network
        from compressor.frontend._load_into import load_into

        module = make_network(self.family, self.settings)
        load_into(module, self.state)
        return module
