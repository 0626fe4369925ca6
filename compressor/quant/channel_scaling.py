"""Channels of a graph's tensors brought to like ranges, by factors that the weights around them take up.

Cross-layer equalisation (Nagel et al. 2019, arXiv 1906.04721, section 4.1), on a graph: a tensor's channels are divided
by positive factors in the layers that make it, and multiplied back in the weights of those that read it. Between them
may be whatever a positive factor passes through: activations such as Relu, pooling, sums (all terms get the same
factors), and concatenations (each part has its own). What the graph computes stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["ChannelScaling"]

_PASSING = frozenset({
    "Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout",
    "Abs",
})  # fmt: skip
"""Operators with one tensor in and one out through which a positive factor of a channel passes."""
_SUMS = frozenset({"Add", "Sum", "Max", "Min", "Sub"})
_MOST = 1e4
"""The most that a channel's factor is from the mean of all."""


@dataclass(frozen=True)
class _Constant:
    """A constant that takes up factors along ``axis``; of a Conv's weight that reads them, by each of ``groups``."""

    value: ir.Value
    axis: int
    groups: int = 1


@dataclass(frozen=True)
class _Taken:
    """The constants of a layer that take up factors of what it reads, and of what it makes."""

    by_source: list[_Constant]
    """Multiplied by those of what it reads."""
    by_made: list[_Constant]
    """Divided by those of what it makes."""
    of_source: list[_Constant] = field(default_factory=list)
    """Divided by those of what it reads: means that are taken off it."""


@dataclass
class _Group:
    """Tensors whose channels have the same factors."""

    channels: int
    fixed: bool = False
    """Whether the factors must be 1: something else reads or makes a tensor of it."""
    parts: tuple[ir.Value, ...] = ()
    """The tensors whose factors a concatenation has, one after another."""
    divided: list[_Constant] = field(default_factory=list)
    """Constants to divide by the factors: of the layers that make a tensor of it."""
    multiplied: list[_Constant] = field(default_factory=list)
    """Constants to multiply: of the layers that read one."""


