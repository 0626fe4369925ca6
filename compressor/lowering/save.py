"""Graphs as files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir

from compressor.atomic import write
from compressor.core import OnnxModel

__all__ = ["file_bytes", "save"]


def save(model: ir.Model, path: Path, precision: str, made_from: OnnxModel | None = None) -> OnnxModel:
    """Check a graph, write it as one file (whole or not at all) and describe it."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # a seventh of a small file, and every runtime infers it again
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString(deterministic=True)
    write(path, data)
    return OnnxModel(path, hashlib.sha256(data).hexdigest(), precision, proto.opset_import[0].version, made_from)


def file_bytes(model: ir.Model) -> int:
    """Count the bytes of the file that `save` makes."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return int(proto.ByteSize())
