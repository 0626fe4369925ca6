"""A torch network behind the contract of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressor.core import Signature, UsageError

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["TorchSession", "tensors_of"]


class TorchSession:
    """A module in eval mode, called with arrays by input name. Satisfies `compressor.core.Session`."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self.module, self.signature = module, signature

    def __call__(self, feeds: Feeds) -> Outputs:
        with torch.inference_mode():
            made = self.module(*(torch.from_numpy(feeds[spec.name]) for spec in self.signature.inputs))
        return {s.name: t.numpy() for s, t in zip(self.signature.outputs, tensors_of(made), strict=True)}


def tensors_of(made: Any) -> list[Tensor]:
    """Return the tensors that a forward returned, in order. Raises UsageError where there is none."""
    leaves = [leaf for leaf in tree_leaves(made) if leaf is not None]
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        found = next((type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)), "nothing")
        raise UsageError(
            f"the model's forward returns {found}", hint="let it return a tensor, or a tuple, list or dict of tensors"
        )
    return leaves
