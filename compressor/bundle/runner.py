"""Run a compressed model: this file, its folder, NumPy and ONNX Runtime are all it takes.

    python run.py --verify             check every file of the bundle, and the model against known outputs
    python run.py --time               time one inference at a time; prints JSON, every sample in milliseconds
    python run.py --unpack             make model.onnx of model.packed, which may be sent in its place
    python run.py FEEDS.npz            run any network on the arrays of FEEDS.npz, named as its inputs; writes
                                       FEEDS-outputs.npz into the working directory and prints names and shapes
    python run.py INPUT.npy            classify 8-bit pixels (H x W x C, or N x H x W x C); prints JSON
    python run.py PHOTO.png            the same from an image file, where Pillow is installed

A bundle for super-resolution enlarges PHOTO.png (or INPUT.npy, H x W x C) of any size to PHOTO-x2.png, in place of
classifying it. Any other network with an image input writes its outputs to PHOTO-outputs.npz.

``--verify`` and ``--time`` take folders of other bundles too; several are timed in turns, in one process, so that
what slows the machine down slows all of them. Settings of --time: --threads=1 --blocks=15 --inferences=20 --seed=0
--seconds=30. In an application: copy the folder, then ``Model("folder")(feeds)`` maps arrays by input name to arrays
by output name; ``.predict(pixels)`` classifies images and ``.enlarge(pixels)`` enlarges one.
"""

# Boards carry old Pythons: nothing newer than Python 3.6 in this file.

import functools
import gc
import hashlib
import importlib
import importlib.util
import json
import lzma
import os
import random
import sys
import zlib
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports its use over the network otherwise


def _without(library: str, error: ImportError) -> int:
    _tell(f"{library} cannot be imported: {error}")
    sys.stderr.write("  hint: python3 -m pip install numpy onnxruntime\n")
    return 5


