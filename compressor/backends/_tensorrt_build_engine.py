"""Build this bundle's engine on the device that will run it: TensorRT and the standard library are all it takes.

    python3 build_engine.py               build, check against the golden outputs, keep it under engines/
    python3 build_engine.py --workspace N TensorRT may use N megabytes while it tries kernels
    python3 build_engine.py --keep-slower keep the INT8 engine though the float engine is faster here
    python3 build_engine.py --check       show what is here and whether a build would start, and build nothing

Exit codes: 0 built · 2 the bundle is damaged or the arguments are wrong · 3 INT8 is slower than float here
· 5 TensorRT, the GPU or memory is missing · 6 the engine is not what was asked for.
"""

# Boards carry old Pythons: nothing newer than Python 3.6 in this file.

import functools
import hashlib
import importlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

__all__ = ["Failed", "Span", "board", "build_plan", "fingerprint", "main", "shape_spans"]

_MEGABYTE = 1 << 20
_CONTEXT = 768 * _MEGABYTE
"""Memory that CUDA, cuDNN and TensorRT's own libraries take on a Jetson before the first kernel."""
_COPIES = 4
"""Copies of the weights that a build holds: the file, the parsed network, and kernels that are tried."""
_WORKSPACE = 1024 * _MEGABYTE
_BATCH = (1, 1, 8)
"""Least, usual and largest batch where no range is given for it."""
_SIDES = (16, 256, 1024)
"""Least, usual and largest height and width where no range is given for them."""
_BLOCKS, _RUNS = 11, 20
"""Blocks of timed runs of each engine, and runs in a block."""

Span = Tuple[int, int, int]
"""Least, usual and largest size of an axis: what an engine takes, and what it is tuned for."""


class Failed(Exception):
    """An error with its exit code and a hint on what to do."""

    def __init__(self, code: int, what: str, hint: str) -> None:
        Exception.__init__(self, what)
        self.code, self.hint = code, hint


# -- the device -----------------------------------------------------------------------------------


def board(root: Path = Path("/")) -> str:
    """The name that the board, or else the GPU, gives itself; empty where there is neither."""
    name = _text(root / "proc/device-tree/model")
    if name:
        return name
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _text(path).splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""


def fingerprint(version: str, root: Path = Path("/")) -> Tuple[str, Dict[str, str]]:
    """A key for the engines of this device, and the facts that it is made of: a plan runs only where all are equal."""
    facts = {
        "device": board(root),
        "system": _text(root / "etc/nv_tegra_release") or _text(root / "proc/driver/nvidia/version"),
        "machine": platform.machine(),
        "tensorrt": version,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16], facts


