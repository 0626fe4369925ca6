"""From an ONNX file, as its maker exported it, to the form of graph that the rest of the house works on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

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
from compressor.lowering._onnx_identity import DropIdentities
from compressor.lowering._onnx_names import KeepOutputNames, NameNodes, NameValues
from compressor.lowering._onnx_opset import ChangeOpset
from compressor.lowering._onnx_resize import DropEmptySizes
from compressor.lowering._onnx_shapes import DropFlattens, DropShapes, FixReshapes, FoldConstants
from compressor.lowering.tidy import tidy

__all__ = ["clean_graph"]


def clean_graph(model: onnx.ModelProto, opset: int) -> ir.Model:
    """Make a graph of opset ``opset`` that computes what ``model`` does; ``model``, checked by `load_onnx`, stays.

    Inputs and outputs keep their names, types, ranks and order. Raises UsageError naming the operator that has no
    form in ``opset``.
    """
    try:
        made = _cleaned(model, opset, _all_steps)
    except ir.passes.PassError as error:
        if isinstance(error.__cause__, CompressError):
            raise error.__cause__ from None
        made = _cleaned(model, opset, _needed_steps)  # a graph that the rest was not made for
    made.doc_string, made.domain, made.model_version = None, None, None
    made.producer_name, made.producer_version = "compressor", None
    return made


_Steps = Callable[[onnx.ModelProto, int], Sequence[ir.passes.PassBase]]


def _cleaned(model: onnx.ModelProto, opset: int, steps: _Steps) -> ir.Model:
    own = onnx.ModelProto()
    own.CopyFrom(model)  # onnx-ir renames a proto's own tensors
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the folder warns of what it leaves as it is
    try:
        return tidy(ir.passes.Sequential(*steps(model, opset))(ir.from_proto(own)).model)
    finally:
        logging.disable(disabled)


def _all_steps(model: onnx.ModelProto, opset: int) -> Sequence[ir.passes.PassBase]:
    return (
        *_first(opset),
        FoldConstants(),
        common.ShapeInferencePass(check_type=False, strict_mode=False),
        FixReshapes(),
        DropFlattens(),
        DropIdentities(),
        FoldAffine(),
        RewritePass([no_op_expand_rule, no_op_transpose_rule, transpose_transpose_rule]),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        *_last(model),
    )


def _needed_steps(model: onnx.ModelProto, opset: int) -> Sequence[ir.passes.PassBase]:
    """The opset, names and the form of ends, without which nothing else works; no operation is changed."""
    return (*_first(opset), common.ShapeInferencePass(check_type=False, strict_mode=False), *_last(model))


def _first(opset: int) -> Sequence[ir.passes.PassBase]:
    return (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        DropShapes(),
        DropEmptySizes(),
        NameInputAxes(),
        NameValues(),
        ChangeOpset(opset),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),  # the converter's own
    )


def _last(model: onnx.ModelProto) -> Sequence[ir.passes.PassBase]:
    return (
        common.OutputFixPass(),
        common.TopologicalSortPass(),
        KeepOutputNames([value.name for value in model.graph.output]),
        NameOutputAxes(model.graph),
        NameValues(),
        NameNodes(),
    )
