"""From a torch module to one clean, self-contained ONNX file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import torch
from numpy.typing import NDArray

from compressor.atomic import write
from compressor.core import InputSpec, OnnxModel, UsageError
from compressor.opsets import OLDEST_EXPORT, older

__all__ = ["export", "export_each", "export_marked", "file_bytes", "guarded", "mark", "save"]

_MARKS = "compressor.marks"
_FLOAT = ir.TensorType(ir.DataType.FLOAT)
_INT64 = ir.TensorType(ir.DataType.INT64)


def export(module: torch.nn.Module, input: InputSpec, opset: int, *, any_size: bool = False) -> ir.Model:
    """Export ``module`` (in eval mode) with a dynamic batch, and clean the graph up.

    The graph has one input ``input`` (N x C x H x W float32) and its first output is ``output``; with ``any_size``
    height and width are dynamic too.
    Raises UsageError where the exporter cannot follow the module.
    """
    return clean(_exported(module, input, max(opset, OLDEST_EXPORT), any_size), opset)


def guarded(model: ir.Model) -> ir.Model:
    """The graph of a network that makes images, its output kept in [0, 1]: what a screen, or 8 bits, would clip.

    Changes ``model``.
    """
    graph = model.graph
    output = graph.outputs[0]
    bounds = []
    for name, bound in (("darkest", 0.0), ("brightest", 1.0)):
        tensor = ir.tensor(np.asarray(bound, np.float32), name=name)
        bounds.append(ir.Value(name=name, const_value=tensor, shape=ir.Shape([]), type=_FLOAT))
        graph.register_initializer(bounds[-1])
    clip = ir.node("Clip", [output, *bounds], name=f"Clip_{len(graph)}")
    made = clip.outputs[0]
    made.shape, made.type = output.shape, output.type
    made.name, output.name = output.name, f"{output.name}_unbounded"
    graph.append(clip)
    graph.outputs[0] = made
    return model


def export_marked(
    module: torch.nn.Module, input: InputSpec, opset: int, *, any_size: bool = False
) -> tuple[ir.Model, dict[int, str]]:
    """As `export`, of a module that calls `mark` on some tensors: the graph without the marks, and each one's tensor.

    A tensor that the exporter folded into another is not among them.
    """
    model = _exported(module, input, max(opset, OLDEST_EXPORT), any_size)
    marked: dict[int, ir.Value] = {}
    for node in list(model.graph):
        if node.domain != _MARKS:
            continue
        source, sink = node.inputs[0], node.outputs[0]
        assert source is not None
        marked[node.attributes.get_int("index", -1)] = source
        if sink.is_graph_output():
            source.name, sink.name = sink.name, f"{sink.name}_marked"
        ir.convenience.replace_all_uses_with(sink, source, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    names = {index: value.name or "" for index, value in marked.items()}
    return clean(model, opset), names


def mark(x: Any, index: int) -> Any:
    """The tensor ``x``, under a number by which `export_marked` finds it in the graph; anything else as it is.

    For a module on its way there only: what it computes is not ``x``'s values.
    """
    if not isinstance(x, torch.Tensor):
        return x
    return torch.onnx.ops.symbolic(f"{_MARKS}::Mark", (x,), {"index": index}, dtype=x.dtype, shape=x.shape, version=1)


def _exported(module: torch.nn.Module, input: InputSpec, opset: int, any_size: bool) -> ir.Model:
    free = {0: torch.export.Dim("batch", min=1)}
    if any_size:
        free |= {2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
    # Two samples: a batch of one would be specialised away by torch.export.
    example = torch.zeros(2, *input.shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                _followed(module, example),
                (example,),
                dynamo=True,
                dynamic_shapes=(free,),
                opset_version=opset,
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UsageError(
            f"the model cannot be exported to ONNX: {reason}",
            hint="make its forward traceable by torch.export (no data-dependent control flow, batch first)",
        ) from error
    assert program is not None
    model = program.model
    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        if value.shape is None or value.shape.rank() == 0 or isinstance(value.shape[0], int):
            raise UsageError(
                "the model cannot be exported to ONNX: it does not give one output row for each sample of any batch",
                hint="make its forward keep the batch, its first axis, free (torch.export: no fixed batch size)",
            )
    model.producer_name, model.producer_version = "compressor", None
    return model


def export_each(modules: Sequence[tuple[torch.nn.Module, tuple[int, ...]]], opset: int) -> list[ir.Model]:
    """Export modules, each with the shape of its one input (batch included, static), as graphs of their own.

    One call of the exporter does them all: most of what a call costs does not depend on what is exported.
    """
    together = _Beside([module for module, _ in modules]).eval()
    with _quiet():
        program = torch.onnx.export(
            together,
            tuple(torch.zeros(shape) for _, shape in modules),
            dynamo=True,
            opset_version=max(opset, OLDEST_EXPORT),
            input_names=[f"input_{i}" for i in range(len(modules))],
            output_names=[f"output_{i}" for i in range(len(modules))],
            verbose=False,
        )
    assert program is not None
    graph = program.model.graph
    models = []
    for source, sink in zip(graph.inputs, graph.outputs, strict=True):
        own = ir.convenience.extract(graph, [source], [sink])
        own.inputs[0].name, own.outputs[0].name = "input", "output"
        models.append(clean(ir.Model(own, ir_version=program.model.ir_version), opset))
    return models


class _Beside(torch.nn.Module):
    """Modules side by side: one input and one output each."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(module(x) for module, x in zip(self.members, inputs, strict=True))


