"""Which operations stay in float: by accuracy, by time, and both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
import pytest

from compressor.quant.precision_search import PrecisionChoice, PrecisionSearch

LAYERS = [f"conv{i}" for i in range(6)]
GATES = ["gate0", "gate1"]


def graph() -> ir.Model:
    """Six convolutions in a row, the third with a gate beside it, all named."""
    source = ir.Value(name="input")
    nodes: list[ir.Node] = []
    value = source
    weight = ir.Value(name="weight", const_value=ir.tensor([[[[1.0]]]], name="weight"))
    for name in LAYERS:
        nodes.append(ir.Node("", "Conv", [value, weight], name=name))
        value = nodes[-1].outputs[0]
        if name == "conv2":
            mean = ir.Node("", "GlobalAveragePool", [value], name="gate0")
            gate = ir.Node("", "Conv", [mean.outputs[0], weight], name="gate1")
            scaled = ir.Node("", "Mul", [value, gate.outputs[0]], name="scaled")
            nodes += [mean, gate, scaled]
            value = scaled.outputs[0]
    for number, node in enumerate(nodes):
        node.outputs[0].name = f"v{number}"
    held = ir.Graph([source], [value], nodes=nodes, initializers=[weight], opset_imports={"": 21})
    return ir.Model(held, ir_version=10)


def search(
    folder: Path,
    loss: Callable[[frozenset[str]], float],
    speed: Callable[[frozenset[str]], float] | None,
    allowed: float = 1.0,
    seconds: float = 100.0,
    elsewhere: Callable[[frozenset[str]], float] = lambda floats: 0.0,
) -> PrecisionChoice:
    """Search where ``loss``, ``speed`` and ``elsewhere`` are functions of the nodes in float."""
    made: dict[Path, frozenset[str]] = {}
    held = graph()
    ops = [node.name or "" for node in held.graph]

    def make(floats: frozenset[str], path: Path) -> None:
        made[path] = floats
        path.write_bytes(b"")

    def speedups(paths: Sequence[Path]) -> list[float | None]:
        return [None if speed is None else speed(made[path]) for path in paths]

    return PrecisionSearch(
        graph=held, integer_ops=ops, macs={**dict.fromkeys(LAYERS, 1000), "gate1": 1}, make=make,
        drop=lambda path: loss(made[path]), elsewhere=lambda path: (elsewhere(made[path]), 1.0),
        parity=lambda path: -loss(made[path]), speedups=speedups, allowed=allowed,
        least_speedup=None if speed is None else 1.0, ample_speedup=1.3, workdir=folder, seconds=seconds,
        progress=lambda *_: None,
    ).run()  # fmt: skip


def test_what_is_accurate_and_fast_is_taken_at_once(tmp_path: Path) -> None:
    choice = search(tmp_path, lambda floats: 0.5, lambda floats: 2.0)
    assert (choice.floats, choice.reason, len(choice.trials)) == (frozenset(), None, 1)


def test_a_gate_that_costs_accuracy_stays_in_float(tmp_path: Path) -> None:
    choice = search(tmp_path, lambda floats: 0.0 if "gate1" in floats else 30.0, lambda floats: 2.0 - 0.1 * len(floats))
    assert choice.floats == {"gate0", "gate1"}
    assert choice.reason == "gates in float: all in integers loses 30, and 1 is allowed"


def test_layers_return_to_float_in_the_order_of_what_they_cost(tmp_path: Path) -> None:
    """Two of six layers are to blame: those two alone stay in float, whatever the variants before them."""
    cost = {"conv1": 20.0, "conv4": 5.0}

    def loss(floats: frozenset[str]) -> float:
        return sum(lost for name, lost in cost.items() if name not in floats)

    choice = search(tmp_path, loss, lambda floats: 3.0 - 0.1 * len(floats))
    assert choice.floats is not None
    assert {"conv1", "conv4"} <= choice.floats
    assert {"conv0", "conv3", "conv5"}.isdisjoint(choice.floats)


def test_the_fastest_of_accurate_graphs_is_taken(tmp_path: Path) -> None:
    choice = search(tmp_path, lambda floats: 0.0, lambda floats: 1.4 if "scaled" in floats else 0.8)
    assert choice.floats is not None
    assert "scaled" in choice.floats
    assert "is 0.80 times as fast as float" in (choice.reason or "")


def test_a_region_whose_integers_are_slow_stays_in_float(tmp_path: Path) -> None:
    """Each layer saves a tenth of the time in integers, but for one that costs more than all others save."""

    def speed(floats: frozenset[str]) -> float:
        integers = set(LAYERS) - floats
        return 1 / (1 - 0.1 * len(integers) + 0.65 * ("conv3" in integers))

    choice = search(tmp_path, lambda floats: 0.0, speed)
    assert choice.floats == {"conv3"}


@pytest.mark.parametrize(
    ("loss", "speed", "reason"), [(50.0, 2.0, "integers lose 50, and 1 is allowed"), (0.0, 0.9, "0.90x at best")]
)
def test_float_ships_where_nothing_else_will_do(tmp_path: Path, loss: float, speed: float, reason: str) -> None:
    choice = search(tmp_path, lambda floats: loss, lambda floats: speed)
    assert choice.floats is None
    assert reason in (choice.reason or "")


def test_a_choice_that_other_samples_do_not_confirm_gives_way_to_a_safer_one(tmp_path: Path) -> None:
    """Each layer in integers costs 0.15 where graphs are chosen, and twice that elsewhere."""

    def lost(floats: frozenset[str]) -> float:
        return 0.15 * len(set(LAYERS) - floats)

    def speed(floats: frozenset[str]) -> float:
        return 3.0 - 0.1 * len(floats)

    choice = search(tmp_path, lost, speed, elsewhere=lambda floats: 2 * lost(floats))
    assert choice.floats is not None
    assert 0 < 2 * lost(choice.floats) <= 1.0
    assert "1.8 is lost on evaluation samples, and 1 is allowed" in str(choice.trials)


def test_float_ships_where_nothing_is_confirmed(tmp_path: Path) -> None:
    choice = search(tmp_path, lambda floats: 0.1, lambda floats: 2.0, elsewhere=lambda floats: 5.0)
    assert choice.floats is None
    assert "5 is lost on evaluation samples" in (choice.reason or "")


def test_speed_is_left_out_where_bytes_are_wanted_and_where_nothing_tells_it(tmp_path: Path) -> None:
    assert search(tmp_path, lambda floats: 0.0, None).floats == frozenset()


def test_the_search_ends_when_its_time_is_over(tmp_path: Path) -> None:
    choice = search(tmp_path, lambda floats: 9.0, lambda floats: 2.0, seconds=0.0)
    assert choice.floats is None
    assert len(choice.trials) == 1
