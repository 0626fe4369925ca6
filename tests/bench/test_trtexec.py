"""What TensorRT's timing tool prints, in the forms of its versions, and a board that has nothing but it.

The samples are in the form of recorded output: the version line, the summary and what surrounds them, of TensorRT 8.6
(with end-to-end lines and warnings about clocks), 10.3 (JetPack 6) and 11 (build numbers, other defaults).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import fixed_batch, no_batch, two_inputs
from onnx import TensorProto, helper

from compressor.bench import trtexec
from compressor.bench.bench_model import BenchModel
from compressor.bench.remote import _runtime, _shapes
from compressor.bench.ssh import Done
from compressor.bench.timing import TimingConfig
from compressor.core import GivenInput, Unavailable, VerificationFailed

V86 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8602] # trtexec --loadEngine=candidate/model.engine --useCudaGraph
[07/12/2023-13:33:12] [I] === Model Options ===
[07/12/2023-13:33:12] [I] Format: *
[07/12/2023-13:33:12] [I] TensorRT version: 8.6.2
[07/12/2023-13:33:18] [I] Warmup completed 60 queries over 200 ms
[07/12/2023-13:33:18] [I] Timing trace has 20 queries over 0.065 s
[07/12/2023-13:33:18] [I] === Trace details ===
[07/12/2023-13:33:18] [I] Average on 1 runs - GPU latency: 3.2 ms - Host latency: 3.2 ms (enqueue 0.9 ms)
[07/12/2023-13:33:21] [I]
[07/12/2023-13:33:21] [I] === Performance summary ===
[07/12/2023-13:33:21] [I] Throughput: 307.3 qps
[07/12/2023-13:33:21] [I] Latency: min = 3.21 ms, max = 9.9 ms, mean = 3.4 ms, median = 3.3 ms, percentile(99%) = 9.9 ms
[07/12/2023-13:33:21] [I] Enqueue Time: min = 0.8 ms, max = 2.0 ms, mean = 0.9 ms, median = 0.9 ms, percentile(99%) = 2 ms
[07/12/2023-13:33:21] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(99%) = 0 ms
[07/12/2023-13:33:21] [I] GPU Compute Time: min = 3.12671 ms, max = 3.15479 ms, mean = 3.14068 ms, median = 3.14062 ms, percentile(99%) = 3.15039 ms
[07/12/2023-13:33:21] [I] D2H Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(99%) = 0 ms
[07/12/2023-13:33:21] [I] Total Host Walltime: 0.0652 s
[07/12/2023-13:33:21] [I] Total GPU Compute Time: 0.0628 s
[07/12/2023-13:33:21] [W] * GPU compute time is unstable, with coefficient of variance = 6.08549%.
[07/12/2023-13:33:21] [W]   If not already in use, locking GPU clock frequency or adding --useSpinWait may improve the stability.
[07/12/2023-13:33:21] [I] Explanations of the performance metrics are printed in the verbose logs.
&&&& PASSED TensorRT.trtexec [TensorRT v8602] # trtexec --loadEngine=candidate/model.engine --useCudaGraph
"""  # noqa: E501 - as it is printed