def _tell(problem: str) -> None:
    """Names may hold escape codes: they are shown, not obeyed."""
    sys.stderr.write("error: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in problem) + "\n")


try:
    import numpy as np
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(_without("NumPy", error))

__all__ = ["MAGIC", "Model", "check", "compare", "cropped", "in_batches", "interleave", "pin", "unpack", "verify"]

MAGIC = b"compressed model 1\n"

_OWN = ("model.onnx", "golden.npz", "run.py")
_LARGEST = (2 << 30) - 1
_LONGEST_MANIFEST = 16 << 20
_BILINEAR, _BICUBIC = 2, 3  # Pillow's, by number: old and new versions name them differently


class Model:
    """A bundle, loaded. ``manifest`` is its manifest.json.

    Manifest and ``model.onnx``'s content are read from ``folder`` unless they are given. Given content is run on ONNX
    Runtime whatever runtime the bundle is for, and with ``exact`` its integers are computed in floats.
    """

    def __init__(
        self,
        folder: Union[str, Path],
        threads: int = 1,
        manifest: Optional[Dict[str, Any]] = None,
        content: Optional[bytes] = None,
        exact: bool = False,
    ) -> None:
        self.manifest = _manifest(Path(folder)) if manifest is None else manifest
        self.outputs = [str(entry["name"]) for entry in self.manifest["outputs"]]
        if content is None and "session.py" in self.manifest.get("files", ()):
            self._run = _other_runtime(Path(folder), self.manifest)  # type: Callable[[Any], Any]
            return
        import onnxruntime

        if content is None:
            _unpacked(Path(folder))
            content = (Path(folder) / self.manifest["engine"]["file"]).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong is raised
        if exact or "session.py" in self.manifest.get("files", ()):  # another runtime's graph is judged in floats
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(
            content,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=False,  # which would print
        )
        self._run = lambda feeds: dict(zip(self.outputs, session.run(self.outputs, feeds)))

    def __call__(self, feeds: Dict[str, Any]) -> Dict[str, Any]:
        """Map arrays by input name to arrays by output name, in the order of the manifest."""
        outputs = self._run(feeds)  # type: Dict[str, Any]
        return outputs

    @property
    def scale(self) -> Optional[int]:
        """How many times as high and wide what a model for super-resolution makes is; None of any other."""
        scale = self.manifest["task"].get("upscale_factor")
        return None if scale is None else int(scale)

    @property
    def classes(self) -> Optional[List[str]]:
        """The names of a classifier's classes, empty where they are not known; None of any other network."""
        classes = self.manifest["task"].get("classes")
        return None if classes is None or self._scores is None else list(classes)

    @property
    def image_size(self) -> Tuple[int, int, int]:
        """Height, width and channels of the image input; a free side has its usual size."""
        shape = _sized(self._image(), self.manifest["sizes"])
        return (shape[1], shape[2], shape[3]) if self._image()["layout"] == "NHWC" else (shape[2], shape[3], shape[1])

    def prepare(self, pixels: Any) -> Dict[str, Any]:
        """Map 8-bit RGB or grey pixels (N x H x W x C, or one H x W x C) to feeds of the image input.

        Raises ValueError for pixels of another type or size, and where the network takes more than an image.
        """
        entry = self._image()
        if len(self.manifest["inputs"]) > 1:
            names = ", ".join(str(each["name"]) for each in self.manifest["inputs"])
            raise ValueError(f"it takes {names}: give a .npz with these arrays")
        pixels = np.asarray(pixels)
        if pixels.ndim == 3:
            pixels = pixels[np.newaxis]
        height, width, channels = self.image_size
        axes = entry["shape"][1:3] if entry["layout"] == "NHWC" else entry["shape"][2:4]
        free = [isinstance(axis, str) for axis in axes]
        expected = [n if is_free else size for is_free, size, n in zip(free, (height, width), pixels.shape[1:3])]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (*expected, channels) or not pixels.size:
            raise ValueError(
                f"expected 8-bit pixels of {height} x {width} x {channels}, got {pixels.dtype} {pixels.shape[1:]}"
            )
        return {entry["name"]: self._scaled(pixels)}

    def enlarge(self, pixels: Any, overlap: int = 32, most: int = 1 << 18) -> Any:
        """Map 8-bit pixels of any size (H x W x C) to the enlarged ones, 8-bit too, sH x sW x C.

        An image of more than ``most`` pixels is taken in parts, as `cropped` does. Raises ValueError for anything
        that is no such image, or a model that is none for super-resolution.
        """
        scale = self.scale
        if scale is None:
            raise ValueError("it is no model for super-resolution")
        entry, channels = self._image(), self.image_size[2]
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels or not pixels.size:
            raise ValueError(f"expected 8-bit pixels of H x W x {channels}, got {pixels.dtype} {pixels.shape}")
        last, order = entry["layout"] == "NHWC", slice(None, None, -1 if entry["channels"] == "bgr" else 1)

        def run(batch: Any) -> Any:
            given = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)) if last else batch
            made = self({entry["name"]: given})[self.outputs[0]]
            return made.transpose(0, 3, 1, 2) if last else made

        image = self._scaled(pixels[np.newaxis])[0]
        image = np.ascontiguousarray(image.transpose(2, 0, 1)) if last else image
        made = cropped(run, image, scale, int(self.manifest["task"].get("divisor", 1)), overlap, most)
        made = np.rint(np.clip(np.where(np.isnan(made), 0.0, made), 0.0, 1.0) * 255.0)
        return np.ascontiguousarray(made.astype(np.uint8).transpose(1, 2, 0)[:, :, order])

    def predict(self, pixels: Any) -> Any:
        """Map 8-bit pixels (N x H x W x C, or one H x W x C) of the input's own size to scores, N x K.

        Raises ValueError for pixels of another type or size.
        """
        if self._scores is None:
            raise ValueError("it is no classifier: enlarge(pixels), or call it with prepare(pixels)")
        return in_batches(self, self.prepare(pixels))[self._scores]

    @property
    def _scores(self) -> Optional[str]:
        """The output with a score for each class: of a task with classes, the first that is N x K."""
        if "classes" not in self.manifest["task"]:
            return None
        return next((str(each["name"]) for each in self.manifest["outputs"] if len(each["shape"]) == 2), None)

    def _image(self) -> Dict[str, Any]:
        """The entry of the image input."""
        entry = self.manifest.get("input")
        if entry is None:
            raise ValueError("it takes no image: give a .npz with an array for each input")
        return dict(entry)

    def _scaled(self, pixels: Any) -> Any:
        """Normalised pixels N x H x W x C, in the order of channels and the layout that the network takes."""
        entry = self._image()
        scaled = pixels.astype(np.float32) * np.float32(entry["range"][1] / 255.0)
        normalised = (scaled - np.asarray(entry["mean"], np.float32)) / np.asarray(entry["std"], np.float32)
        if entry["channels"] == "bgr":
            normalised = normalised[..., ::-1]
        return np.ascontiguousarray(normalised if entry["layout"] == "NHWC" else normalised.transpose(0, 3, 1, 2))


