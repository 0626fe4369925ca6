"""Build this bundle's engine on the device that will run it: TensorRT and the standard library are all it takes.

    python3 build_engine.py               build, check against the golden outputs, keep it under engines/
    python3 build_engine.py --workspace N TensorRT may use N megabytes while it tries kernels
    python3 build_engine.py --keep-slower keep the INT8 engine though the float engine is faster here
    python3 build_engine.py --check       tell what is here and whether a build would start, and build nothing

Exit codes: 0 built · 2 the bundle is damaged or the arguments are wrong · 3 INT8 is slower than float here
· 5 TensorRT, the GPU or memory is missing · 6 the engine is not what was asked for.
"""

# Boards carry old Pythons: nothing newer than Python 3.6 in this file.

import hashlib
import importlib
import json
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

__all__ = ["Failed", "board", "build_plan", "fingerprint", "main"]

_MEGABYTE = 1 << 20
_CONTEXT = 768 * _MEGABYTE
"""What CUDA, cuDNN and TensorRT's own libraries take on a Jetson before the first kernel."""
_COPIES = 4
"""Of the weights, as a build holds them: the file, the parsed network, and kernels being tried."""
_WORKSPACE = 1024 * _MEGABYTE
_MOST = 8
"""The largest batch that an engine takes; it is tuned for one sample."""
_SIDES = (16, 256, 1024)
"""Least, usual and largest height and width where the graph leaves them open."""
_BLOCKS, _RUNS = 11, 20


class Failed(Exception):
    """What went wrong, the exit code, and what to do about it."""

    def __init__(self, code: int, what: str, hint: str) -> None:
        Exception.__init__(self, what)
        self.code, self.hint = code, hint


# -- the device -----------------------------------------------------------------------------------


def board(root: Path = Path("/")) -> str:
    """What the board, or else the GPU, calls itself; empty where there is neither."""
    name = _text(root / "proc/device-tree/model")
    if name:
        return name
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _text(path).splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""


def fingerprint(version: str, root: Path = Path("/")) -> Tuple[str, Dict[str, str]]:
    """A key for engines of this device, and what it is made of: a plan belongs to just this."""
    facts = {
        "device": board(root),
        "system": _text(root / "etc/nv_tegra_release") or _text(root / "proc/driver/nvidia/version"),
        "machine": platform.machine(),
        "tensorrt": version,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16], facts


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _available(root: Path = Path("/")) -> int:
    """Bytes of memory that a new process can have; on a Jetson the GPU's are the same."""
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _preflight(size: int, workspace: int, root: Path = Path("/")) -> None:
    """Refuse a build that would end in the kernel's out-of-memory killer."""
    needed, there = _CONTEXT + _COPIES * size + workspace, _available(root)
    if there and there < needed:
        raise Failed(
            5,
            f"a build needs about {needed // _MEGABYTE} MB of memory, {there // _MEGABYTE} MB are free",
            "close the desktop (sudo systemctl isolate multi-user.target), add swap, "
            f"or give TensorRT less: --workspace {max(64, workspace // 4 // _MEGABYTE)}",
        )


# -- building -------------------------------------------------------------------------------------


def build_plan(
    trt: Any, content: bytes, cache: bytes, workspace: int, configure: Optional[Any] = None
) -> Tuple[bytes, bytes]:
    """An ONNX file's content as a serialised engine, and the timing cache that it leaves.

    TensorRT 11 and later are strongly typed: the graph says every precision. Older ones want flags for those that
    stand in it. ``configure`` is called with the builder's configuration before it is used. Raises Failed.
    """
    major = int(trt.__version__.split(".")[0])
    said: List[str] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                said.append(message)

    listener = Listener()
    builder = trt.Builder(listener)
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(kinds.STRONGLY_TYPED if major >= 11 else kinds.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, listener)
    if not parser.parse(content):
        errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise Failed(6, "TensorRT cannot read the graph: {}".format("; ".join(errors or said)), "compress it anew")
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    else:
        config.max_workspace_size = workspace  # TensorRT 8.2
    if major < 11:
        config.set_flag(trt.BuilderFlag.FP16)
        if b"QuantizeLinear" in content:
            config.set_flag(trt.BuilderFlag.INT8)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_timing_cache(config.create_timing_cache(cache), False)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        spans = [_span(axis, size) for axis, size in enumerate(tensor.shape)]
        profile.set_shape(tensor.name, *[tuple(span[i] for span in spans) for i in range(3)])
    config.add_optimization_profile(profile)
    if configure is not None:
        configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        what = said[-1] if said else "TensorRT does not say why"
        raise Failed(6, f"no engine could be built: {what}", "try --workspace with another number")
    kept = config.get_timing_cache()
    return bytes(plan), bytes(kept.serialize()) if kept is not None else b""


