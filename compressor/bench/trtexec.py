"""TensorRT's own timing tool: its command lines, and reading what it prints, from TensorRT 8.6 to 11."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.core import Unavailable, VerificationFailed

__all__ = ["PATHS", "Summary", "build_command", "read", "read_times", "time_command", "version"]

PATHS = ("trtexec", "/usr/src/tensorrt/bin/trtexec")
"""Names under which trtexec is looked for: on the path, then where JetPack has it."""

_VERSION = re.compile(r"\[TensorRT v([\d.]+)\]")
_GPU = re.compile(r"GPU Compute Time: (.+)")
_FIGURE = re.compile(r"(min|max|mean|median|percentile\((\d+)%\))\s*=\s*([\d.eE+-]+)\s*ms")


@dataclass(frozen=True, slots=True)
class Summary:
    """What one call of trtexec found, in milliseconds of GPU compute time."""

    version: tuple[int, int, int]
    median: float
    smallest: float
    largest: float
    percentiles: dict[int, float]


def version(text: str) -> tuple[int, int, int]:
    """Read TensorRT's version from the line that every call of trtexec begins and ends with.

    ``[TensorRT v8602]`` is 8.6.2, ``v100300`` 10.3.0, ``v110201`` 11.2.1: a digit for the minor and two for the patch
    up to 9, two and two from 10 on. Some builds print it with dots. Raises Unavailable where there is none.
    """
    if (match := _VERSION.search(text)) is None:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        raise Unavailable(f"trtexec does not say its version, but: {last}", hint="install TensorRT on the board anew")
    text = match[1]
    if "." in text:
        major, minor, patch = (int(part) for part in [*text.split("."), "0", "0"][:3])
        return major, minor, patch
    number = int(text)
    if number >= 100000:
        return number // 10000, number // 100 % 100, number % 100
    return number // 1000, number // 100 % 10, number % 100


def read(text: str, code: int | None) -> Summary:
    """Read a finished call. Raises VerificationFailed with trtexec's own words where it failed."""
    lines = text.splitlines()
    if code != 0 or not any(line.startswith("&&&& PASSED") for line in lines):
        wrong = [line.partition("[E]")[2].strip() for line in lines if "[E]" in line] or lines[-1:] or ["nothing"]
        raise VerificationFailed(
            f"trtexec failed on the board (code {code}): {wrong[0]}", hint="the graph is not for its TensorRT"
        )
    # Warm-up averages and DLA's figures stand before it: the summary is the last of them.
    found = [match[1] for line in lines if (match := _GPU.search(line)) and "Total" not in line]
    figures = {name: float(value) for name, _, value in _FIGURE.findall(found[-1])} if found else {}
    if not {"min", "max", "median"} <= figures.keys():
        raise VerificationFailed(
            "trtexec printed no GPU compute time", hint="this version of it prints another summary: report it"
        )
    percentiles = {int(p): float(v) for _, p, v in _FIGURE.findall(found[-1]) if p}
    return Summary(version(text), figures["median"], figures["min"], figures["max"], percentiles)


def read_times(text: str) -> tuple[float, ...]:
    """Read every inference's GPU compute time from the file of ``--exportTimes``; empty where it is not such a file."""
    try:
        return tuple(float(entry["computeMs"]) for entry in json.loads(text))
    except (ValueError, KeyError, TypeError):
        return ()


def build_command(
    tool: str, found: tuple[int, int, int], model: str, engine: str, shapes: str, precision: str | None
) -> Sequence[str]:
    """Return the command that builds an engine.

    ``shapes`` is such as ``name:1x3x224x224,other:1x77``, and empty where all inputs are fixed.
    Before TensorRT 11 flags allow a precision; from 11 on the graph's own types decide.
    """
    flags = {"int8": ["--int8", "--fp16"], "fp16": ["--fp16"]}.get(precision or "", []) if found[0] < 11 else []
    without = "--skipInference" if found >= (8, 6, 0) else "--buildOnly"
    profile = [f"--{which}Shapes={shapes}" for which in ("min", "opt", "max")] if shapes else []
    return [tool, f"--onnx={model}", f"--saveEngine={engine}", without, *profile, *flags]


def time_command(tool: str, engine: str, shapes: str, inferences: int, times: str) -> Sequence[str]:
    """Return the command of one turn. TensorRT 11 changed its defaults, so all that matters is given."""
    return [
        tool,
        f"--loadEngine={engine}",
        *([f"--shapes={shapes}"] if shapes else []),
        "--warmUp=200",
        "--duration=0",
        f"--iterations={inferences}",
        "--avgRuns=1",
        "--noDataTransfers",
        "--useCudaGraph",
        "--useSpinWait",
        f"--exportTimes={times}",
    ]
