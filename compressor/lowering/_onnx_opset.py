"""An ONNX graph in another version of ONNX's operators."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from compressor.core import UsageError
from compressor.opsets import OLDEST_EXPORT, older

__all__ = ["ChangeOpset"]


class ChangeOpset(ir.passes.InPlacePass):
    """Raise or lower a graph's operators to opset ``opset``, and its file format with them.

    Raises UsageError naming the operator where one has no form in that opset.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))
        # Converters and checkers know plain initializers from this version of the format on.
        model.ir_version = max(model.ir_version, 4)
        if found > self.opset and self.opset < OLDEST_EXPORT:
            _convert(model, found, OLDEST_EXPORT)
            older(model, self.opset)
        else:
            _convert(model, found, self.opset)
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
        model.ir_version = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
        return ir.passes.PassResult(model, True)


def _convert(model: ir.Model, found: int, opset: int) -> None:
    """Change ``model`` by ONNX's own converter, which goes through the opsets one by one."""
    if found == opset:
        return
    try:
        # Some operators, such as Softmax, are converted by the rank of their input.
        inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
        made = ir.from_proto(onnx.version_converter.convert_version(inferred, opset))
    except Exception as error:  # the converter raises RuntimeError, ValueError and types of its own
        raise UsageError(
            f"the ONNX graph of opset {found} has no form in opset {opset}: {_reason(error)}",
            hint=f"export the network again in opset {opset}, or take a target with another runtime",
        ) from error
    model.graph = made.graph


def _reason(error: Exception) -> str:
    """What the converter stopped at, without the path and the line of its source."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(/\S+:\d+:?\s*)?\w*:?\s*(Assertion `[^`]*` failed:\s*)?", "", line) or line
