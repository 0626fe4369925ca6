"""Layers as matrix products: the rows that a layer with weights multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad, unfold

__all__ = ["LayerRows", "rows_of"]

_ROWS_OF_SAMPLE = 256
"""The most positions of a sample that are taken."""


@dataclass(frozen=True)
class LayerRows:
    """A layer as products of rows of K values with a weight of G groups x O channels x K."""

    source: str
    """The name of the tensor that the layer reads."""
    weight: Tensor
    """In float64."""
    bias: Tensor | None
    """G * O values in float64; None where the layer has none of its own."""
    _node: ir.Node
    _shape: tuple[int, ...]
    """The weight's own."""

    def of(self, read: NDArray[np.float32]) -> Tensor:
        """Return the rows that a batch of the source makes, G x rows x K, at some of its positions."""
        if self._node.op_type != "Conv":
            rows = torch.from_numpy(read).reshape(-1, read.shape[-1])
            most = _ROWS_OF_SAMPLE * len(read)
            return rows[:: -(-len(rows) // most)].unsqueeze(0)
        return self._patches(torch.from_numpy(read))

    def restored(self, weight: Tensor) -> NDArray[np.float32]:
        """Give a weight of G x O x K the layer's own shape."""
        if self._node.op_type == "Conv":
            made = weight.reshape(self._shape)
        else:
            made = weight[0] if _transposed(self._node) else weight[0].T
        return np.ascontiguousarray(made.float().numpy())

    def _patches(self, read: Tensor) -> Tensor:
        kernel = _sizes(self._node, "kernel_shape", self._shape[2:])
        ones = [1] * len(kernel)
        strides, dilations = _sizes(self._node, "strides", ones), _sizes(self._node, "dilations", ones)
        pads = _sizes(self._node, "pads", [0] * 2 * len(kernel))
        if len(kernel) == 2:
            padded = pad(read, (pads[1], pads[3], pads[0], pads[2]))
        else:  # one row of pixels
            padded = pad(read, (pads[0], pads[1])).unsqueeze(2)
            kernel, strides, dilations = [1, *kernel], [1, *strides], [1, *dilations]
        patches = unfold(padded, tuple(kernel), tuple(dilations), 0, tuple(strides))  # N x C * k x positions
        patches = patches[:, :, :: -(-patches.shape[2] // _ROWS_OF_SAMPLE)]
        groups = len(self.weight)
        return patches.reshape(len(read), groups, -1, patches.shape[2]).permute(1, 0, 3, 2).flatten(1, 2)


def rows_of(node: ir.Node) -> LayerRows | None:
    """Return how a layer reads rows; None of one that is no product of rows with a constant (or is transposed)."""
    source, tensor = node.inputs[0], _constant(node, 1)
    if source is None or source.is_initializer() or tensor is None:
        return None
    values = torch.from_numpy(np.array(tensor.numpy(), np.float64))
    shape = tuple(values.shape)
    if node.op_type == "Conv":
        if len(shape) not in (3, 4) or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        groups = node.attributes.get_int("group", 1)
        matrix = values.reshape(groups, shape[0] // groups, -1)
    elif node.op_type in ("Gemm", "MatMul") and len(shape) == 2 and not node.attributes.get_int("transA", 0):
        if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
            return None
        matrix = (values if _transposed(node) else values.T).unsqueeze(0)
    else:
        return None
    return LayerRows(source.name or "", matrix, _bias(node, matrix.shape[0] * matrix.shape[1]), node, shape)


def _bias(node: ir.Node, channels: int) -> Tensor | None:
    tensor = _constant(node, 2)
    if tensor is None or tuple(tensor.shape) != (channels,):
        return None
    return torch.from_numpy(np.array(tensor.numpy(), np.float64))


def _constant(node: ir.Node, index: int) -> ir.TensorProtocol | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if value is None else ir.convenience.get_const_tensor(value)


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))


def _sizes(node: ir.Node, name: str, otherwise: list[int] | tuple[int, ...]) -> list[int]:
    return list(node.attributes.get_ints(name, otherwise))
