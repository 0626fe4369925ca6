"""Inputs of a resize that hold nothing."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["DropEmptySizes"]


class DropEmptySizes(ir.passes.InPlacePass):
    """Leave out a Resize's regions and scales where they are tensors without an entry.

    That is how exporters of opset 11 wrote an input that is not given; runtimes may refuse them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in model.graph:
            for index in (1, 2) if node.op_type == "Resize" and node.domain in ("", "ai.onnx") else ():
                value = node.inputs[index] if index < len(node.inputs) else None
                tensor = ir.convenience.get_const_tensor(value) if value is not None else None
                if tensor is not None and tensor.size == 0:
                    node.replace_input_with(index, None)
                    changed = True
        return ir.passes.PassResult(model, changed)