V103 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec --loadEngine=candidate/model.engine
[05/13/2025-10:36:43] [I] === System Options ===
[05/13/2025-10:36:43] [I] Device: 0
[05/13/2025-10:36:46] [I] === Performance summary ===
[05/13/2025-10:36:46] [I] Throughput: 318.007 qps
[05/13/2025-10:36:46] [I] Latency: min = 3.12671 ms, max = 3.15479 ms, mean = 3.14068 ms, median = 3.14062 ms, percentile(90%) = 3.14587 ms, percentile(95%) = 3.14771 ms, percentile(99%) = 3.15039 ms
[05/13/2025-10:36:46] [I] Enqueue Time: min = 0.844238 ms, max = 2.05505 ms, mean = 0.887139 ms, median = 0.872437 ms, percentile(90%) = 0.932861 ms, percentile(95%) = 0.953735 ms, percentile(99%) = 1.0658 ms
[05/13/2025-10:36:46] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(95%) = 0 ms, percentile(99%) = 0 ms
[05/13/2025-10:36:46] [I] GPU Compute Time: min = 3.12671 ms, max = 3.15479 ms, mean = 3.14068 ms, median = 3.14062 ms, percentile(90%) = 3.14587 ms, percentile(95%) = 3.14771 ms, percentile(99%) = 3.15039 ms
[05/13/2025-10:36:46] [I] D2H Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(95%) = 0 ms, percentile(99%) = 0 ms
[05/13/2025-10:36:46] [I] Total Host Walltime: 3.00622 s
[05/13/2025-10:36:46] [I] Total GPU Compute Time: 3.00249 s
[05/13/2025-10:36:46] [I] Explanations of the performance metrics are printed in the verbose logs.
[05/13/2025-10:36:46] [I]
&&&& PASSED TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec --loadEngine=candidate/model.engine
"""  # noqa: E501 - as it is printed

V11 = V103.replace("[TensorRT v100300]", "[TensorRT v110201] [b3]")
FAILED = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v110201] [b3] # trtexec --onnx=candidate/model.onnx
[09/25/2026-10:00:00] [I] TensorRT version: 11.2.1
[09/25/2026-10:00:02] [E] Failed to parse onnx file
[09/25/2026-10:00:02] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v110201] [b3] # trtexec --onnx=candidate/model.onnx
"""
TIMES = json.dumps(
    [{"startInMs": 0.0, "endInMs": 0.0, "computeMs": 1.5 + i / 100, "latencyMs": 9.0} for i in range(30)]
)


@pytest.mark.parametrize(
    ("text", "version", "percentiles"),
    [(V86, (8, 6, 2), {99}), (V103, (10, 3, 0), {90, 95, 99}), (V11, (11, 2, 1), {90, 95, 99})],
)
def test_a_summary_of_each_version(text: str, version: tuple[int, ...], percentiles: set[int]) -> None:
    found = trtexec.read(text, 0)
    assert found.version == version
    assert (found.smallest, found.median, found.largest) == (3.12671, 3.14062, 3.15479)
    assert set(found.percentiles) == percentiles
    assert found.percentiles[99] == 3.15039


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("v8502", (8, 5, 2)), ("v8601", (8, 6, 1)), ("v100300", (10, 3, 0)), ("v101600", (10, 16, 0)),
        ("v110000", (11, 0, 0)), ("v110401", (11, 4, 1)), ("v11.1.0.106", (11, 1, 0)),
    ],
)  # fmt: skip
def test_versions_as_they_are_spelled(said: str, version: tuple[int, ...]) -> None:
    assert trtexec.version(f"&&&& RUNNING TensorRT.trtexec [TensorRT {said}] [b106] # trtexec --help") == version


def test_what_is_no_summary() -> None:
    with pytest.raises(VerificationFailed, match="Failed to parse onnx file"):
        trtexec.read(FAILED, 1)
    with pytest.raises(VerificationFailed, match="no GPU compute time"):
        trtexec.read(V103.replace("GPU Compute Time: min", "GPU Time: min"), 0)
    with pytest.raises(VerificationFailed, match="code 0"):
        trtexec.read(V103.replace("&&&& PASSED", "&&&& WAIVED"), 0)
    with pytest.raises(Unavailable, match="Segmentation"):
        trtexec.version("Segmentation fault")


def test_times_of_every_inference() -> None:
    assert trtexec.read_times(TIMES)[:2] == (1.5, 1.51)
    for text in ("", "[", "{}", '[{"inMs": 1}]', "[1]", "null"):
        assert trtexec.read_times(text) == ()


def test_commands_say_what_versions_changed() -> None:
    old = trtexec.build_command("t", (8, 5, 2), "m.onnx", "m.engine", "input:1x3x4x4", "int8")
    assert {"--buildOnly", "--int8", "--fp16", "--optShapes=input:1x3x4x4"} <= set(old)
    middle = trtexec.build_command("t", (10, 3, 0), "m.onnx", "m.engine", "", "fp16")
    assert {"--skipInference", "--fp16"} <= set(middle)
    assert not [word for word in middle if "Shapes" in word or word == "--int8"]
    new = trtexec.build_command("t", (11, 2, 1), "m.onnx", "m.engine", "", "int8")
    assert not {"--int8", "--fp16", "--best"} & set(new)  # removed: the graph's own types are the precision
    timed = trtexec.time_command("t", "m.engine", "", 20, "times.json")
    assert {"--noDataTransfers", "--useCudaGraph", "--useSpinWait", "--iterations=20"} <= set(timed)


