"""From an ONNX file, as its maker exported it, to the form of graph that the rest of the house works on."""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import FoldConstantsPass
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    transpose_transpose_rule,
)

from compressor.lowering._onnx_axes import NameInputAxes, NameOutputAxes
from compressor.lowering._onnx_names import NameNodes, NameValues
from compressor.lowering._onnx_opset import ChangeOpset, DropNewerDefaults
from compressor.lowering._onnx_shapes import DropShapes, FixReshapes

__all__ = ["clean_graph"]

_FOLDED = 1 << 22
"""Elements of a constant that may be folded, or be the result; one for each pixel of a large image."""


def clean_graph(model: onnx.ModelProto, opset: int) -> ir.Model:
    """Make a graph of opset ``opset`` that computes what ``model`` does; ``model``, checked by `load_onnx`, stays.

    Inputs and outputs keep their names, types, ranks and order. Raises UsageError naming the operator that has no
    form in ``opset``.
    """
    steps = ir.passes.Sequential(
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        DropShapes(),
        NameInputAxes(),
        NameValues(),
        ChangeOpset(opset),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),  # the converter's own
        FoldConstantsPass(shape_inference=True, input_size_limit=_FOLDED, output_size_limit=_FOLDED),
        FixReshapes(),
        common.IdentityEliminationPass(),
        RewritePass([fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule]),
        RewritePass([fuse_batchnorm_into_gemm_rule]),
        RewritePass([no_op_expand_rule, no_op_transpose_rule, transpose_transpose_rule]),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.TopologicalSortPass(),
        DropNewerDefaults(),
        NameOutputAxes(),
        NameValues(),
        NameNodes(),
        common.ClearMetadataAndDocStringPass(),
        common.RemoveUnusedOpsetsPass(),
    )
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the folder warns of what it leaves as it is
    try:
        return steps(ir.from_proto(model)).model
    finally:
        logging.disable(disabled)
