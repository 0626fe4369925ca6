"""A torch network behind the contract of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from compressor.calling import call_network, named_tensors
from compressor.core import Signature

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["TorchSession"]


class TorchSession:
    """A module in eval mode, called with arrays by input name. Satisfies `compressor.core.Session`."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self.module, self.signature = module, signature

    def __call__(self, feeds: Feeds) -> Outputs:
        names = [spec.name for spec in self.signature.inputs]
        with torch.inference_mode():
            made = call_network(self.module, names, [torch.from_numpy(feeds[name]) for name in names])
        tensors = named_tensors(made).values()
        return {spec.name: t.numpy() for spec, t in zip(self.signature.outputs, tensors, strict=True)}