def _span(axis: int, size: int) -> Tuple[int, int, int]:
    """Least, usual and largest extent of an input's axis."""
    if size >= 0:
        return size, size, size
    return (1, 1, _MOST) if axis == 0 else _SIDES


# -- what came of it --------------------------------------------------------------------------------


def _layers(trt: Any, plan: bytes) -> List[Any]:
    """What the engine says of its layers, one by one."""
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise Failed(5, "the engine was built and cannot be loaded here", "look at the GPU's driver: nvidia-smi, dmesg")
    if not hasattr(engine, "create_engine_inspector"):
        return []  # TensorRT 8.0
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers: List[Any] = json.loads(told).get("Layers", [])
    return layers


def realised(layers: List[Any], asked: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """For each node that was asked for in a precision, the one of the engine's layer that holds it."""
    found = []
    for node in asked:
        precision = None
        for layer in layers:
            if not isinstance(layer, dict):
                continue
            names = "{} {}".format(layer.get("Name", ""), layer.get("Metadata", ""))
            if node["node"] not in names.replace("[", " ").replace("]", " ").replace("+", " ").split():
                continue
            formats = " ".join(str(each.get("Format/Datatype", "")) for each in layer.get("Inputs", []))
            low = formats.lower()
            precision = "int8" if "int8" in low else "fp16" if "half" in low or "fp16" in low else "fp32"
        found.append(dict(node, realised=precision))
    return found


def share(nodes: List[Dict[str, Any]], key: str) -> Optional[float]:
    """Of all multiplications, the share that is in INT8; None where no layer was found again."""
    known = [node for node in nodes if node[key] is not None]
    total = sum(node["macs"] for node in known)
    return sum(node["macs"] for node in known if node[key] == "int8") / float(total) if total else None


def _write(path: Path, content: bytes) -> str:
    """Whole or not at all. Returns its SHA-256."""
    fresh = path.with_name("." + path.name + ".partial")
    fresh.write_bytes(content)
    fresh.replace(path)
    return hashlib.sha256(content).hexdigest()


def _checked(folder: Path, name: str, manifest: Dict[str, Any]) -> bytes:
    try:
        content = (folder / name).read_bytes()
        expected = manifest["files"][name]["sha256"]
    except (OSError, KeyError) as error:
        raise Failed(2, f"the bundle has no {name}: {error}", "copy the bundle whole") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise Failed(2, f"{name} was changed: its SHA-256 is not the manifest's", "copy the bundle anew")
    return content


def _compared(folder: Path, session: Any, manifest: Dict[str, Any]) -> float:
    """How far the engine is from the golden outputs. Raises Failed where that is too far."""
    import numpy as np

    with np.load(str(folder / "golden.npz"), allow_pickle=False) as golden:
        batch, wanted = golden["input"], golden["output"]
    got = np.concatenate([session(batch[i : i + 1]) for i in range(len(batch))])
    worst, allowed = float(np.max(np.abs(got - wanted))), float(manifest["golden"]["tolerance"])
    if not worst <= allowed:
        raise Failed(
            6,
            f"the engine's outputs differ from the golden ones by {worst:.3g}, more than {allowed:.3g}",
            "keep this output and the engine's build.json, and compress it anew",
        )
    return worst


def _faster(sessions: Dict[str, Any], shape: List[int]) -> Dict[str, float]:
    """Median milliseconds of each engine at batch 1, taken in turns so that heat touches all alike."""
    import numpy as np

    batch = np.zeros(shape, np.float32)
    taken: Dict[str, List[float]] = {name: [] for name in sessions}
    order = list(sessions)
    for block in range(-1, _BLOCKS):
        random.shuffle(order)
        for name in order:
            for _ in range(_RUNS):
                begun = time.time()
                sessions[name](batch)
                if block >= 0:
                    taken[name].append((time.time() - begun) * 1e3)
    return {name: sorted(samples)[len(samples) // 2] for name, samples in taken.items()}


# -- all of it --------------------------------------------------------------------------------------


def _build(folder: Path, options: Dict[str, Any]) -> int:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    engine = manifest["engine"]
    content = _checked(folder, "model.onnx", manifest)
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise Failed(5, f"TensorRT cannot be imported: {error}", "sudo apt install python3-libnvinfer") from error
    wanted, here = engine["runtime_version"], trt.__version__
    older = here.split(".")[0] != wanted.split(".")[0]
    if older:
        raise Failed(
            5,
            f"this bundle is for TensorRT {wanted}, and here is {here}",
            'compress it with a copy of its target that says runtime_version = "{}"'.format(
                ".".join(here.split(".")[:2])
            ),
        )
    key, facts = fingerprint(here)
    place = folder / "engines" / key
    print("{device}: TensorRT {tensorrt}, engines/{key}".format(key=key, **facts))
    _preflight(len(content), options["workspace"])
    if options["check"]:
        print("a build would start")
        return 0
    place.mkdir(parents=True, exist_ok=True)
    told: Dict[str, Any] = {"fingerprint": facts, "model_sha256": hashlib.sha256(content).hexdigest()}
    plan = _one(trt, content, place, "model", options, told)
    session = importlib.import_module("session").Session(place / "model.plan")
    told["golden_max_abs"] = _compared(folder, session, manifest)
    nodes = realised(_layers(trt, plan), engine.get("layers", []))
    told["layers"], told["int8_share"] = nodes, share(nodes, "realised")
    problem: Optional[Failed] = None
    if told["int8_share"] is not None and told["int8_share"] < engine.get("int8_share_wanted", 0.0):
        problem = Failed(
            6,
            "only {:.0%} of the multiplications run in INT8".format(told["int8_share"]),
            "see the layers in {}".format(place / "build.json"),
        )
    if "float.onnx" in manifest["files"] and problem is None:
        _one(trt, _checked(folder, "float.onnx", manifest), place, "float", options, told)
        other = importlib.import_module("session").Session(place / "float.plan")
        shape = [1] + [size if isinstance(size, int) else _SIDES[1] for size in manifest["input"]["shape"][1:]]
        told["milliseconds"] = _faster({"int8": session, "float": other}, shape)
        if told["milliseconds"]["int8"] > told["milliseconds"]["float"] and not options["keep_slower"]:
            problem = Failed(
                3,
                "INT8 takes {int8:.3f} ms here and the float engine {float:.3f} ms".format(**told["milliseconds"]),
                "compress with --profile float, or keep this one for its size: --keep-slower",
            )
    if problem is not None:
        (place / "model.plan").rename(place / "model.refused.plan")
    _write(place / "build.json", json.dumps(told, indent=2).encode())
    if problem is not None:
        raise problem
    print("built in {seconds[model]:.0f} s: engines/{key}/model.plan".format(key=key, **told))
    return 0


def _one(trt: Any, content: bytes, place: Path, name: str, options: Dict[str, Any], told: Dict[str, Any]) -> bytes:
    """Build one engine into ``place``, with what an earlier build timed; note its hash and how long it took."""
    cache = place / "timing.cache"
    begun = time.time()
    plan, timed = build_plan(trt, content, cache.read_bytes() if cache.is_file() else b"", options["workspace"])
    told.setdefault("seconds", {})[name] = time.time() - begun
    told.setdefault("plans", {})[name + ".plan"] = _write(place / (name + ".plan"), plan)
    _write(cache, timed)
    return plan


def main(arguments: List[str]) -> int:
    options: Dict[str, Any] = {"workspace": _WORKSPACE, "keep_slower": False, "check": False}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--workspace" and rest and rest[0].isdigit() and int(rest[0]) > 0:
            options["workspace"] = int(rest.pop(0)) * _MEGABYTE
        elif word in ("--keep-slower", "--check"):
            options[word[2:].replace("-", "_")] = True
        else:
            sys.stderr.write(f"{__doc__}\n")
            return 0 if word in ("-h", "--help") else 2
    folder = Path(__file__).resolve().parent
    sys.dont_write_bytecode = True  # the bundle's files are all listed, and there are no others
    try:
        return _build(folder, options)
    except Failed as failed:
        sys.stderr.write(f"error: {failed}\n  hint: {failed.hint}\n")
        return failed.code
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        sys.stderr.write(
            f"error: {type(error).__name__}: {error}\n  hint: copy the bundle whole, and look at the device\n"
        )
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
