"""A network's operations as a torch.fx graph."""

from __future__ import annotations

import copy

from torch import fx, nn

from compressor.core import UsageError

__all__ = ["copy_of", "insert_behind", "quantisable_nodes", "trace"]


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace ``network`` by torch.fx. Raises UsageError where its forward cannot be traced."""
    try:
        return fx.symbolic_trace(network)
    except Exception as error:  # whatever the network's own code raises at a proxy
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{type(network).__name__} cannot be traced for quantisation-aware training: {reason}",
            hint='set quantize.method = "ptq", or make its forward traceable by torch.fx',
        ) from error


def copy_of(traced: fx.GraphModule) -> fx.GraphModule:
    """A deep copy, parameters included."""
    return copy.deepcopy(traced)


def insert_behind(node: fx.Node, inserted: fx.Node) -> None:
    """Let ``inserted``, which reads ``node``, be read in its place."""
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def quantisable_nodes(traced: fx.GraphModule) -> tuple[str, ...]:
    """The names of the nodes whose output may be quantised: all but those that only a batch normalisation reads.

    The exporter folds such a normalisation into the layer before it.
    """
    modules = dict(traced.named_modules())

    def is_norm(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(modules[str(node.target)], nn.BatchNorm2d)

    return tuple(
        node.name
        for node in traced.graph.nodes
        if node.op in ("placeholder", "call_module", "call_function", "call_method")
        and not (len(node.users) == 1 and is_norm(next(iter(node.users))))
    )
