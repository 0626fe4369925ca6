"""FP16 in the graph: what strongly typed runtimes take their precision from."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from compressor.core import OnnxModel
from compressor.export import save

__all__ = ["halve"]


def halve(model: OnnxModel, path: Path) -> OnnxModel:
    """An FP16 twin of a float32 graph; its input and output stay float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each value that FP16 rounds to its own edge
        half = convert_float_to_float16(onnx.load(str(model.path)), keep_io_types=True)
    graph = ir.from_proto(half)
    graph.graph.sort()  # the converter puts the input's cast last
    return save(graph, path, "fp16", model)
