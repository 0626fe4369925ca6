"""The reader of ONNX files, which may be hostile: nothing is resolved, allocated or run before it is checked here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto

from compressor.core import UnsafeInput, UsageError
from compressor.frontend._file import open_model_file
from compressor.frontend._memory import memory_limit
from compressor.frontend._onnx_sizes import check_sizes
from compressor.frontend._onnx_tensors import check_tensor, tensors, with_outside_data

_LARGEST = (2 << 30) - 1
"""Most bytes of a file: a protobuf message has no more, nor does ONNX Runtime take more from memory."""
_STRUCTURE = 256 << 20
"""Bytes that a parsed graph may take beside its weights; a network of a hundred thousand nodes takes less."""
_NODES = 100_000
_DEEPEST = 8

_CONTRIB = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat"),
        *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearLeakyRelu"),
        *("QLinearSigmoid", "QLinearSoftmax", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "FastGelu"),
        *("QuickGelu", "BiasGelu", "SkipLayerNormalization"),
    }
)
"""Operators of ONNX Runtime's own domain that its quantiser and its optimiser write into a graph.

Others of that domain hold compiled blobs (EPContext) or call Python (PythonOp).
"""
_ENDLESS = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators whose running time has no bound."""

_EXPORT_AGAIN = "export the model again, with its weights inside the file"


def load_onnx(path: Path, content: bytes | None = None) -> ModelProto:
    """Read an ONNX file, its weights inside, and check that it is harmless.

    ``content`` is what ``path`` was found to hold, where that is known: then no file is opened, and weights that lie
    in other files are refused. A runtime is given this model's bytes: of the file's own it would look for weights
    beside the path, or in the working directory.

    Raises UnsafeInput for a file that reaches for other files, claims more than it holds or brings operators of its
    own, UsageError for one that cannot be read.
    """
    whole = _bytes(path) if content is None else content
    if whole[4:8] == b"ORTM":
        # The runtime would go by these bytes, whatever the protobuf around them says.
        raise UnsafeInput(
            f"{path} is in ONNX Runtime's own format, which cannot be judged", hint="give the ONNX file it is made from"
        )
    try:
        with memory_limit(_STRUCTURE + 3 * len(whole)):
            model = _parsed(whole, path)
            _check(model, path)
        size = len(whole) + with_outside_data(model.graph, path, None if content is not None else path.parent)
        if size > _LARGEST:
            raise UsageError(f"{path} has {size:,} bytes of weights, more than 2 GiB", hint="give a smaller model")
        with memory_limit(_STRUCTURE + 3 * size):
            for graph in _graphs(model.graph, path):
                for tensor in tensors(graph, path):
                    check_tensor(tensor, path)
            check_sizes(model, _graphs, size, path)
    except MemoryError as error:
        raise UnsafeInput(f"{path} asks for far more memory than it has bytes", hint=_EXPORT_AGAIN) from error
    except UnicodeDecodeError as error:  # protobuf reads its texts when they are asked for
        raise _no_model(path) from error
    return model


def _bytes(path: Path) -> bytes:
    with open_model_file(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > _LARGEST:
            raise UsageError(f"{path} has {size:,} bytes, more than ONNX files have", hint=_EXPORT_AGAIN)
        head = file.read(1)
        if not head or head[0] >> 3 not in ModelProto.DESCRIPTOR.fields_by_number or head[0] & 7 not in (0, 2):
            raise _no_model(path)  # told by its first byte, before gigabytes of it are read
        return head + file.read()


def _parsed(content: bytes, path: Path) -> ModelProto:
    try:
        model: ModelProto = ModelProto.FromString(content)
    except DecodeError as error:
        if "alloc" in str(error):
            raise MemoryError from error
        raise _no_model(path) from error
    if not model.HasField("graph") or not model.opset_import:
        raise _no_model(path)
    model.DiscardUnknownFields()  # a newer runtime might know them
    return model


def _no_model(path: Path) -> UsageError:
    return UsageError(f"{path} is not an ONNX model, or it is truncated", hint="export or copy it again")


def _check(model: ModelProto, path: Path) -> None:
    """Check everything that does not need the weights."""
    if model.training_info or model.functions:
        what = "a training graph" if model.training_info else f"functions ({model.functions[0].name!r})"
        raise UnsafeInput(f"{path} brings {what} of its own", hint="export it for inference, with functions inlined")
    nodes = 0
    for graph in _graphs(model.graph, path):
        nodes += len(graph.node)
        if nodes > _NODES:
            raise UnsafeInput(f"{path} has more than {_NODES:,} nodes", hint="give the graph of one network")
        _check_names(graph, path)
        for node in graph.node:
            _check_operator(node, path)


def _graphs(graph: GraphProto, path: Path, depth: int = 0) -> Iterator[GraphProto]:
    """Yield a graph and the graphs inside its nodes."""
    if depth > _DEEPEST:
        raise UnsafeInput(f"{path} nests graphs more than {_DEEPEST} deep", hint="export it without control flow")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner, path, depth + 1)


def _check_names(graph: GraphProto, path: Path) -> None:
    """Check that no two values have one name: readers could take either."""
    made = [name for node in graph.node for name in node.output if name]
    kept = [tensor.name for tensor in graph.initializer]
    # An initialiser may be an input too: its default.
    for names in ([*kept, *made], [*(value.name for value in graph.input), *made]):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UsageError(f"{path} has two values named {twice[0]!r}", hint="export it again")


def _check_operator(node: NodeProto, path: Path) -> None:
    known = node.domain in ("", "ai.onnx") or (node.domain == "com.microsoft" and node.op_type in _CONTRIB)
    if not known:
        raise UnsafeInput(
            f"{path} has an operator that is not ONNX's: {node.domain}::{node.op_type}",
            hint="export it with the operators of the domain ai.onnx alone",
        )
    if node.op_type in _ENDLESS:
        raise UnsafeInput(f"{path} has a {node.op_type}, which may run for ever", hint="export it without control flow")
