"""The way from a network to a graph that a runtime loads: every file that is shipped is made here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from compressor.core import Model, OnnxModel, QdqRules, Task
from compressor.lowering._onnx_affine import FoldAffine
from compressor.lowering.clip import clip_output
from compressor.lowering.export import export
from compressor.lowering.fp16 import convert_to_fp16
from compressor.lowering.packing import pack_weights
from compressor.lowering.save import save

if TYPE_CHECKING:
    from torch import nn

__all__ = ["finish_quantized", "lower_to_float"]


def lower_to_float(model: Model, task: Task, opset: int, module: nn.Module | None = None) -> ir.Model:
    """Make the float graph of a network: exported or the user's own, cleaned, and clipped where its task says so.

    ``module`` is the network of ``model`` where the caller has it at hand.
    """
    if model.graph is not None:
        from compressor.lowering.clean_onnx import clean_graph

        graph = clean_graph(onnx.load(str(model.graph)), opset)
    elif module is None and model.torch.exported is not None:
        graph = ir.load(model.torch.exported)
        common.ShapeInferencePass()(graph)
        return graph
    else:
        if module is None:
            from compressor.frontend import load_network

            module = load_network(model)
        graph = export(module, model.signature, model.sizes, opset)
        common.ShapeInferencePass()(graph)
        FoldAffine()(graph)
        common.RemoveUnusedNodesPass()(graph)
    return graph if task.output_range is None else clip_output(graph, task.output_range)


def finish_quantized(
    graph: ir.Model,
    rules: QdqRules,
    path: Path,
    made_from: OnnxModel | None,
    *,
    packable: bool,
    precision: str = "int8",
) -> tuple[OnnxModel, dict[str, int]]:
    """Take a graph with Q/DQ in place to its file: pack weights, convert the rest to FP16 where the rules say, save.

    Returns the file, and the bits of each weight that is packed.
    """
    packed = pack_weights(graph) if packable and rules.folds_packed_weights else {}
    if rules.float_dtype == "float16":
        convert_to_fp16(graph)
    return save(graph, path, precision, made_from), packed