def _sized(entry: Dict[str, Any], sizes: Dict[str, int]) -> List[int]:
    """The shape of an input with its free axes at their usual sizes."""
    return [int(sizes[axis]) if isinstance(axis, str) else int(axis) for axis in entry["shape"]]


def in_batches(model: Model, feeds: Dict[str, Any]) -> Dict[str, Any]:
    """Run samples in batches that the network takes: all at once, or as many at a time as its shapes are fixed to.

    The last of several fixed batches is filled up with its last sample, and what comes of that is cut off. A network
    without a batch axis runs them one at a time; an input whose array has an axis more is indexed by it.
    """
    shapes = {entry["name"]: entry["shape"] for entry in model.manifest["inputs"]}
    first = {shape[0] if shape else None for shape in shapes.values()}
    if len(first) == 1 and isinstance(next(iter(first)), str):
        return model(feeds)
    if _counts_samples(model.manifest):
        return _in_fixed_batches(model, feeds, int(first.pop() or 1))
    indexed = {name: np.ndim(feeds[name]) > len(shape) for name, shape in shapes.items()}
    counts = [
        len(feeds[name]) if indexed[name] else len(feeds[name]) // shape[0]
        for name, shape in shapes.items()
        if indexed[name] or (shape and not isinstance(shape[0], str))
    ]
    count, parts = counts[0] if counts else 1, []
    for i in range(count):
        part = {}
        for name, array in feeds.items():
            rows = len(array) // count if np.ndim(array) else 0
            part[name] = array[i, ...] if indexed[name] else array[i * rows : (i + 1) * rows] if rows else array
        parts.append(model(part))
    whole = {}
    for name, made in parts[0].items():
        new_axis = all(indexed.values()) or (any(indexed.values()) and made.shape[:1] != (1,))
        whole[name] = np.stack([part[name] for part in parts]) if new_axis else _concatenated(parts, name)
    return whole


def _counts_samples(manifest: Dict[str, Any]) -> bool:
    """Whether the first axis of the one input counts samples: it is 1, or each output's a multiple of it, or free."""
    first, *others = [entry["shape"] for entry in manifest["inputs"]]
    if others or not first:
        return False
    made = [entry["shape"][0] if entry["shape"] else None for entry in manifest["outputs"]]
    counted = len(first) > 1 and all(isinstance(n, str) or (n and n % first[0] == 0) for n in made)
    return bool(first[0] == 1 or counted)


