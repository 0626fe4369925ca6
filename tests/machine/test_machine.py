"""What this machine is, which targets a time taken on it counts for, and whose kernels judge accuracy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from compressor import catalog
from compressor.backends.onnxruntime import OnnxRuntime
from compressor.core import Unavailable
from compressor.machine import Judgement, Machine, judgement, known_target, machine, target_mismatch

PI = "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp asimddp\nCPU part\t: 0xd0b\n\nprocessor\t: 1\n"
ZEN3 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fma avx avx2\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    return tmp_path


def here(root: Path, arch: str, cpuinfo: str, board: str = "") -> Machine:
    (root / "proc/cpuinfo").write_text(cpuinfo)
    if board:
        (root / "proc/device-tree/model").write_text(board + "\0")
    return dataclasses.replace(machine(root), arch=arch)


def test_this_machine_is_read_without_a_hitch() -> None:
    found = machine()
    assert found.cores >= 1
    assert found.memory_mb > 0
    assert list(found.features) == sorted(found.features)


def test_nothing_readable_is_no_failure(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert (found.board, found.cpu, found.features, found.governor) == (None, "unknown", (), None)


def test_a_board_is_known_by_its_device_tree(root: Path) -> None:
    found = here(root, "aarch64", PI, "Raspberry Pi 5 Model B Rev 1.0")
    assert found.cpu == found.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.features == ("asimd", "asimddp", "asimdhp", "fp", "fphp")


def test_the_host_always_target_mismatch(tmp_path: Path) -> None:
    assert target_mismatch(catalog.find_target("host"), machine(tmp_path)) is None


def test_cpu_features_decide_on_x86(root: Path) -> None:
    zen3 = here(root, "x86_64", ZEN3)
    assert target_mismatch(catalog.find_target("x86-avx2"), zen3) is None
    reason = target_mismatch(catalog.find_target("x86-vnni"), zen3)
    assert reason == "x86-64 with VNNI has avx512_vnni or avx_vnni, which this CPU (AMD EPYC) does not show."


@pytest.mark.parametrize("spelling", ["avx512_vnni", "avx_vnni"])
def test_one_of_two_spellings_is_enough(root: Path, spelling: str) -> None:
    assert target_mismatch(catalog.find_target("x86-vnni"), here(root, "x86_64", ZEN3[:-1] + f" {spelling}\n")) is None


def test_another_architecture_never_target_mismatch(root: Path) -> None:
    reason = target_mismatch(catalog.find_target("raspberry-pi-5"), here(root, "x86_64", ZEN3))
    assert reason == "Raspberry Pi 5 is aarch64, and this machine is x86_64."


def test_an_arm_machine_with_the_same_features_is_not_yet_a_board(root: Path) -> None:
    target = catalog.find_target("raspberry-pi-5")
    assert "was not at hand" in (target_mismatch(target, here(root, "aarch64", PI)) or "")
    assert target_mismatch(target, here(root, "aarch64", PI, "Raspberry Pi 5 Model B Rev 1.0")) is None


# -- who judges, and whether times count ----------------------------------------------------------


class Absent(OnnxRuntime):
    """A runtime that is not installed."""

    def version(self) -> str:
        raise Unavailable("it is not installed", hint="install it")


class Elsewhere(OnnxRuntime):
    """A GPU's runtime, installed on a machine without that GPU."""

    name = "tensorrt"


def judged(target: str, found: Machine, backend: Any = OnnxRuntime) -> Judgement:
    return judgement(catalog.find_target(target), backend(), found)


def test_on_the_target_its_kernels_judge_and_times_count(root: Path) -> None:
    found = judged("x86-vnni", here(root, "x86_64", ZEN3[:-1] + " avx512_vnni\n"))
    assert (found.exact, found.reason, found.times_count, found.runs) == (False, None, True, True)
    assert found.words == "onnxruntime kernels"


def test_a_cpu_whose_sums_saturate_does_not_judge_for_one_whose_do_not(root: Path) -> None:
    """The runtime runs on it, but neither its accuracy nor its times are the target's."""
    found = judged("x86-vnni", here(root, "x86_64", ZEN3))
    assert (found.exact, found.times_count, found.runs) == (True, False, True)
    assert found.words == "float, on ONNX Runtime"
    assert found.reason is not None
    assert "avx512_vnni or avx_vnni" in found.reason


def test_a_machine_with_the_targets_kernels_judges_though_its_times_do_not_count(root: Path) -> None:
    found = judged("raspberry-pi-5", here(root, "aarch64", PI))
    assert (found.exact, found.times_count, found.runs) == (False, False, True)
    assert found.reason is not None
    assert "was not at hand" in found.reason


def test_a_runtime_that_is_not_installed_judges_nothing(root: Path) -> None:
    found = judged("host", here(root, "x86_64", ZEN3), Absent)
    assert (found.exact, found.times_count, found.runs) == (True, False, False)
    assert (found.reason, found.backend.name) == ("it is not installed here", "onnxruntime")


@pytest.mark.parametrize("target", ["jetson-orin", "rtx-4090"])
def test_a_gpus_runtime_runs_where_that_gpu_is(root: Path, target: str) -> None:
    found = judged(target, here(root, catalog.find_target(target).arch, PI), Elsewhere)
    assert (found.exact, found.times_count, found.runs) == (True, False, False)
    assert found.backend.name == "onnxruntime"


def test_the_board_of_a_gpu_is_told_by_its_name(root: Path) -> None:
    board = here(root, "aarch64", PI, "NVIDIA Jetson AGX Orin Developer Kit")
    found = judged("jetson-orin", board, Elsewhere)
    assert (found.exact, found.times_count, found.runs) == (False, True, True)
    assert found.backend.name == "tensorrt"


def test_a_manifests_target_may_be_one_that_is_not_at_hand() -> None:
    assert known_target("host") == catalog.find_target("host")
    assert known_target("a-board-of-mine") is None
    assert known_target("") is None
