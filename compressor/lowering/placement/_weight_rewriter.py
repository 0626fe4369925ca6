"""Integer weights and biases in the graph, each with its DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.core import QdqRules
from compressor.lowering.graph import add_constant, describe
from compressor.lowering.placement._operators import WEIGHTED_OPS, bias_tensor, channel_axis
from compressor.lowering.placement._qparams import QParams, storable_scale
from compressor.lowering.placement._weights import least_scales, quantize_points, quantize_symmetric

__all__ = ["WeightRewriter"]

Scales = Mapping[ir.Node, NDArray[np.float32]]


@dataclass(frozen=True)
class WeightRewriter:
    """Puts the weights of integer ops, and their biases, into a graph as integers."""

    graph: ir.Graph
    rules: QdqRules
    input_qparams: Callable[[ir.Node], QParams | None]
    """The parameters of a node's first input; None where that stays in float."""

    def quantize_weights(
        self,
        nodes: list[ir.Node],
        bits: Mapping[str, int],
        points: Mapping[str, NDArray[np.float32]],
        means: Mapping[str, NDArray[np.float64]],
    ) -> Scales:
        """Replace the constant weights of ``nodes``. Returns the weight scales of each node.

        The arguments are those of `Placement.apply`.
        """
        stored: dict[tuple[str, int | None, bytes], ir.Value] = {}
        scales: dict[ir.Node, NDArray[np.float32]] = {}
        for node in nodes:
            weight = node.inputs[1] if node.op_type in WEIGHTED_OPS else None
            tensor = ir.convenience.get_const_tensor(weight) if weight is not None else None
            if weight is None or tensor is None:
                continue
            array = np.asarray(tensor.numpy(), dtype=np.float32)
            axis = channel_axis(node) % array.ndim if self._has_channel_scales(node, array.ndim) else None
            integers, scale = self._integers(node, array, axis, bits, points)
            if node.op_type == "Conv" and node.inputs[0] is not None and (read := node.inputs[0].name) in means:
                column = scale if axis is None else scale.reshape(-1, *[1] * (array.ndim - 1))
                error = np.asarray(integers * column.astype(np.float64) - array, np.float64)
                self._correct_bias(node, error, means[read or ""])
            key = (weight.name or "", axis, scale.tobytes())
            if key not in stored:
                stored[key] = self._store(weight, integers, scale, axis or 0, before=node)
            node.replace_input_with(1, stored[key])
            scales[node] = scale
        return scales

    def quantize_biases(self, scales: Scales) -> None:
        """Make the bias of each node of ``scales`` int32, at the scale of its products, where the rules ask for it."""
        for node, weight_scale in scales.items():
            tensor, qparams = bias_tensor(node), self.input_qparams(node)
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if node.op_type not in self.rules.integer_bias or bias is None or tensor is None or qparams is None:
                continue
            if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
                continue
            groups = node.attributes.get_int("group", 1) if node.op_type == "ConvTranspose" and weight_scale.ndim else 1
            scale = np.asarray(qparams.step * np.tile(weight_scale, groups), dtype=np.float32)
            integers = np.rint(tensor.numpy() / scale.astype(np.float64)).astype(np.int32)
            node.replace_input_with(2, self._store(bias, integers, scale, integers.ndim - 1, before=node))

    def _has_channel_scales(self, node: ir.Node, rank: int) -> bool:
        """Whether a weight gets a scale for each output channel; one of a product of many matrices never does."""
        return node.op_type in self.rules.per_channel and (node.op_type != "MatMul" or rank == 2)

    def _integers(
        self,
        node: ir.Node,
        weight: NDArray[np.float32],
        axis: int | None,
        bits: Mapping[str, int],
        points: Mapping[str, NDArray[np.float32]],
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        assert node.inputs[1] is not None
        name, rules, qparams = node.inputs[1].name or "", self.rules, self.input_qparams(node)
        least = 0.0 if qparams is None else least_scales(node, qparams.step)
        storable = partial(storable_scale, float_dtype=rules.float_dtype)
        if name in points:
            integers, scale = quantize_points(weight, points[name], rules.weight_bits, axis, least)
            return integers, storable(scale)
        return quantize_symmetric(weight, bits.get(name, rules.weight_bits), axis, least, storable)

    def _correct_bias(self, node: ir.Node, error: NDArray[np.float64], means: NDArray[np.float64]) -> None:
        """Take off a convolution's bias what the ``error`` of its weights makes of its input's channel means."""
        bias = bias_tensor(node)
        if bias is None:
            return
        each = error.reshape(*error.shape[:2], -1).sum(2)  # output channels x input channels of a group
        groups = node.attributes.get_int("group", 1)
        rows = means.reshape(groups, -1).repeat(len(each) // groups, axis=0)
        corrected = bias.numpy() - (each * rows).sum(1)
        node.replace_input_with(2, add_constant(self.graph, f"{node.name}_bias", corrected.astype(np.float32)))

    def _store(
        self, value: ir.Value, integers: NDArray[np.generic], scale: NDArray[np.float32], axis: int, before: ir.Node
    ) -> ir.Value:
        """Store the constant ``value`` as integers with a DequantizeLinear in front of the node ``before``."""
        name = value.name or ""
        if f"{name}_{integers.dtype}" in self.graph.initializers:  # shared, with other scales
            name = f"{before.name}_{name}"
        # ONNX Runtime's Gemm kernel is chosen only where the zero point is spelled out, zero or not.
        zero_point = np.zeros(scale.shape, integers.dtype)
        qparams = [
            add_constant(self.graph, f"{name}_scale", scale),
            add_constant(self.graph, f"{name}_zero_point", zero_point),
        ]
        attributes = {"axis": axis} if scale.ndim else {}
        nodes = []
        if self.rules.integer_weights:
            source = add_constant(self.graph, f"{name}_{integers.dtype}", integers)
        else:
            column = scale if not scale.ndim else np.expand_dims(scale, [i for i in range(integers.ndim) if i != axis])
            real = add_constant(self.graph, f"{name}_rounded", integers.astype(np.float32) * column)
            nodes = [ir.node("QuantizeLinear", [real, *qparams], attributes)]
            source = nodes[0].outputs[0]
            describe(source, f"{name}_{integers.dtype}", ir.Shape(integers.shape), qparams[1].dtype)
        nodes.append(ir.node("DequantizeLinear", [source, *qparams], attributes))
        made = nodes[-1].outputs[0]
        describe(made, f"{name}_dequantized", ir.Shape(integers.shape), ir.DataType.FLOAT)
        self.graph.insert_before(before, nodes)
        return made
