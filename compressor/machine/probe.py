"""Facts of a device and its state, read from /proc, /sys and the vendors' own small tools.

Boards carry old Pythons, and this file is run on them as it stands: nothing newer than Python 3.6, and nothing but
the standard library.
"""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional

__all__ = ["changed", "facts", "state", "throttled"]

_VALID = ("power_mode", "governors", "limits_mhz", "gpu_limits_mhz", "driver", "runtime")
"""Keys of a state that must not change while latencies are taken; heat and load are only recorded."""

_CPUS = {"x86": ("x86_64", "i686", "i386"), "aarch64": ("aarch64", "armv8l", "armv7l")}
"""The kernel's name of a CPU, and the names that programs which run on it have for their architecture."""
_SMI = "driver_version,pstate,clocks.sm,temperature.gpu,clocks_throttle_reasons.active"


def facts(root: Path = Path("/")) -> Dict[str, Any]:
    """Read what decides a latency and does not change by itself, and what identifies this one machine."""
    first = _first_core(_text(root / "proc/cpuinfo"))
    board = _text(root / "proc/device-tree/model")
    return {
        "arch": platform.machine(),
        "board": board or None,
        "cpu": first.get("model name") or board or "unknown",
        "features": sorted(set((first.get("flags") or first.get("Features") or "").split())),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "gpu": _gpu(root),
        "jetson": _text(root / "etc/nv_tegra_release").partition("\n")[0] or None,
        "identity": _text(root / "proc/device-tree/serial-number") or _text(root / "etc/machine-id") or None,
    }


def state(root: Path = Path("/")) -> Dict[str, Any]:
    """Read what changes: power mode, clocks and their limits, temperatures, throttling, load, driver.

    ``emulated_on`` is the real CPU where this one is emulated: no latency means anything there.
    Clocks are in MHz, temperatures in degrees Celsius; None or empty where the machine does not say.
    """
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    if not policies:
        policies = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    gpus = [
        path
        for path in sorted((root / "sys/class/devfreq").glob("*"))
        if path.name.endswith((".gpu", ".ga10b", ".gv11b", ".gp10b", ".gm20b")) or "gpu-gpc" in path.name
    ]
    smi = _output_of("nvidia-smi", "--query-gpu=" + _SMI, "--format=csv,noheader,nounits")
    return {
        "emulated_on": _emulated_on(root),
        "power_mode": _power_mode(),
        "governors": sorted({_text(path / "scaling_governor") for path in policies} - {""}),
        "limits_mhz": [_mhz(path / "scaling_min_freq", path / "scaling_max_freq") for path in policies],
        "clocks_mhz": [_mhz(path / "scaling_cur_freq") for path in policies],
        "gpu_limits_mhz": [_mhz(path / "min_freq", path / "max_freq", per=10**6) for path in gpus],
        "gpu_clocks_mhz": [_mhz(path / "cur_freq", per=10**6) for path in gpus],
        "temperatures": _temperatures(root),
        "throttle_events": _throttle_events(root),
        "throttled_now": (_output_of("vcgencmd", "get_throttled") or "").partition("=")[2] or None,
        "load": list(os.getloadavg()),
        "driver": (smi or "").partition(",")[0].strip() or _text(root / "proc/driver/nvidia/version") or None,
        "nvidia_smi": dict(zip(_SMI.split(","), [each.strip() for each in smi.split(",")])) if smi else None,
    }


def changed(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    """Return in words what makes the times between two states invalid: keys that changed, and emulation."""
    emulated = [f"the CPU is emulated on {after['emulated_on']}"] if after.get("emulated_on") else []
    return emulated + [
        f"{name.replace('_', ' ')} was {before.get(name)}, then {after.get(name)}"
        for name in _VALID
        if before.get(name) != after.get(name)
    ]


def throttled(before: Dict[str, Any], after: Dict[str, Any]) -> bool:
    """Whether the device slowed itself down in between, for heat or for want of current."""
    bits = int(after.get("throttled_now") or "0", 0) & 0xF  # the Raspberry Pi's bits of this very moment
    return bool(bits) or after.get("throttle_events", 0) > before.get("throttle_events", 0)


def _emulated_on(root: Path) -> Optional[str]:
    """Emulators of programs alone, such as QEMU's user mode, show them the files of the real machine."""
    kind = _text(root / "sys/devices/system/cpu/modalias").replace(",", ":").split(":")[2:3]
    return next((each for each in kind if platform.machine() not in _CPUS.get(each, (platform.machine(),))), None)


def _power_mode() -> Optional[str]:
    """Jetson's power mode by its name: ``NV Power Mode: MAXN``, and its number a line below."""
    for line in (_output_of("nvpmodel", "-q") or "").splitlines():
        if "Power Mode:" in line:
            return line.partition("Power Mode:")[2].strip()
    return None


def _gpu(root: Path) -> Optional[str]:
    """The first NVIDIA GPU, as its driver calls it."""
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _text(path).splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def _temperatures(root: Path) -> Dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = _text(zone / "temp")
        if text.lstrip("-").isdigit():
            found[f"{zone.name[len('thermal_zone') :]} {_text(zone / 'type')}"] = int(text) / 1000
    return found


def _throttle_events(root: Path) -> int:
    """Count how often the device has throttled since it was started: x86's counters, Jetson's over-current ones."""
    counters = [
        *(root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"),
        *(root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"),
    ]
    return sum(int(text) for text in map(_text, counters) if text.isdigit())


def _mhz(*paths: Path, per: int = 1000) -> List[int]:
    return [int(text) // per for text in map(_text, paths) if text.isdigit()]


def _output_of(*command: str) -> Optional[str]:
    """Return what a small tool prints; None where there is no such tool, or it prints nothing."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.decode("utf-8", "replace").strip()
    return text if done.returncode == 0 and text else None


def _text(path: Path) -> str:
    """A small file of /proc or /sys, without its newline or NUL; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _first_core(text: str) -> Dict[str, str]:
    found = {}  # type: Dict[str, str]
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
