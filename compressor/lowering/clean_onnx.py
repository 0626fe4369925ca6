"""From an ONNX file, as its maker exported it, to the form of graph that the rest of the house works on."""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    no_op_expand_rule,
    no_op_transpose_rule,
    transpose_transpose_rule,
)

from compressor.core import CompressError
from compressor.lowering._onnx_affine import FoldAffine
from compressor.lowering._onnx_axes import NameInputAxes, NameOutputAxes
from compressor.lowering._onnx_names import KeepOutputNames, NameNodes, NameValues
from compressor.lowering._onnx_opset import ChangeOpset
from compressor.lowering._onnx_shapes import DropFlattens, DropShapes, FixReshapes, FoldConstants
from compressor.lowering.tidy import tidy

__all__ = ["clean_graph"]


def clean_graph(model: onnx.ModelProto, opset: int) -> ir.Model:
    """Make a graph of opset ``opset`` that computes what ``model`` does; ``model``, checked by `load_onnx`, stays.

    Inputs and outputs keep their names, types, ranks and order. Raises UsageError naming the operator that has no
    form in ``opset``.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)  # onnx-ir renames a proto's own tensors
    steps = ir.passes.Sequential(
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        DropShapes(),
        NameInputAxes(),
        NameValues(),
        ChangeOpset(opset),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),  # the converter's own
        FoldConstants(),
        common.ShapeInferencePass(check_type=False, strict_mode=False),
        FixReshapes(),
        DropFlattens(),
        common.IdentityEliminationPass(),
        FoldAffine(),
        RewritePass([no_op_expand_rule, no_op_transpose_rule, transpose_transpose_rule]),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.TopologicalSortPass(),
        KeepOutputNames([value.name for value in model.graph.output]),
        NameOutputAxes(model.graph),
        NameValues(),
        NameNodes(),
    )
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the folder warns of what it leaves as it is
    try:
        made = tidy(steps(ir.from_proto(own)).model)
    except ir.passes.PassError as error:
        if isinstance(error.__cause__, CompressError):
            raise error.__cause__ from None
        raise
    finally:
        logging.disable(disabled)
    made.doc_string, made.domain, made.model_version = None, None, None
    made.producer_name, made.producer_version = "compressor", None
    return made