# -- a board ----------------------------------------------------------------------------------


class Jetson:
    """A session with a board that has trtexec where JetPack puts it, and answers as one was recorded to."""

    python = "python3"

    def __init__(self, printed: str, times: str = TIMES) -> None:
        self.board = type("B", (), {"url": "ssh://jetson"})()
        self.printed, self.times = printed, times
        self.files: dict[str, bytes] = {}
        self.commands: list[list[str]] = []

    def put(self, files: dict[str, bytes]) -> None:
        self.files |= files

    def run(self, command: Any, seconds: float) -> Done:
        self.commands.append(list(command))
        if command[0] == "python3":
            return Done(1, "", "ModuleNotFoundError: No module named 'onnxruntime'", 0.1)
        if command[0] == "trtexec":
            return Done(127, "", "No such file or directory: 'trtexec'", 0.0)
        if command[0] == "cat":
            return Done(0 if self.times else 1, self.times, "", 0.0)
        return Done(0, self.printed, "", 1.0)


@pytest.fixture
def models(tmp_path: Path) -> dict[str, BenchModel]:
    def tensor(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 4, 4])

    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["y"])], "g", [tensor("input")], [tensor("y")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    return {name: BenchModel.read(tmp_path / "m.onnx") for name in ("baseline", "candidate")}


def silent(message: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize(("printed", "version"), [(V86, "8.6.2"), (V103, "10.3.0"), (V11, "11.2.1")])
def test_engines_are_built_and_take_turns(models: dict[str, BenchModel], printed: str, version: str) -> None:
    board = Jetson(printed)
    runtime = _runtime(board, models, 1)  # type: ignore[arg-type]
    assert runtime.name == f"tensorrt {version}"
    runtime.prepare(silent)
    assert set(board.files) == {"baseline/model.onnx", "candidate/model.onnx"}
    blocks, _ = runtime.take(TimingConfig(blocks=6, inferences=20, seed=3), silent)
    (build,) = {
        tuple(word for word in words if "Shapes" in word)
        for words in board.commands
        if words[1:2] and "--onnx" in words[1]
    }
    assert build == tuple(f"--{which}Shapes=input:1x3x4x4" for which in ("min", "opt", "max"))
    turns = [words[1] for words in board.commands if words[1:2] and words[1].startswith("--loadEngine")]
    assert turns.count("--loadEngine=candidate/model.engine") == turns.count("--loadEngine=baseline/model.engine") == 6
    assert turns != sorted(turns)
    assert turns[:2] != turns[2:4] or turns[4:6] != turns[:2]  # the order within a block is drawn
    assert [len(block) for block in blocks["candidate"]] == [20] * 6
    assert float(np.median(blocks["candidate"][0])) == pytest.approx(1.695)


def test_without_a_file_of_times_the_summary_is_a_block(models: dict[str, BenchModel]) -> None:
    board = Jetson(V103, times="")
    runtime = _runtime(board, models, 1)  # type: ignore[arg-type]
    assert runtime.take(TimingConfig(5, 20), silent)[0]["candidate"] == ((3.14062,),) * 5


def test_a_graph_that_the_board_refuses(models: dict[str, BenchModel]) -> None:
    board = Jetson(FAILED)
    with pytest.raises(VerificationFailed, match="Failed to parse"):
        _runtime(board, models, 1).prepare(silent)  # type: ignore[arg-type]


def test_shapes_are_those_of_inputs_with_free_axes(tmp_path: Path) -> None:
    for name, content, given, shapes in (
        ("two.onnx", two_inputs, ("tokens=7",), "features:1x4,tokens:1x7"),
        ("fixed.onnx", fixed_batch, (), ""),
        ("none.onnx", no_batch, (), ""),
    ):
        (tmp_path / name).write_bytes(content())
        assert _shapes(BenchModel.read(tmp_path / name, GivenInput.parse_all(given))) == shapes