class ChannelScaling:
    """The tensors of a graph whose channels can be scaled, and the scaling itself.

    ``tensors`` are those whose largest magnitudes `scale` wants, a value for each channel.
    """

    def __init__(self, model: ir.Model) -> None:
        _own_constants(model.graph)
        self._parent: dict[ir.Value, ir.Value] = {}
        self._groups: dict[ir.Value, _Group] = {}
        self._values = [v for node in model.graph for v in node.outputs if _channels(v) is not None]
        for value in [*model.graph.inputs, *self._values]:
            if (count := _channels(value)) is not None:
                self._groups[value] = _Group(count)
        for node in model.graph:
            self._join(node)
        for node in model.graph:
            self._use(node)
        for value in (*model.graph.inputs, *model.graph.outputs):
            self._fix(value)
        self._settle()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors of groups that can be scaled, in the graph's order."""
        return tuple(v.name or "" for v in self._values if self._scales(self._root(v)))

    def scale(self, largest: Mapping[str, NDArray[np.float64]], share: float) -> int:
        """Scale the graph in place; return how many groups of tensors were.

        ``largest`` has the largest magnitude of each channel of `tensors`. ``share`` is the part of each channel's
        distance from the mean, in logarithms, that is taken off.
        """
        factors: dict[ir.Value, NDArray[np.float64]] = {}
        for value in self._values:
            root = self._root(value)
            if self._scales(root) and not self._groups[root].parts:
                seen = largest[value.name or ""]
                factors[root] = np.maximum(factors.get(root, seen), seen)
        for joined in self._joined(factors):
            mean = _mean_log(np.concatenate([factors[root] for root in joined]))
            for root in joined:
                factors[root] = _factors(factors[root], mean, share)
        count = 0
        for root in dict.fromkeys(self._root(v) for v in self._values):
            if not self._scales(root):
                continue
            group, factor = self._groups[root], self._factor(root, factors)
            for constant in group.divided:
                _multiply(constant, 1 / factor)
            for constant in group.multiplied:
                _multiply(constant, factor)
            count += 1
        return count

    def _joined(self, roots: Iterable[ir.Value]) -> list[list[ir.Value]]:
        """The groups that meet in concatenations together: their ranges are to be alike."""
        sets = {root: {root} for root in roots}
        for group in self._groups.values():
            met = [self._root(part) for part in group.parts if self._root(part) in sets]
            merged = set().union(*(sets[root] for root in met))
            for root in merged:
                sets[root] = merged
        return [[r for r in sets if r in each] for each in {id(each): each for each in sets.values()}.values()]

    def _factor(self, root: ir.Value, factors: Mapping[ir.Value, NDArray[np.float64]]) -> NDArray[np.float64]:
        group = self._groups[root]
        if not group.parts:
            return factors[root]
        return np.concatenate([self._part(part, factors) for part in group.parts])

    def _part(self, part: ir.Value, factors: Mapping[ir.Value, NDArray[np.float64]]) -> NDArray[np.float64]:
        root = self._root(part)
        return self._factor(root, factors) if self._scales(root) else np.ones(self._groups[root].channels)

    # -- groups -----------------------------------------------------------------------------------

    def _root(self, value: ir.Value) -> ir.Value:
        while value in self._parent:
            value = self._parent[value]
        return value

    def _scales(self, root: ir.Value) -> bool:
        group = self._groups.get(root)
        return group is not None and not group.fixed

    def _fix(self, value: ir.Value | None) -> None:
        if value is not None and (root := self._root(value)) in self._groups:
            self._groups[root].fixed = True

    def _union(self, values: Sequence[ir.Value]) -> None:
        """Give tensors the same factors; a concatenation, whose parts have theirs, can lend its own, and take none."""
        roots = list(dict.fromkeys(self._root(v) for v in values))
        known = [self._groups[root] for root in roots if root in self._groups]
        alike = len(known) == len(roots) and len({group.channels for group in known}) == 1
        if not alike or any(group.parts for group in known[1:]):
            for value in values:
                self._fix(value)
            return
        for root, group in zip(roots[1:], known[1:], strict=True):
            self._parent[root] = roots[0]
            known[0].fixed |= group.fixed

    def _join(self, node: ir.Node) -> None:
        """Join the tensors that must have the same factors; remember what a concatenation is of."""
        variables, made = _variables(node), node.outputs[0]
        whole = len(variables) == len(node.inputs)
        if _passes(node):
            self._union([*variables, made])
        elif node.op_type in _SUMS and whole:
            self._union([*variables, made])
            if len({_rank(value) for value in (*variables, made)}) > 1:
                self._fix(made)  # broadcast: axis 1 is not the same one in all
            if self._groups.get(self._root(made), _Group(0)).parts:
                self._fix(made)
        elif _is_join(node) and whole and all(v in self._groups for v in (*variables, made)):
            self._groups[self._root(made)].parts = tuple(variables)

    def _use(self, node: ir.Node) -> None:
        """Note the constants that take up factors; fix what is made or read otherwise."""
        summed = node.op_type in _SUMS and len(_variables(node)) == len(node.inputs)
        joined = bool(self._groups.get(self._root(node.outputs[0]), _Group(0)).parts) and _is_join(node)
        if _passes(node) or summed or joined:
            return
        taken = _taken(node)
        if taken is None:
            for value in (*node.inputs, *node.outputs):
                self._fix(value)
            return
        source, made = (self._groups.get(self._root(v)) for v in (_variables(node)[0], node.outputs[0]))
        if source is not None:
            source.multiplied += taken.by_source
            source.divided += taken.of_source
        if made is not None:
            made.divided += taken.by_made

    def _settle(self) -> None:
        """Fix the parts of a fixed concatenation; and, the other way round, nothing: a part may stay as it is."""
        changed = True
        while changed:
            changed = False
            for value in list(self._groups):
                root = self._root(value)
                if not self._groups[root].fixed or not self._groups[root].parts:
                    continue
                for part in self._groups[root].parts:
                    if not self._groups[self._root(part)].fixed:
                        self._groups[self._root(part)].fixed = changed = True


def _channels(value: ir.Value) -> int | None:
    """The size of axis 1 of a float tensor of rank 4 or 2."""
    shape = value.shape
    if value.dtype not in (None, ir.DataType.FLOAT) or shape is None or shape.rank() not in (2, 3, 4, 5):
        return None
    return shape[1] if isinstance(shape[1], int) else None


def _variables(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None]


def _is_join(node: ir.Node) -> bool:
    return node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 1


