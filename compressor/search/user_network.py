"""A candidate of the user's own code, for ``compress rank``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from compressor.frontend import make_network

__all__ = ["UserNetwork"]


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """The network that ``package.module:callable(arguments)`` makes."""

    code: str
    folder: str
    """Where the code is imported from: a process that scores it may have been started elsewhere."""

    def __str__(self) -> str:
        return self.code

    def build(self) -> nn.Module:
        """Make the network, on the CPU whatever torch's default device: constructors may compute with values.

        Raises UsageError where the code fails, or makes something else.
        """
        with torch.device("cpu"), contextlib.chdir(self.folder):
            return make_network(self.code, {})
