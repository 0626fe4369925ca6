"""How often a latency gate is wrong: ours, and a naive sequential one, beside a noisy neighbour.

    python benchmarks/gates.py [--gates 40] [--quiet]

Models of 100, 103 and 110 equal convolutions: the second is 3 % slower than the first, the third 10 %, as near as the
fixed cost of a call lets them be; the ratio that all gates together found stands beside. Every gate judges at 5 %
tolerance. A second process is busy in bursts all the while. The naive gate times the baseline, then the candidate, as
many inferences each as ours takes at first, and compares the medians.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from compressor.bench.compare import Bench
from compressor.bench.device import here
from compressor.bench.gate import Limits, gate
from compressor.bench.timing import TimingConfig
from compressor.machine import machine

WIDTH, SIDE = 16, 8
TOLERANCE = 0.05
PLANTED = {"itself": 100, "3 % slower": 103, "10 % slower": 110}

NEIGHBOUR = """
import random, time
import numpy as np
order = random.Random(7)
a = np.random.default_rng(0).standard_normal((400, 400))
while True:
    end = time.perf_counter() + order.uniform(0.02, 0.6)
    while time.perf_counter() < end:
        a @ a
    time.sleep(order.uniform(0.0, 0.4))
"""


def write_model(path: Path, convolutions: int) -> None:
    """A chain of equal 3x3 convolutions, each with weights of its own."""
    rng = np.random.default_rng(0)
    nodes, weights, before = [], [], "input"
    for number in range(convolutions):
        kernel = (rng.standard_normal((WIDTH, WIDTH, 3, 3)) / (3 * WIDTH**0.5)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        after = "output" if number == convolutions - 1 else f"x{number}"
        nodes.append(helper.make_node("Conv", [before, f"w{number}"], [after], pads=[1, 1, 1, 1]))
        before = after
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH, SIDE, SIDE])] for name in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "chain", *ends, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))


def naive(plan: Bench) -> tuple[str, float]:
    """One after the other, as a script of ten lines does it."""
    medians = []
    for model in plan.models.values():
        with tempfile.TemporaryDirectory() as folder, here({"it": model.loaded(Path(folder))}, 1) as device:
            run = device.take(TimingConfig(1, 300), lambda message, done, total: None)
            medians.append(statistics.median(run.blocks["it"][0]))
    ratio = medians[1] / medians[0]
    return ("fail" if ratio > 1 + TOLERANCE else "pass"), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=40)
    parser.add_argument("--quiet", action="store_true", help="without the neighbour")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    for name, convolutions in PLANTED.items():
        write_model(work / f"{convolutions}.onnx", convolutions)
        print(f"{name}: {convolutions} convolutions", file=sys.stderr)
    verdicts = {(kind, name): Counter[str]() for name in PLANTED for kind in ("interleaved", "naive")}
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in verdicts}
    seconds: list[float] = []
    extended = 0
    neighbour = None if arguments.quiet else subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        plans = {name: Bench.of(work / f"{n}.onnx", work / "100.onnx") for name, n in PLANTED.items()}
        order = random.Random(1)
        for number in range(arguments.gates):
            for name in order.sample(list(plans), len(plans)):
                begun = time.perf_counter()
                document = gate(plans[name], Limits(regression=TOLERANCE), None, lambda message, done, total: None)
                seconds.append(time.perf_counter() - begun)
                extended += document["extended"]
                verdicts["interleaved", name][document["verdict"]] += 1
                ratios["interleaved", name].append(document["checks"][0]["value"])
                verdict, ratio = naive(plans[name])
                verdicts["naive", name][verdict] += 1
                ratios["naive", name].append(ratio)
            print(f"{number + 1} of {arguments.gates}", file=sys.stderr)
    finally:
        if neighbour is not None:
            neighbour.kill()
    beside = "no neighbour" if arguments.quiet else "a noisy neighbour"
    print(f"{machine().cpu}, {machine().cores} cores, load {machine().load[0]:.1f}; {arguments.gates} gates each,")
    print(f"{beside}; median {statistics.median(seconds):.1f} s a gate")
    print(f"({extended} of {len(seconds)} took their one extension).\n")
    print("| candidate | gate | pass | inconclusive | fail | invalid | ratio: median (least–most) |")
    print("|---|---|---|---|---|---|---|")
    for (kind, name), counts in verdicts.items():
        figures = [str(counts[each]) for each in ("pass", "inconclusive", "fail", "invalid")]
        found = ratios[kind, name]
        spread = f"{statistics.median(found):.3f} ({min(found):.3f}–{max(found):.3f})"
        print(f"| {name} | {kind} | {' | '.join(figures)} | {spread} |")


if __name__ == "__main__":
    main()