def _followed(module: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
    """TorchScript as a graph that torch.export can follow; any other module as it is."""
    if not isinstance(module, torch.jit.ScriptModule):
        return module
    from torch._export.converter import TS2EPConverter

    try:
        graph: torch.nn.Module = TS2EPConverter(module, (example,)).convert().module(check_guards=False)
    except Exception as error:  # it raises all kinds at what it does not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the TorchScript program cannot be lowered: torch's converter fails: {reason}",
            hint="give the module that it was made from: its state dict with --arch package.module:callable, "
            "or the module itself, saved with torch.save, with --trust",
        ) from error
    return graph


def clean(model: ir.Model, opset: int = OLDEST_EXPORT) -> ir.Model:
    """Put the exporter's graph into the form that quantisers and runtimes know best. Changes ``model``.

    An ``opset`` that the exporter does not write is lowered to here. Raises UsageError where it cannot be.
    """
    _pool_means(model.graph)
    _join_slices(model.graph)
    for tidy in (
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.ClearMetadataAndDocStringPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        tidy(model)
    if opset < OLDEST_EXPORT:
        older(model, opset)
    model.graph.name = "compressor"
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{number}"
    for value in _values(model.graph):
        value.metadata_props.clear()
    return model


def save(model: ir.Model, path: Path, precision: str, made_from: OnnxModel | None = None) -> OnnxModel:
    """Check a graph, write it as one file (whole or not at all) and describe it."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # a seventh of a small file, and every runtime infers it again
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString(deterministic=True)
    write(path, data)
    return OnnxModel(path, hashlib.sha256(data).hexdigest(), precision, proto.opset_import[0].version, made_from)


def file_bytes(model: ir.Model) -> int:
    """Of the file that `save` makes."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return int(proto.ByteSize())


def _pool_means(graph: ir.Graph) -> None:
    """A mean over height and width is a GlobalAveragePool, for which runtimes have integer kernels."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        source, axes = node.inputs[0], ir.convenience.get_const_tensor(node.inputs[1])
        if source is None or source.shape is None or axes is None or source.shape.rank() != 4:
            continue
        if sorted(int(a) % 4 for a in axes.numpy()) == [2, 3]:
            made = [ir.node("GlobalAveragePool", [source])]
            if node.attributes.get_int("keepdims", 1) == 0:
                made.append(ir.node("Flatten", made[0].outputs, {"axis": 1}))
            ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, made[-1].outputs)


def _join_slices(graph: ir.Graph) -> None:
    """``x[:, :, ::2, ::2]`` is exported as one Slice an axis; one Slice does them all."""
    for node in list(graph):
        first = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] is not None else None
        if first is None or first.op_type != "Slice" or len(first.outputs[0].uses()) != 1:
            continue
        one, other = _bounds(first), _bounds(node)
        if one is None or other is None or first.outputs[0].is_graph_output():
            continue
        axes = [*one[2], *other[2]]
        if len(set(axes)) < len(axes) or (min(axes) < 0 <= max(axes)):  # an axis may go by two names
            continue
        node.replace_input_with(0, first.inputs[0])
        for i, (a, b) in enumerate(zip(one, other, strict=True), start=1):
            name = f"{node.outputs[0].name}_{('starts', 'ends', 'axes', 'steps')[i - 1]}"
            tensor = ir.tensor(np.concatenate([a, b]), name=name)
            joined = ir.Value(name=name, const_value=tensor, shape=ir.Shape([len(a) + len(b)]), type=_INT64)
            graph.register_initializer(joined)
            node.replace_input_with(i, joined)
        graph.remove(first, safe=True)


def _bounds(node: ir.Node) -> list[NDArray[np.int64]] | None:
    """A Slice's starts, ends, axes and steps; None where one is left out or computed."""
    tensors = [ir.convenience.get_const_tensor(v) if v is not None else None for v in node.inputs[1:]]
    known = [np.atleast_1d(t.numpy()).astype(np.int64) for t in tensors if t is not None]
    return known if len(known) == 4 else None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress, warns of its own deprecations and logs its tries: not the user's business."""
    disabled = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(disabled)
