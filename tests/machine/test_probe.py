"""What boards say of themselves, in the words of their kernels and tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compressor.machine import fingerprint, probe


def lay(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def tool(name: str, prints: str, code: int = 0) -> None:
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\nexit {code}\n")
        (folder / name).chmod(0o755)

    return tool


def jetson(root: Path) -> None:
    lay(root, {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic",
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/device-tree/serial-number": "1421122000001\0",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": 729600,
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": 2201600,
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 1190400,
        "sys/class/devfreq/17000000.gpu/min_freq": 306000000,
        "sys/class/devfreq/17000000.gpu/max_freq": 1300500000,
        "sys/class/devfreq/17000000.gpu/cur_freq": 612000000,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 48343,
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": 45000,
        "sys/class/hwmon/hwmon4/oc1_event_cnt": 2,
        "sys/class/hwmon/hwmon4/oc3_event_cnt": 1,
    })  # fmt: skip


def test_a_jetson(tmp_path: Path, tools: Any) -> None:
    root = tmp_path / "root"
    jetson(root)
    tools("nvpmodel", "NV Power Mode: MODE_30W\n2")
    facts, state = probe.facts(root), probe.state(root)
    assert facts["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts["jetson"].startswith("# R36")
    assert facts["identity"] == "1421122000001"
    assert state["power_mode"] == "MODE_30W"
    assert state["governors"] == ["schedutil"]
    assert state["limits_mhz"] == [[729, 2201]]
    assert (state["gpu_limits_mhz"], state["gpu_clocks_mhz"]) == ([[306, 1300]], [[612]])
    assert state["temperatures"] == {"0 cpu-thermal": 48.343, "1 gpu-thermal": 45.0}
    assert state["throttle_events"] == 3


def test_a_power_mode_that_changes_is_another_device(tmp_path: Path, tools: Any) -> None:
    root = tmp_path / "root"
    jetson(root)
    tools("nvpmodel", "NV Power Mode: MODE_30W\n2")
    facts, before = probe.facts(root), probe.state(root)
    tools("nvpmodel", "NV Power Mode: MAXN\n0")
    lay(root, {"sys/class/thermal/thermal_zone0/temp": 90000, "sys/class/hwmon/hwmon4/oc1_event_cnt": 7})
    after = probe.state(root)
    assert probe.changed(before, after) == ["power mode was MODE_30W, then MAXN"]
    assert probe.throttled(before, after)
    assert fingerprint(facts, before) != fingerprint(facts, after)
    assert fingerprint(facts, before) == fingerprint(facts, {**before, "load": [9, 9, 9], "temperatures": {}})


@pytest.mark.parametrize(
    ("alias", "machine", "emulated"),
    [
        ("cpu:type:x86,ven0002fam001Amod0002:feature:,0000,0001", "x86_64", None),
        ("cpu:type:x86,ven0002fam001Amod0002:feature:,0000,0001", "aarch64", "x86"),
        ("cpu:type:aarch64:feature:,0000,0001,0002", "aarch64", None),
        ("cpu:type:aarch64:feature:,0000,0001,0002", "armv7l", None),
        ("cpu:type:aarch64:feature:,0000,0001,0002", "x86_64", "aarch64"),
        ("cpu:type:riscv64:feature:", "riscv64", None),
        ("", "aarch64", None),
    ],
)
def test_a_latency_on_an_emulated_cpu_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alias: str, machine: str, emulated: str | None
) -> None:
    lay(tmp_path, {"sys/devices/system/cpu/modalias": alias})
    monkeypatch.setattr(probe.platform, "machine", lambda: machine)
    state = probe.state(tmp_path)
    assert state["emulated_on"] == emulated
    assert probe.changed(state, state) == ([f"the CPU is emulated on {emulated}"] if emulated else [])


def test_a_raspberry_pi_that_throttles(tmp_path: Path, tools: Any) -> None:
    tools("vcgencmd", "throttled=0x50005")
    hot = probe.state(tmp_path)
    assert hot["throttled_now"] == "0x50005"
    assert probe.throttled(hot, hot)
    tools("vcgencmd", "throttled=0x50000")  # it was, since it was started, and is not now
    assert not probe.throttled(hot, probe.state(tmp_path))


def test_a_machine_with_a_graphics_card(tmp_path: Path, tools: Any) -> None:
    tools("nvidia-smi", "580.95.05, P0, 1410, 55, 0x0000000000000000")
    state = probe.state(tmp_path)
    assert state["driver"] == "580.95.05"
    assert state["nvidia_smi"]["clocks.sm"] == "1410"


def test_tools_that_fail_and_nothing_to_read(tmp_path: Path, tools: Any) -> None:
    tools("nvpmodel", "NV Power Mode: NONSENSE", code=1)
    state = probe.state(tmp_path)
    assert (state["power_mode"], state["governors"], state["temperatures"], state["driver"]) == (None, [], {}, None)
    assert probe.changed(state, state) == []
    assert not probe.throttled(state, state)
