"""Run a compressed model: this file, its folder, NumPy and ONNX Runtime are all it takes.

    python run.py --verify             check every file of the bundle, and the model against known outputs
    python run.py --unpack             make model.onnx of model.packed, which may be sent in its place
    python run.py INPUT.npy            classify 8-bit pixels (H x W x C, or N x H x W x C); prints JSON
    python run.py PHOTO.png            the same from an image file, where Pillow is installed

In an application: copy the folder, then ``Model("folder").predict(pixels)``.
"""

# Boards carry old Pythons: nothing newer than Python 3.6 in this file.

import hashlib
import importlib
import importlib.util
import json
import lzma
import os
import sys
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports its use over the network otherwise


def _without(library: str, error: ImportError) -> int:
    _tell(f"{library} cannot be imported: {error}")
    sys.stderr.write("  mend: python3 -m pip install numpy onnxruntime\n")
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

__all__ = ["MAGIC", "Model", "check", "compare", "unpack", "verify"]

MAGIC = b"compressed model 1\n"

_OWN = ("model.onnx", "golden.npz", "run.py")
_LARGEST = (2 << 30) - 1
_LONGEST_MANIFEST = 16 << 20
_BILINEAR, _BICUBIC = 2, 3  # Pillow's, by number: old and new versions name them differently


class Model:
    """A bundle, loaded. ``manifest`` is its manifest.json.

    Manifest and ``model.onnx``'s content are read from ``folder`` unless they are given.
    """

    def __init__(
        self,
        folder: Union[str, Path],
        threads: int = 1,
        manifest: Optional[Dict[str, Any]] = None,
        content: Optional[bytes] = None,
    ) -> None:
        self.manifest = _manifest(Path(folder)) if manifest is None else manifest
        if content is None and "session.py" in self.manifest["files"]:
            self._run = _other_runtime(Path(folder), self.manifest)  # type: Callable[[Any], Any]
            return
        import onnxruntime

        if content is None:
            _unpacked(Path(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong is raised
        if "session.py" in self.manifest["files"]:  # another runtime's graph: judged in floats, as it was made
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(
            (Path(folder) / "model.onnx").read_bytes() if content is None else content,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=False,  # which would print
        )
        names = [self.manifest["outputs"][0]["name"]], self.manifest["input"]["name"]
        self._run = lambda batch: session.run(names[0], {names[1]: batch})[0]

    def __call__(self, batch: Any) -> Any:
        """Map a normalised float32 batch (N x C x H x W) to the first output."""
        return self._run(batch)

    def predict(self, pixels: Any) -> Any:
        """Map 8-bit pixels (N x H x W x C, or one H x W x C) of the input's own size to scores, N x K.

        Raises ValueError for pixels of another type or size.
        """
        entry = self.manifest["input"]
        pixels = np.asarray(pixels)
        if pixels.ndim == 3:
            pixels = pixels[np.newaxis]
        channels, height, width = entry["shape"][1:]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels) or not len(pixels):
            raise ValueError(
                f"expected 8-bit pixels of {height} x {width} x {channels}, got {pixels.dtype} {pixels.shape[1:]}"
            )
        scaled = pixels.astype(np.float32) * np.float32(entry["range"][1] / 255.0)
        normalised = (scaled - np.asarray(entry["mean"], np.float32)) / np.asarray(entry["std"], np.float32)
        return self(np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)))


def verify(folder: Union[str, Path]) -> List[str]:
    """Check hashes, then the model's outputs against golden.npz. Returns what is wrong, nothing if all is well."""
    folder = Path(folder)
    manifest, problems = check(folder)
    if problems:
        return problems
    try:
        with np.load(str(folder / "golden.npz"), allow_pickle=False) as golden:
            return compare(Model(folder, manifest=manifest), golden["input"], golden["output"])
    except Exception as error:  # whatever stops the model from running is the answer
        return [f"the model cannot be run: {error}"]


def check(folder: Path) -> Tuple[Dict[str, Any], List[str]]:
    """The manifest of a bundle, and what is wrong with its files: all are there, unchanged, and there are no others."""
    try:
        manifest = _manifest(folder)
        files, tolerance = dict(manifest["files"]), float(manifest["golden"]["tolerance"])
        hashes = {name: str(files[name]["sha256"]) for name in sorted(files)}
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"its tolerance is {tolerance}")
        found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
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


def compare(model: Model, batch: Any, wanted: Any) -> List[str]:
    """What is wrong with a model's outputs for ``batch``: nothing where they are ``wanted``, within the tolerance."""
    wanted = wanted.astype(np.float32)
    got = model(batch)
    if got.shape != wanted.shape or not got.size or not np.all(np.isfinite(got)):
        return ["the outputs have the wrong shape or are not finite"]
    worst, tolerance = float(np.max(np.abs(got - wanted))), float(model.manifest["golden"]["tolerance"])
    return (
        [] if worst <= tolerance else [f"the outputs differ from golden.npz by {worst:.3g}, more than {tolerance:.3g}"]
    )


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
    plan, expected = folder / "model.onnx", manifest["files"]["model.onnx"]["sha256"]
    if "model.plan" in manifest["files"]:
        plan, expected = folder / "model.plan", manifest["files"]["model.plan"]["sha256"]
    elif "build_engine.py" in manifest["files"]:
        plan, expected = _built(folder, manifest)
    if _sha256(plan) != expected:
        raise RuntimeError(f"{plan.name} was changed: its SHA-256 is not the one it was built with")
    session = _module(folder, "session", manifest).Session(plan)  # type: Callable[[Any], Any]
    return session


def _built(folder: Path, manifest: Dict[str, Any]) -> Tuple[Path, str]:
    """The engine that was built on this very device, and its hash."""
    version = importlib.import_module("tensorrt").__version__
    key, _ = _module(folder, "build_engine", manifest).fingerprint(version)
    place = folder / "engines" / key
    if not (place / "model.plan").is_file():
        raise RuntimeError("there is no engine for this device yet: python3 build_engine.py makes it")
    return place / "model.plan", json.loads((place / "build.json").read_text())["plans"]["model.plan"]


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


def _pixels(path: str, entry: Dict[str, Any]) -> Any:
    channels, height, width = entry["shape"][1:]
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
    folder = Path(__file__).resolve().parent
    if len(arguments) != 1 or (arguments[0].startswith("-") and arguments[0] not in ("--verify", "--unpack")):
        sys.stderr.write(f"{__doc__}\n")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        _unpacked(folder)
    except (OSError, ValueError, KeyError) as error:
        _tell(f"model.packed: {error}")
        return 6
    if arguments == ["--unpack"]:
        return 0 if (folder / "model.onnx").is_file() else 2
    if not (folder / "session.py").is_file():
        try:
            import onnxruntime  # noqa: F401 - whether it is there
        except ImportError as error:
            return _without("ONNX Runtime", error)
    if arguments == ["--verify"]:
        problems = verify(folder)
        for problem in problems:
            _tell(problem)
        if not problems:
            print("verified")
        return 6 if problems else 0
    try:
        model = Model(folder)
        scores = model.predict(_pixels(arguments[0], model.manifest["input"]))
        classes = model.manifest["outputs"][0].get("classes") or range(scores.shape[1])
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        for row in odds / odds.sum(axis=1, keepdims=True):
            best = np.argsort(-row)[:5]
            print(json.dumps([{"class": classes[i], "probability": round(float(row[i]), 4)} for i in best]))
    except (RuntimeError, ImportError) as error:
        _tell(str(error))
        return 5
    except Exception as error:  # the last door: a message, never a traceback
        _tell(f"{arguments[0]}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