def _passes(node: ir.Node) -> bool:
    """Whether a channel's factor goes through a node as it is."""
    if node.op_type in _PASSING:
        return len(node.outputs) == 1 and len(_variables(node)) == 1
    if node.op_type in ("Mul", "Div"):  # by one number
        number = node.inputs[1] if len(_variables(node)) == 1 and node.inputs[0] in _variables(node) else None
        constant = None if number is None else ir.convenience.get_const_tensor(number)
        return constant is not None and constant.size == 1
    if node.op_type == "Flatten":  # of one value a channel
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        ones = shape is not None and all(size == 1 for size in list(shape)[2:])
        return ones and node.attributes.get_int("axis", 1) == 1
    return False


def _taken(node: ir.Node) -> _Taken | None:
    """The constants of a layer that take up factors; None of any other node."""
    constants = [v for v in node.inputs[1:] if v is not None]
    alone = len(_variables(node)) == 1 and node.inputs[0] in _variables(node)
    if not alone or not constants or not all(v.is_initializer() for v in constants):
        return None
    weight, bias = constants[0], [_Constant(v, 0) for v in constants[1:2]]
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "Conv":
        return _Taken([_Constant(weight, 1, groups)], [_Constant(weight, 0), *bias])
    if node.op_type == "ConvTranspose" and groups == 1:
        return _Taken([_Constant(weight, 0)], [_Constant(weight, 1), *bias])
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0) and (not bias or _rank(bias[0].value) == 1):
        rows = node.attributes.get_int("transB", 0)
        return _Taken([_Constant(weight, rows)], [_Constant(weight, 1 - rows), *bias])
    if node.op_type == "BatchNormalization" and len(node.outputs) == 1:
        scale = _Constant(weight, 0)
        return _Taken([scale], [scale, *bias], [_Constant(constants[2], 0)])
    return _affine(node, weight) if node.op_type == "Mul" else None


def _affine(node: ir.Node, constant: ir.Value) -> _Taken | None:
    """A product with a constant for each channel takes up both factors."""
    shape, rank = constant.shape, _rank(node.outputs[0])
    if shape is None or rank is None or shape.rank() not in (rank, rank - 1):
        return None
    axis = 1 - (rank - shape.rank())
    per_channel = [size for index, size in enumerate(shape) if index != axis] == [1] * (shape.rank() - 1)
    both = [_Constant(constant, axis)]
    return _Taken(both, both) if per_channel and shape[axis] != 1 else None


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else value.shape.rank()


def _mean_log(largest: NDArray[np.float64]) -> float:
    """The mean of the logarithms of channels that are not zero."""
    alive = largest[largest > 0]
    return float(np.log(alive).mean()) if alive.size else 0.0


def _factors(largest: NDArray[np.float64], mean: float, share: float) -> NDArray[np.float64]:
    """Factors whose logarithms are ``share`` of each channel's distance from ``mean``; 1 of a channel of zeros."""
    alive = largest > 0
    distance = np.where(alive, np.log(np.where(alive, largest, 1.0)) - mean, 0.0)
    made: NDArray[np.float64] = np.exp(share * np.clip(distance, -np.log(_MOST), np.log(_MOST)))
    return made


def _multiply(constant: _Constant, factor: NDArray[np.float64]) -> None:
    """Multiply a constant's channels."""
    tensor = ir.convenience.get_const_tensor(constant.value)
    assert tensor is not None
    values = tensor.numpy().astype(np.float64)
    if constant.groups > 1:  # O x C/groups: row o reads the channels of group o * groups // O
        rows = factor.reshape(constant.groups, -1).repeat(len(values) // constant.groups, axis=0)
        values = values * rows.reshape(*rows.shape, *[1] * (values.ndim - 2))
    else:
        shape = [1] * values.ndim
        shape[constant.axis] = -1
        values = values * factor.reshape(shape)
    constant.value.const_value = ir.tensor(values.astype(np.float32), name=constant.value.name)


def _own_constants(graph: ir.Graph) -> None:
    """Give each reader of a constant a copy of its own."""
    for value in list(graph.initializers.values()):
        for number, use in enumerate(list(value.uses())[1:]):
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None:
                continue
            name = f"{value.name}_copy{number}"
            copy = ir.Value(
                name=name, shape=value.shape, type=value.type, const_value=ir.tensor(tensor.numpy(), name=name)
            )
            graph.initializers.add(copy)
            use.node.replace_input_with(use.idx, copy)
