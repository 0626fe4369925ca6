"""From a torch module to an ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from compressor.core import Signature, UsageError
from compressor.lowering._operator_table import kept_operator_table
from compressor.lowering._returning import ReturningTensors
from compressor.lowering.tidy import tidy
from compressor.models.common.deployed import deployed
from compressor.opsets import OLDEST_EXPORT

__all__ = ["export", "export_each", "export_marked", "mark"]

_MARKS = "compressor.marks"
_EXAMPLE_BATCH = 2
"""Samples of the example: a batch of one would be specialised away by torch.export."""


def export(module: torch.nn.Module, signature: Signature, sizes: Mapping[str, int], opset: int) -> ir.Model:
    """Export the deployed form of ``module`` (in eval mode) and tidy the graph.

    The graph's inputs and outputs are ``signature``'s, with its free axes free; ``sizes`` are their usual sizes.
    Raises UsageError where the exporter cannot follow the module.
    """
    return tidy(_exported(deployed(module), signature, sizes, max(opset, OLDEST_EXPORT)), opset)


def export_marked(
    module: torch.nn.Module, signature: Signature, sizes: Mapping[str, int], opset: int
) -> tuple[ir.Model, dict[int, str]]:
    """Export a module that calls `mark` on some tensors: the graph without the marks, and each mark's tensor by number.

    A tensor that the exporter folded into another is not among them.
    """
    model = _exported(module, signature, sizes, max(opset, OLDEST_EXPORT))
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
    return tidy(model, opset), names


def mark(x: Any, index: int) -> Any:
    """The tensor ``x``, under a number by which `export_marked` finds it in the graph; anything else as it is.

    For a module on its way there only: what it computes is not ``x``'s values.
    """
    if not isinstance(x, torch.Tensor):
        return x
    return torch.onnx.ops.symbolic(f"{_MARKS}::Mark", (x,), {"index": index}, dtype=x.dtype, shape=x.shape, version=1)


def _exported(module: torch.nn.Module, signature: Signature, sizes: Mapping[str, int], opset: int) -> ir.Model:
    axes = {name: torch.export.Dim(name, min=1) for name in signature.free}
    free = tuple({i: axes[a] for i, a in enumerate(spec.shape) if isinstance(a, str)} for spec in signature.inputs)
    example = _example(signature, sizes)
    # Without gradients, as it will run: for weights that are learned attention takes a kernel of another layout.
    try:
        with torch.no_grad(), _quiet(), kept_operator_table():
            program = torch.onnx.export(
                ReturningTensors(_followed(module, example), [spec.name for spec in signature.inputs]),
                example,
                dynamo=True,
                dynamic_shapes=(free,) if any(free) else None,
                opset_version=opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
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
    _free_names(model.graph, signature)
    ReturningTensors.restore_names(model.graph)
    if signature.batch is not None:
        _check_batch(model.graph)
    model.producer_name, model.producer_version = "compressor", None
    return model


def _free_names(graph: ir.Graph, signature: Signature) -> None:
    """Rename computed values that the exporter gave the name of an input or output, such as ``embedding``."""
    taken = {spec.name for spec in (*signature.inputs, *signature.outputs)}
    for node in graph:
        for value in node.outputs:
            if value.name in taken and not value.is_graph_output():
                value.name = f"{value.name}_inside"


def _example(signature: Signature, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    """Zeros for every input."""
    if signature.batch is not None:
        sizes = {**sizes, signature.batch: _EXAMPLE_BATCH}
    return tuple(torch.zeros(spec.sized(sizes), dtype=getattr(torch, spec.dtype)) for spec in signature.inputs)


def _check_batch(graph: ir.Graph) -> None:
    """Raise UsageError where an output has not one row for each sample."""
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is None or value.shape.rank() == 0 or isinstance(value.shape[0], int):
            raise UsageError(
                "the model cannot be exported to ONNX: it does not give one output row for each sample of any batch",
                hint="make its forward keep the batch, its first axis, free (torch.export: no fixed batch size)",
            )


def export_each(modules: Sequence[tuple[torch.nn.Module, tuple[int, ...]]], opset: int) -> list[ir.Model]:
    """Export the deployed forms of modules as graphs of their own.

    Each module comes with the shape of its one input, batch included, which stays fixed. One call of the exporter
    does them all: most of what a call costs does not depend on what is exported.
    """
    together = deployed(_Beside([module for module, _ in modules]).eval())
    with _quiet(), kept_operator_table():
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
        models.append(tidy(ir.Model(own, ir_version=program.model.ir_version), opset))
    return models


class _Beside(torch.nn.Module):
    """Modules side by side: one input and one output each."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(module(x) for module, x in zip(self.members, inputs, strict=True))


def _followed(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """TorchScript as a graph that torch.export can follow; any other module as it is."""
    if not isinstance(module, torch.jit.ScriptModule):
        return module
    from torch._export.converter import TS2EPConverter

    try:
        graph: torch.nn.Module = TS2EPConverter(module, example).convert().module(check_guards=False)
    except Exception as error:  # it raises all kinds at what it does not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the TorchScript program cannot be lowered: torch's converter fails: {reason}",
            hint="give the module that it was made from: its state dict with --arch package.module:callable, "
            "or the module itself, saved with torch.save, with --trust",
        ) from error
    return graph


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