def _in_fixed_batches(model: Model, feeds: Dict[str, Any], rows: int) -> Dict[str, Any]:
    """Run the samples of a network with one input, ``rows`` at a time."""
    (name, array), parts = next(iter(feeds.items())), []
    for at in range(0, len(array), rows):
        part = array[at : at + rows]
        made = model({name: np.concatenate([part, np.repeat(part[-1:], rows - len(part), axis=0)])})
        parts.append(
            {n: m[: len(m) // rows * len(part)] if m.ndim and len(m) % rows == 0 else m for n, m in made.items()}
        )
    return {name: _concatenated(parts, name) for name in parts[0]}


def _concatenated(parts: List[Dict[str, Any]], name: str) -> Any:
    return np.concatenate([np.atleast_1d(part[name]) for part in parts])


def cropped(run: Any, image: Any, scale: int, divisor: int = 1, overlap: int = 32, most: int = 1 << 18) -> Any:
    """Enlarge C x H x W of any size by ``run``, which takes N x C x H x W, in parts where it does not go whole.

    IMDN's adaptive cropping (Hui et al. 2019): what has sides that divide by ``divisor``, and at most
    ``most`` pixels, runs whole. Else four corners, half as high and wide and ``overlap`` pixels more, go in one batch
    and give a quadrant each; corners that are too large are quartered in their turn. What is too small for that is
    mirrored at its edges up to sides that divide. Parts of an image know less than the whole:
    benchmarks/tiling.py measures by how much that shows.
    """
    sides = image.shape[1:]
    if sides[0] * sides[1] <= most and not any(side % divisor for side in sides):
        return run(image[np.newaxis])[0]
    sizes = []
    for side in sides:
        size = side // 2 + overlap
        size -= size % divisor
        if size < side - side // 2:
            size += divisor
        sizes.append(min(size, side))
    short = [-side % divisor if size == side else 0 for side, size in zip(sides, sizes)]
    if any(short):  # too small for its sides to be cut to what divides
        wider = np.pad(image, [(0, 0), (0, short[0]), (0, short[1])], "symmetric")
        made = cropped(run, wider, scale, divisor, overlap, most)
        return made[:, : scale * sides[0], : scale * sides[1]]
    if sizes == list(sides):
        return run(image[np.newaxis])[0]
    tops, lefts = ([0] if size == side else [0, side - size] for side, size in zip(sides, sizes))
    corners = [image[:, top : top + sizes[0], left : left + sizes[1]] for top in tops for left in lefts]
    if sizes[0] * sizes[1] <= most:
        parts = run(np.ascontiguousarray(np.stack(corners)))
    else:
        parts = [cropped(run, corner, scale, divisor, overlap, most) for corner in corners]
    out = np.empty((len(parts[0]), scale * sides[0], scale * sides[1]), np.float32)
    for part, (top, left) in zip(parts, [(top, left) for top in tops for left in lefts]):
        # A corner that begins at zero gives up to the middle, the other one from there; one that is alone, all.
        ends = []
        for start, side, begins in ((top, sides[0], tops), (left, sides[1], lefts)):
            first = side // 2 if start else 0
            last = side // 2 if len(begins) > 1 and not start else side
            ends.append((first, last, start))
        (above, below, top), (before, behind, left) = ends
        out[:, scale * above : scale * below, scale * before : scale * behind] = part[
            :, scale * (above - top) : scale * (below - top), scale * (before - left) : scale * (behind - left)
        ]
    return out


def verify(folder: Union[str, Path]) -> List[str]:
    """Check hashes, then the model's outputs against golden.npz. Returns what is wrong, nothing if all is well."""
    folder = Path(folder)
    manifest, problems = check(folder)
    if problems:
        return problems
    try:
        with np.load(str(folder / "golden.npz"), allow_pickle=False) as golden:
            feeds = {entry["name"]: golden["input:" + entry["name"]] for entry in manifest["inputs"]}
            wanted = {entry["name"]: golden["output:" + entry["name"]] for entry in manifest["outputs"]}
        return compare(Model(folder, manifest=manifest), feeds, wanted)
    except Exception as error:  # whatever stops the model from running is the answer
        return [f"the model cannot be run: {error}"]


def check(folder: Path) -> Tuple[Dict[str, Any], List[str]]:
    """The manifest of a bundle, and what is wrong with its files: all are there, unchanged, and there are no others."""
    try:
        manifest = _manifest(folder)
        files, tolerances = dict(manifest["files"]), manifest["golden"]["tolerance"].values()
        hashes = {name: str(files[name]["sha256"]) for name in sorted(files)}
        if not all(0 <= float(tolerance) < float("inf") for tolerance in tolerances):
            raise ValueError(f"its tolerances are {list(tolerances)}")
        found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, [f"manifest.json cannot be read: {error}"]
    problems = [f"the manifest does not list {name}" for name in _OWN if name not in files]
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size > _LARGEST or _sha256(path) != expected:
            problems.append(f"{name} was changed: its SHA-256 is not the manifest's")
    # Python would import a numpy.py that lies here before the real one.
    own = (*files, "manifest.json", *(["engines"] if "build_engine.py" in files else []))
    problems += [f"{name} is not the bundle's: remove it" for name in found if name not in own]
    return manifest, problems


def compare(model: Model, feeds: Dict[str, Any], wanted: Dict[str, Any]) -> List[str]:
    """What is wrong with a model's outputs for ``feeds``: nothing where all are ``wanted``, within their tolerances."""
    found = in_batches(model, feeds)
    if not any(np.size(each) for each in wanted.values()):
        return ["golden.npz holds no outputs"]
    problems = []
    for name, tolerance in model.manifest["golden"]["tolerance"].items():
        got, expected = found[name], wanted[name].astype(np.float64)
        finite = np.isfinite(expected)
        if got.shape != expected.shape or not np.all(np.isfinite(got[finite])):
            problems.append(f"the output {name} has the wrong shape or is not finite")
            continue
        got = got.astype(np.float64)
        if not np.array_equal(got[~finite], expected[~finite]):  # NaN is equal to nothing
            problems.append(f"the output {name} differs from golden.npz where that is not finite")
            continue
        worst = float(np.max(np.abs(got[finite] - expected[finite]))) if finite.any() else 0.0
        if not worst <= float(tolerance):
            problems.append(f"{name} differs from golden.npz by {worst:.3g}, more than {float(tolerance):.3g}")
    return problems


# -- timing -----------------------------------------------------------------------------------

_FEWEST_BLOCKS, _FEWEST_INFERENCES = 5, 4
_SETTINGS = {"threads": 1, "blocks": 15, "inferences": 20, "seed": 0, "seconds": 30}


def interleave(
    runners: Dict[str, Callable[[], Any]],
    blocks: int,
    inferences: int,
    seed: int,
    seconds: float = 30.0,
    warmup: int = 10,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Dict[str, List[List[float]]]:
    """Milliseconds of ``blocks`` x ``inferences`` runs of every runner, blocks interleaved.

    In every block the runners take their turns in random (seeded) order, so that heat, clocks and neighbours touch
    all of them alike; a turn is ``inferences`` runs in a row, so that caches are as warm as in use.

    Where the warm-up says that all of it would take longer than ``seconds``, first the inferences are cut (never
    under 4), then the blocks (never under 5): it is the number of blocks that narrows the interval of a ratio. That
    floor is kept even where it takes longer.
    """
    round_ms = sum(_warm_up(run, warmup, seconds / 10) for run in runners.values())
    rounds = int(seconds * 1e3 / max(round_ms, 1e-6))
    inferences = min(inferences, max(rounds // blocks, _FEWEST_INFERENCES))
    blocks = min(blocks, max(rounds // inferences, _FEWEST_BLOCKS))
    order, names = random.Random(seed), list(runners)  # noqa: S311 - nothing secret hangs on it
    samples = {name: [] for name in names}  # type: Dict[str, List[List[float]]]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a sample would be timed as inference
    try:
        for block in range(blocks):
            tell(block, blocks)
            for name in order.sample(names, len(names)):
                run = runners[name]
                samples[name].append([_milliseconds(run) for _ in range(inferences)])
    finally:
        if collecting:
            gc.enable()
    tell(blocks, blocks)
    return samples


def _milliseconds(run: Callable[[], Any]) -> float:
    start = perf_counter()
    run()
    return round((perf_counter() - start) * 1e3, 6)


def _warm_up(run: Callable[[], Any], times: int, seconds: float) -> float:
    """Run up to ``times``, at least twice, for about ``seconds``; the median in milliseconds."""
    samples = []  # type: List[float]
    while len(samples) < 2 or (len(samples) < times and sum(samples) < seconds * 1e3):
        samples.append(_milliseconds(run))
    return float(np.median(samples[1:]))  # the first run also allocates


def pin(threads: int) -> List[int]:
    """Bind this thread, and those that it starts, to ``threads`` cores: of the fastest kind the least busy.

    Returns the cores; none where the system knows no binding or has too few.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
        before = _busy(allowed)
        sleep(0.1)
        after = _busy(allowed)
        rank = {core: (-_fastest(core), after[core] - before[core], core) for core in allowed}
        chosen = sorted(allowed, key=lambda core: rank[core])[:threads]
        if len(chosen) < threads:
            return []
        os.sched_setaffinity(0, chosen)
        return sorted(chosen)
    except (AttributeError, OSError, ValueError, KeyError):
        return []


def _busy(cores: List[int]) -> Dict[int, int]:
    """Ticks that each core has spent at work."""
    busy = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            ticks = [int(field) for field in rest.split()]
            busy[int(name[3:])] = sum(ticks[:8]) - ticks[3] - ticks[4]  # all but idle and waiting for disks
    return busy


def _fastest(core: int) -> int:
    """The highest clock of a core in kHz; 0 where the kernel does not say."""
    path = Path("/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq" % core)
    return int(path.read_text()) if path.is_file() else 0


def _timed(folders: List[Path], settings: Dict[str, int]) -> Dict[str, Any]:
    """Time the bundles' models; their samples stand in the order of ``folders``."""
    import onnxruntime

    cores = pin(settings["threads"])
    runners = {}  # type: Dict[str, Callable[[], Any]]
    for number, folder in enumerate(folders):
        model = Model(folder, threads=settings["threads"])
        runners[str(number)] = functools.partial(model, _random_feeds(model.manifest, settings["seed"]))
    samples = interleave(
        runners, settings["blocks"], settings["inferences"], settings["seed"], float(settings["seconds"])
    )
    return {
        "samples_ms": [samples[str(number)] for number in range(len(folders))],
        "median_ms": [float(np.median(np.concatenate(samples[str(number)]))) for number in range(len(folders))],
        "threads": settings["threads"],
        "pinned": cores,
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


def _random_feeds(manifest: Dict[str, Any], seed: int) -> Dict[str, Any]:
    """Arrays for one run at the usual sizes: standard normal floats; integers and booleans of 0 or 1."""
    draw, feeds = np.random.RandomState(seed), {}
    for entry in manifest["inputs"]:
        shape, dtype = _sized(entry, manifest["sizes"]), np.dtype(entry["dtype"])
        made = draw.standard_normal(shape) if dtype.kind in "fc" else draw.randint(0, 2, shape)
        feeds[entry["name"]] = np.asarray(made).astype(dtype)
    return feeds


def unpack(content: bytes) -> bytes:
    """The bytes of ``model.onnx`` from those of ``model.packed``. Raises ValueError where they are not that."""
    if not content.startswith(MAGIC):
        raise ValueError("it is no packed model")
    try:
        at = len(MAGIC) + 4
        end = at + int.from_bytes(content[len(MAGIC) : at], "little")
        header = json.loads(zlib.decompressobj().decompress(content[at:end], _LONGEST_MANIFEST).decode("utf-8"))
        at = end + header["rest"]
        rest = lzma.LZMADecompressor().decompress(content[end:at], _LARGEST)
        pieces, done = [], 0
        for code in header["codes"]:
            if code["count"] * code["width"] > 8 * _LARGEST:
                raise ValueError("it claims more than it may hold")
            symbols = _decoded(content[at : at + code["bytes"]], code["lengths"], code["count"])
            pieces += [rest[done : code["at"]], _joined(symbols, code["width"])]
            at, done = at + code["bytes"], code["at"]
        return b"".join([*pieces, rest[done:]])
    except (KeyError, TypeError, ValueError, ArithmeticError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from error


def _decoded(coded: bytes, lengths: List[int], count: int) -> List[int]:
    """Symbols from their canonical Huffman codes, the first bit the highest of the first byte."""
    symbols = {}  # type: Dict[Tuple[int, int], int]
    word = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - before
        symbols[length, word] = symbol
        word, before = word + 1, length
    found = []  # type: List[int]
    word = length = 0
    for byte in coded:
        for shift in range(7, -1, -1):
            word, length = word << 1 | byte >> shift & 1, length + 1
            symbol = symbols.get((length, word), -1)
            if symbol >= 0 and len(found) < count:
                found.append(symbol)
                word = length = 0
    if len(found) < count:
        raise ValueError(f"it ends after {len(found)} of {count} symbols")
    return found


def _joined(symbols: List[int], width: int) -> bytes:
    """Symbols of ``width`` bits as bytes, the first in the lowest bits."""
    each = 8 // width
    groups = (symbols[at : at + each] for at in range(0, len(symbols), each))
    return bytes(sum(symbol << width * i for i, symbol in enumerate(group)) for group in groups)


def _other_runtime(folder: Path, manifest: Dict[str, Any]) -> Callable[[Any], Any]:
    """The model on the runtime that ``session.py`` drives: an engine is native code, and loaded by its hash alone."""
    plan = folder / manifest["engine"]["file"]
    expected = manifest["files"][plan.name]["sha256"]
    if plan.suffix == ".onnx" and "build_engine.py" in manifest["files"]:
        plan, expected = _built(folder, manifest)
    if _sha256(plan) != expected:
        raise RuntimeError(f"{plan.name} was changed: its SHA-256 is not the one it was built with")
    session = _module(folder, "session", manifest).Session(plan)  # type: Callable[[Any], Any]
    return session


def _built(folder: Path, manifest: Dict[str, Any]) -> Tuple[Path, str]:
    """The engine that was built on this very device, and its hash."""
    version = importlib.import_module("tensorrt").__version__
    key, _ = _module(folder, "build_engine", manifest).fingerprint(version)
    engines = folder / "engines" / key
    if not (engines / "model.plan").is_file():
        raise RuntimeError("there is no engine for this device yet: python3 build_engine.py makes it")
    return engines / "model.plan", json.loads((engines / "build.json").read_text())["plans"]["model.plan"]


def _module(folder: Path, name: str, manifest: Dict[str, Any]) -> Any:
    """One of the bundle's own files, as a module."""
    path = folder / f"{name}.py"
    if _sha256(path) != manifest["files"][path.name]["sha256"]:
        raise RuntimeError(f"{path.name} was changed: its SHA-256 is not the manifest's")
    spec = importlib.util.spec_from_file_location(name, str(path))
    assert spec is not None
    assert spec.loader is not None
    sys.dont_write_bytecode = True  # a cache here would not be the bundle's
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unpacked(folder: Path) -> None:
    """Make the model of its packed form, where that alone was sent: whole, or not at all."""
    model, packed = folder / "model.onnx", folder / "model.packed"
    if model.exists() or not packed.is_file() or packed.stat().st_size > _LARGEST:
        return
    content = unpack(packed.read_bytes())
    if hashlib.sha256(content).hexdigest() != _manifest(folder)["files"]["model.onnx"]["sha256"]:
        raise ValueError("model.packed is not the manifest's model")
    fresh = folder / ".model.onnx.partial"
    fresh.write_bytes(content)
    fresh.replace(model)


def _manifest(folder: Path) -> Dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError("there is no such file")
    if path.stat().st_size > _LONGEST_MANIFEST:
        raise ValueError(f"it has {path.stat().st_size:,} bytes")
    manifest = json.loads(path.read_text(encoding="utf-8"))  # type: Dict[str, Any]
    return manifest


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _enlarged(model: Model, path: str) -> None:
    """Enlarge an image file or a .npy; the result lies in the working directory."""
    name = "{}-x{}".format(Path(path).stem, model.scale)
    if path.endswith(".npy"):
        made = model.enlarge(np.load(path, allow_pickle=False))
        np.save(name + ".npy", made)
        print(json.dumps({"image": name + ".npy", "shape": list(made.shape)}))
        return
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("image files need Pillow; without it: a .npy of H x W x C") from error
    channels = model.image_size[2]
    with Image.open(path) as image:
        pixels = np.asarray(_converted(image, "L" if channels == 1 else "RGB"))
    made = model.enlarge(pixels.reshape((*pixels.shape[:2], channels)))
    Image.fromarray(made[:, :, 0] if channels == 1 else made).save(name + ".png")
    print(json.dumps({"image": name + ".png", "shape": list(made.shape)}))


def _classified(model: Model, path: str) -> None:
    """Print the five likeliest classes of each image."""
    scores = model.predict(_pixels(path, model.image_size))
    classes = model.classes or range(scores.shape[1])
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    for row in odds / odds.sum(axis=1, keepdims=True):
        best = np.argsort(-row)[:5]
        print(json.dumps([{"class": classes[i], "probability": round(float(row[i]), 4)} for i in best]))


def _fed(model: Model, path: str) -> None:
    """Run a network on the arrays of a .npz, or on an image; the outputs lie in the working directory."""
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            feeds = {name: arrays[name] for name in arrays.files}
        entries = model.manifest["inputs"]
        if set(feeds) != {entry["name"] for entry in entries}:
            names = ", ".join(str(entry["name"]) for entry in entries)
            raise ValueError("it takes the arrays {}, and has {}".format(names, ", ".join(feeds) or "none"))
        for entry in entries:
            given = feeds[entry["name"]]
            if given.dtype != np.dtype(entry["dtype"]) or given.ndim - len(entry["shape"]) not in (0, 1):
                wanted = "{dtype} {shape}".format(**entry)
                raise ValueError(
                    f"{entry['name']} is {given.dtype} {list(given.shape)}, and the network takes {wanted}"
                )
    else:
        feeds = model.prepare(_pixels(path, model.image_size))
    made = in_batches(model, feeds)
    name = f"{Path(path).stem}-outputs.npz"
    with Path(name).open("wb") as file:
        np.savez(file, **made)
    shapes = {each: {"dtype": str(array.dtype), "shape": list(array.shape)} for each, array in made.items()}
    print(json.dumps({"file": name, "outputs": shapes}))


def _pixels(path: str, size: Tuple[int, int, int]) -> Any:
    """8-bit pixels of a .npy as they are, or of an image file fitted to height, width and channels."""
    height, width, channels = size
    if path.endswith(".npy"):
        return np.load(path, allow_pickle=False)
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(f"image files need Pillow; without it: a .npy of {height} x {width} x {channels}") from error
    with Image.open(path) as image:
        fitted = _fitted(_converted(image, "L" if channels == 1 else "RGB"), height, width)
    return np.asarray(fitted).reshape(height, width, channels)


# As the images were made pixels that the model was judged on (`compressor.data`).


def _converted(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _fitted(image: Any, height: int, width: int) -> Any:
    if image.size == (width, height):
        return image
    if max(height, width) <= 64:
        return image.resize((width, height), _BICUBIC)
    tall, wide = round(height * 256 / 224), round(width * 256 / 224)
    if wide * image.height >= tall * image.width:
        tall = wide * image.height // image.width
    else:
        wide = tall * image.width // image.height
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    return image.resize((wide, tall), _BILINEAR).crop((left, top, left + width, top + height))


def main(arguments: List[str]) -> int:
    here, command, rest = Path(__file__).resolve().parent, arguments[:1], arguments[1:]
    several = command in (["--verify"], ["--time"])
    if (
        not command
        or (rest and not several)
        or (command[0].startswith("-") and not several | (command == ["--unpack"]))
    ):
        sys.stderr.write(f"{__doc__}\n")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    settings = dict(_SETTINGS)
    for text in [text for text in rest if text.startswith("--")]:
        name, _, value = text[2:].partition("=")
        if command != ["--time"] or name not in settings or not value.isdigit() or (name != "seed" and int(value) < 1):
            _tell(f"{text} is no setting of {command[0]}")
            return 2
        settings[name] = int(value)
    folders = [Path(text) for text in rest if not text.startswith("--")] or [here]
    try:
        for folder in folders:
            _unpacked(folder)
    except (OSError, ValueError, KeyError) as error:
        _tell(f"model.packed: {error}")
        return 6
    if command == ["--unpack"]:
        return 0 if (here / "model.onnx").is_file() else 2
    if not all((folder / "session.py").is_file() for folder in folders):
        try:
            import onnxruntime  # noqa: F401 - whether it is there
        except ImportError as error:
            return _without("ONNX Runtime", error)
    if command == ["--verify"]:
        problems = [problem for folder in folders for problem in verify(folder)]
        for problem in problems:
            _tell(problem)
        if not problems:
            print("verified")
        return 6 if problems else 0
    try:
        if command == ["--time"]:
            print(json.dumps(_timed(folders, settings)))
            return 0
        model = Model(here)
        if arguments[0].endswith(".npz"):
            _fed(model, arguments[0])
        elif model.scale is not None:
            _enlarged(model, arguments[0])
        elif model.classes is not None:
            _classified(model, arguments[0])
        else:
            _fed(model, arguments[0])
    except (RuntimeError, ImportError) as error:
        _tell(str(error))
        return 5
    except Exception as error:  # the last door: a message, never a traceback
        _tell(f"{command[0]}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
