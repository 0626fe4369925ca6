"""A network as the exporter takes it: tensors in their order in, tensors in their order out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from torch import Tensor, nn

from compressor.calling import call_network, named_tensors

__all__ = ["ReturningTensors"]


class ReturningTensors(nn.Module):
    """A network that is called as `call_network` does, and returns a tuple of what `named_tensors` finds."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        self.training = False  # by itself: TorchScript refuses to be told

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(named_tensors(call_network(self.network, self.names, tensors)).values())

    @staticmethod
    def restore_names(graph: ir.Graph) -> None:
        """Give the weights of an exported graph the names that they have in the network itself."""
        for name in list(graph.initializers):
            value = graph.initializers.pop(name)  # all of them, for their order
            own = name.removeprefix("network.")
            if own not in graph.initializers:
                value.name = own
            graph.initializers.add(value)
