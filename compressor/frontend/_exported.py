"""A program of torch.export as a network that takes any number of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from compressor.core import InputSpec, UsageError

__all__ = ["input_of", "network"]

_VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten._unsafe_view.default)
_EXPANDS = (torch.ops.aten.expand.default,)


def input_of(program: ExportedProgram, path: Path) -> InputSpec | None:
    """Return the size of sample that the program takes; None where it takes several."""
    shape = _input(program, path).shape[1:]
    return InputSpec(*shape) if all(type(n) is int for n in shape) else None


def network(program: ExportedProgram, path: Path) -> nn.Module:
    """Return the program as a module, whose batch is free even where it was exported with a fixed one.

    Raises UsageError where that cannot be done, or where one sample's output depends on the others.
    """
    shape = _input(program, path).shape
    fixed = shape[0] if type(shape[0]) is int else None
    module = program.module(check_guards=False)  # they would hold it to its batch
    if fixed is not None:
        _free(module.graph, fixed)
    freed = fx.GraphModule(module, module.graph)
    some = fixed or 2
    size = (n if type(n) is int else 64 for n in shape[1:])
    samples = torch.randn(some + 2, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            alone, together = program.module(check_guards=False)(samples[:some]), freed(samples)
        agree = not isinstance(alone, Tensor) or torch.allclose(
            alone, together[:some], rtol=1e-3, atol=1e-3 * float(alone.abs().max())
        )
    except Exception as error:  # whatever its operations raise
        raise _bound(path, fixed) from error
    if not agree:
        raise _bound(path, fixed)
    return freed


def _bound(path: Path, fixed: int | None) -> UsageError:
    batch = "as it was exported" if fixed is None else f"other than {fixed}"
    return UsageError(
        f"{path} does not give one output a sample for a batch {batch}",
        hint="export it again in eval mode with a free batch: torch.export.export(model.eval(), (example,), "
        "dynamic_shapes=({0: torch.export.Dim('batch')},))",
    )


def _input(program: ExportedProgram, path: Path) -> Any:
    """Return the placeholder tensor of its only input."""
    names = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    value = values[0] if len(values) == 1 else None
    if not isinstance(value, Tensor) or value.ndim != 4 or value.dtype != torch.float32:
        raise UsageError(
            f"{path} takes something else than one batch of images",
            hint="export a forward that takes N x C x H x W in float32",
        )
    return value


def _free(graph: fx.Graph, batch: int) -> None:
    """Replace the number ``batch`` by the input's batch size wherever a tensor is given a shape."""
    input = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(input):
        size = graph.call_function(torch.ops.aten.sym_size.int, (input, 0))
    of_input = {input}
    for node in graph.nodes:
        if node is size:
            continue
        of_input |= {node} if of_input & set(node.all_input_nodes) else set()
        viewed = node.target in _VIEWS and node in of_input and _rows(node.args[0]) == batch
        if (viewed or node.target in _EXPANDS) and node.args[1][:1] == [batch]:
            node.args = (node.args[0], [size, *node.args[1][1:]], *node.args[2:])


def _rows(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else None