def _text(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _available(root: Path = Path("/")) -> int:
    """Bytes of memory that a new process can have; a Jetson's GPU shares it. 0 where that is unknown."""
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _preflight(size: int, workspace: int, root: Path = Path("/")) -> None:
    """Refuse a build that would end in the kernel's out-of-memory killer."""
    needed, free = _CONTEXT + _COPIES * size + workspace, _available(root)
    if free and free < needed:
        raise Failed(
            5,
            f"a build needs about {needed // _MEGABYTE} MB of memory, {free // _MEGABYTE} MB are free",
            "close the desktop (sudo systemctl isolate multi-user.target), add swap, "
            f"or give TensorRT less: --workspace {max(64, workspace // 4 // _MEGABYTE)}",
        )


# -- building -------------------------------------------------------------------------------------


def shape_spans(
    inputs: List[Dict[str, Any]], sizes: Dict[str, int], ranges: Dict[str, List[int]]
) -> Dict[str, List[Span]]:
    """The span of every axis of each input, by the input's name: what the optimisation profile is made of.

    ``inputs`` are a manifest's: each has a ``name`` and a ``shape`` of sizes and names of free axes. A free axis spans
    its range, where ``ranges`` has one. Else a batch is 1 to 8, height and width of an image are 16 to 1024 at least,
    and any other axis keeps the usual size that ``sizes`` has for it.
    """
    return {
        entry["name"]: [_span(axis, i, len(entry["shape"]), sizes, ranges) for i, axis in enumerate(entry["shape"])]
        for entry in inputs
    }


def _span(axis: Any, index: int, rank: int, sizes: Dict[str, int], ranges: Dict[str, List[int]]) -> Span:
    if not isinstance(axis, str):
        return axis, axis, axis
    if axis in ranges:
        least, most = ranges[axis]
        return least, min(max(sizes.get(axis, least), least), most), most
    if index == 0:
        return _BATCH
    least, usual, most = _SIDES
    usual = sizes.get(axis, usual)
    return (min(least, usual), usual, max(most, usual)) if rank == 4 or axis not in sizes else (usual, usual, usual)


def build_plan(
    trt: Any, content: bytes, spans: Dict[str, List[Span]], cache: bytes, workspace: int, configure: Any = None
) -> Tuple[bytes, bytes]:
    """Build the engine of an ONNX file's content; return it serialised, and the timing cache that TensorRT leaves.

    TensorRT 11 and later are strongly typed: the graph has every precision. Older versions need a flag for each
    precision in it. ``spans`` are those of `shape_spans`, ``cache`` is an earlier build's timing cache, ``workspace``
    is in bytes. ``configure`` is called with the builder's configuration before it is used. Raises Failed.
    """
    major = int(trt.__version__.split(".")[0])
    messages: List[str] = []

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                messages.append(message)

    listener = Listener()
    builder = trt.Builder(listener)
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(kinds.STRONGLY_TYPED if major >= 11 else kinds.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, listener)
    if not parser.parse(content):
        errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise Failed(6, "TensorRT cannot read the graph: {}".format("; ".join(errors or messages)), "compress it anew")
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
        name = network.get_input(index).name
        profile.set_shape(name, *[tuple(span[i] for span in spans[name]) for i in range(3)])
    config.add_optimization_profile(profile)
    if configure is not None:
        configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        what = messages[-1] if messages else "TensorRT gives no reason"
        raise Failed(6, f"no engine could be built: {what}", "try --workspace with another number")
    kept = config.get_timing_cache()
    return bytes(plan), bytes(kept.serialize()) if kept is not None else b""


# -- checking the engine ----------------------------------------------------------------------------


def _layers(trt: Any, plan: bytes) -> List[Any]:
    """The engine inspector's entries, one a layer."""
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise Failed(5, "the engine was built and cannot be loaded here", "look at the GPU's driver: nvidia-smi, dmesg")
    if not hasattr(engine, "create_engine_inspector"):
        return []  # TensorRT 8.0
    document = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return list(json.loads(document).get("Layers", []))


def realised(layers: List[Any], asked: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Add to each node of ``asked`` the precision of the engine's layer that has it; None where no layer names it."""
    found = []
    for node in asked:
        precision = None
        for layer in layers:
            if not isinstance(layer, dict):
                continue
            names = "{} {}".format(layer.get("Name", ""), layer.get("Metadata", ""))
            if node["node"] not in names.replace("[", " ").replace("]", " ").replace("+", " ").split():
                continue
            formats = " ".join(str(each.get("Format/Datatype", "")) for each in layer.get("Inputs", [])).lower()
            precision = "int8" if "int8" in formats else "fp16" if "half" in formats or "fp16" in formats else "fp32"
        found.append(dict(node, realised=precision))
    return found


def int8_share(nodes: List[Dict[str, Any]]) -> Optional[float]:
    """The share of multiplications that is realised in INT8; None where no node was found in a layer."""
    known = [node for node in nodes if node["realised"] is not None]
    total = sum(node["macs"] for node in known)
    return sum(node["macs"] for node in known if node["realised"] == "int8") / float(total) if total else None


class _Engine:
    """An engine as the bundle's run.py compares it: a free batch is run one sample at a time."""

    def __init__(self, session: Any, manifest: Dict[str, Any]) -> None:
        self.session, self.manifest = session, manifest

    def __call__(self, feeds: Dict[str, Any]) -> Dict[str, Any]:
        import numpy as np

        if not all(entry["shape"] and isinstance(entry["shape"][0], str) for entry in self.manifest["inputs"]):
            return dict(self.session(feeds))
        count = len(next(iter(feeds.values())))
        parts = [self.session({n: array[i : i + 1] for n, array in feeds.items()}) for i in range(count)]
        return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def _check_golden(folder: Path, session: Any, manifest: Dict[str, Any]) -> None:
    """Compare the engine's outputs with golden.npz. Raises Failed where one is beyond its tolerance."""
    import numpy as np

    with np.load(str(folder / "golden.npz"), allow_pickle=False) as golden:
        feeds = {entry["name"]: golden["input:" + entry["name"]] for entry in manifest["inputs"]}
        expected = {entry["name"]: golden["output:" + entry["name"]] for entry in manifest["outputs"]}
    problems = importlib.import_module("run").compare(_Engine(session, manifest), feeds, expected)
    if problems:
        raise Failed(6, "; ".join(problems), "keep this output and the engine's build.json, and compress it anew")


def _milliseconds(sessions: Dict[str, Any], manifest: Dict[str, Any]) -> Dict[str, float]:
    """Median milliseconds of one run of each engine, on zeros of the usual sizes."""
    import numpy as np

    sizes, inputs = manifest["sizes"], manifest["inputs"]
    shapes = {e["name"]: [sizes[a] if isinstance(a, str) else a for a in e["shape"]] for e in inputs}
    feeds = {e["name"]: np.zeros(shapes[e["name"]], e["dtype"]) for e in inputs}
    runs = {name: functools.partial(session, feeds) for name, session in sessions.items()}
    samples = importlib.import_module("run").interleave(runs, _BLOCKS, _RUNS, 0)
    return {name: float(np.median(np.concatenate(blocks))) for name, blocks in samples.items()}


def _write(path: Path, content: bytes) -> str:
    """Write a file whole or not at all. Returns its SHA-256."""
    fresh = path.with_name("." + path.name + ".partial")
    fresh.write_bytes(content)
    fresh.replace(path)
    return hashlib.sha256(content).hexdigest()


def _read_checked(folder: Path, name: str, manifest: Dict[str, Any]) -> bytes:
    """Read a file of the bundle. Raises Failed where it is absent or its SHA-256 is not the manifest's."""
    try:
        content = (folder / name).read_bytes()
        expected = manifest["files"][name]["sha256"]
    except (OSError, KeyError) as error:
        raise Failed(2, f"the bundle has no {name}: {error}", "copy the bundle whole") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise Failed(2, f"{name} was changed: its SHA-256 is not the manifest's", "copy the bundle anew")
    return content


# -- all of it --------------------------------------------------------------------------------------


def _tensorrt(wanted: str) -> Any:
    """TensorRT's module. Raises Failed where it is absent, or its major version is not that of ``wanted``."""
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise Failed(5, f"TensorRT cannot be imported: {error}", "sudo apt install python3-libnvinfer") from error
    if trt.__version__.split(".")[0] != wanted.split(".")[0]:
        raise Failed(
            5,
            f"this bundle is for TensorRT {wanted}, and here is {trt.__version__}",
            'compress it with a copy of its target that has runtime_version = "{}"'.format(
                ".".join(trt.__version__.split(".")[:2])
            ),
        )
    return trt


def _build(folder: Path, options: Dict[str, Any]) -> None:
    """Build the engine of the bundle in ``folder`` and check it. Raises Failed."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    wanted = manifest["engine"]["facts"]
    content = _read_checked(folder, "model.onnx", manifest)
    trt = _tensorrt(wanted["runtime_version"])
    key, facts = fingerprint(trt.__version__)
    place = folder / "engines" / key
    print("{device}: TensorRT {tensorrt}, engines/{key}".format(key=key, **facts))
    _preflight(len(content), options["workspace"])
    if options["check"]:
        print("a build would start")
        return
    place.mkdir(parents=True, exist_ok=True)
    spans = shape_spans(manifest["inputs"], manifest["sizes"], manifest["ranges"])
    report: Dict[str, Any] = {"fingerprint": facts, "model_sha256": hashlib.sha256(content).hexdigest(), "spans": spans}
    plan = _build_into(trt, content, spans, place, "model", options, report)
    session = importlib.import_module("session").Session(place / "model.plan")
    _check_golden(folder, session, manifest)
    report["layers"] = realised(_layers(trt, plan), wanted.get("layers", []))
    report["int8_share"] = int8_share(report["layers"])
    if "float.onnx" in manifest["files"]:
        float_content = _read_checked(folder, "float.onnx", manifest)
        _build_into(trt, float_content, spans, place, "float", options, report)
        other = importlib.import_module("session").Session(place / "float.plan")
        report["milliseconds"] = _milliseconds({"int8": session, "float": other}, manifest)
    problem = _problem(report, wanted.get("int8_share_wanted", 0.0), options["keep_slower"], place)
    if problem is not None:
        (place / "model.plan").rename(place / "model.refused.plan")
    _write(place / "build.json", json.dumps(report, indent=2).encode())
    if problem is not None:
        raise problem
    print("built in {seconds[model]:.0f} s: engines/{key}/model.plan".format(key=key, **report))


def _problem(report: Dict[str, Any], wanted: float, keep_slower: bool, place: Path) -> Optional[Failed]:
    """What keeps the engine from use: less of it in INT8 than ``wanted``, or a float engine that is faster."""
    share, taken = report["int8_share"], report.get("milliseconds")
    if share is not None and share < wanted:
        what = f"only {share:.0%} of the multiplications run in INT8"
        return Failed(6, what, "see the layers in {}".format(place / "build.json"))
    if taken is not None and taken["int8"] > taken["float"] and not keep_slower:
        what = "INT8 takes {int8:.3f} ms here and the float engine {float:.3f} ms".format(**taken)
        return Failed(3, what, "compress with --profile float, or keep this one for its size: --keep-slower")
    return None


def _build_into(
    trt: Any, content: bytes, spans: Any, place: Path, name: str, options: Dict[str, Any], report: Dict[str, Any]
) -> bytes:
    """Build ``NAME.plan`` in ``place`` with the timing cache there; add its SHA-256 and the seconds to ``report``."""
    cache = place / "timing.cache"
    begun = time.time()
    timed = cache.read_bytes() if cache.is_file() else b""
    plan, timed = build_plan(trt, content, spans, timed, options["workspace"])
    report.setdefault("seconds", {})[name] = time.time() - begun
    report.setdefault("plans", {})[name + ".plan"] = _write(place / (name + ".plan"), plan)
    _write(cache, timed)
    return plan


def main(arguments: List[str]) -> int:
    """Run the command line; return its exit code."""
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
    sys.dont_write_bytecode = True  # the manifest lists all files of the bundle, and others are refused
    try:
        _build(folder, options)
        return 0
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
