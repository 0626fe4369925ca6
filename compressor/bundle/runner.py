"""Run a compressed model: this file, its folder, NumPy and ONNX Runtime are all it takes.

    python run.py --verify             check every file of the bundle, and the model against known outputs
    python run.py --unpack             make model.onnx of model.packed, which may be sent in its place
    python run.py INPUT.npy            classify 8-bit pixels (H x W x C, or N x H x W x C); prints JSON
    python run.py PHOTO.png            the same from an image file, where Pillow is installed

A bundle for super-resolution enlarges PHOTO.png (or INPUT.npy, H x W x C) of any size to PHOTO-x2.png, in place of
classifying it.

In an application: copy the folder, then ``Model("folder").predict(pixels)``, or ``.enlarge(pixels)``.
"""

# Boards carry old Pythons: nothing newer than Python 3.6 in this file.

import hashlib
import json
import lzma
import os
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

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

__all__ = ["MAGIC", "Model", "check", "compare", "cropped", "unpack", "verify"]

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
        import onnxruntime

        self.manifest = _manifest(Path(folder)) if manifest is None else manifest
        if content is None:
            _unpacked(Path(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong is raised
        self._session = onnxruntime.InferenceSession(
            (Path(folder) / "model.onnx").read_bytes() if content is None else content,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=False,  # which would print
        )

    def __call__(self, batch: Any) -> Any:
        """Map a normalised float32 batch (N x C x H x W) to the first output."""
        return self._session.run([self.manifest["outputs"][0]["name"]], {self.manifest["input"]["name"]: batch})[0]

    @property
    def scale(self) -> Optional[int]:
        """How many times as high and wide what a model for super-resolution makes is; None of a classifier."""
        scale = self.manifest["outputs"][0].get("enlarges")
        return None if scale is None else int(scale)

    def enlarge(self, pixels: Any, overlap: int = 32, most: int = 1 << 18) -> Any:
        """Map 8-bit pixels of any size (H x W x C) to the enlarged ones, 8-bit too, sH x sW x C.

        An image of more than ``most`` pixels is taken in parts, as `cropped` does. Raises ValueError for anything
        that is no such image, or a model that is none for super-resolution.
        """
        entry, scale = self.manifest["input"], self.scale
        channels = int(entry["shape"][1])
        pixels = np.asarray(pixels)
        if scale is None:
            raise ValueError("it is a classifier: predict(pixels)")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels or not pixels.size:
            raise ValueError(f"expected 8-bit pixels of H x W x {channels}, got {pixels.dtype} {pixels.shape}")
        image = self._scaled(pixels[np.newaxis])[0]
        made = cropped(self, image, scale, int(entry.get("divisor", 1)), overlap, most)
        made = np.rint(np.clip(np.where(np.isnan(made), 0.0, made), 0.0, 1.0) * 255.0)
        return np.ascontiguousarray(made.astype(np.uint8).transpose(1, 2, 0))

    def predict(self, pixels: Any) -> Any:
        """Map 8-bit pixels (N x H x W x C, or one H x W x C) of the input's own size to scores, N x K.

        Raises ValueError for pixels of another type or size.
        """
        entry = self.manifest["input"]
        if self.scale is not None:
            raise ValueError("it is a model for super-resolution: enlarge(pixels)")
        pixels = np.asarray(pixels)
        if pixels.ndim == 3:
            pixels = pixels[np.newaxis]
        channels, height, width = entry["shape"][1:]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels) or not len(pixels):
            raise ValueError(
                f"expected 8-bit pixels of {height} x {width} x {channels}, got {pixels.dtype} {pixels.shape[1:]}"
            )
        return self(self._scaled(pixels))

    def _scaled(self, pixels: Any) -> Any:
        """Pixels N x H x W x C as the network takes them, N x C x H x W."""
        entry = self.manifest["input"]
        scaled = pixels.astype(np.float32) * np.float32(entry["range"][1] / 255.0)
        normalised = (scaled - np.asarray(entry["mean"], np.float32)) / np.asarray(entry["std"], np.float32)
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def cropped(run: Any, image: Any, scale: int, divisor: int = 1, overlap: int = 32, most: int = 1 << 18) -> Any:
    """Enlarge C x H x W of any size by ``run``, which takes N x C x H x W, in parts where it does not go whole.

    IMDN's adaptive cropping (Hui et al. 2019): what has sides that divide by ``divisor``, and at most
    ``most`` pixels, runs whole. Else four corners, half as high and wide and ``overlap`` pixels more, go in one batch
    and give a quadrant each; corners that are too large are quartered in their turn. What is too small for that is
    mirrored at its edges up to sides that divide. Parts of an image know less than the whole:
    benchmarks/super_resolution.py measures by how much that shows.
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
    short = [-side % divisor if size == side else 0 for side, size in zip(sides, sizes, strict=False)]
    if any(short):  # too small for its sides to be cut to what divides
        wider = np.pad(image, [(0, 0), (0, short[0]), (0, short[1])], "symmetric")
        made = cropped(run, wider, scale, divisor, overlap, most)
        return made[:, : scale * sides[0], : scale * sides[1]]
    if sizes == list(sides):
        return run(image[np.newaxis])[0]
    tops, lefts = ([0] if size == side else [0, side - size] for side, size in zip(sides, sizes, strict=False))
    corners = [image[:, top : top + sizes[0], left : left + sizes[1]] for top in tops for left in lefts]
    if sizes[0] * sizes[1] <= most:
        parts = run(np.ascontiguousarray(np.stack(corners)))
    else:
        parts = [cropped(run, corner, scale, divisor, overlap, most) for corner in corners]
    out = np.empty((len(parts[0]), scale * sides[0], scale * sides[1]), np.float32)
    for part, (top, left) in zip(parts, [(top, left) for top in tops for left in lefts], strict=False):
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
    problems += [f"{name} is not the bundle's: remove it" for name in found if name not in (*files, "manifest.json")]
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
    channels = int(model.manifest["input"]["shape"][1])
    with Image.open(path) as image:
        pixels = np.asarray(_converted(image, "L" if channels == 1 else "RGB"))
    made = model.enlarge(pixels.reshape((*pixels.shape[:2], channels)))
    Image.fromarray(made[:, :, 0] if channels == 1 else made).save(name + ".png")
    print(json.dumps({"image": name + ".png", "shape": list(made.shape)}))


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
        if model.scale is not None:
            _enlarged(model, arguments[0])
            return 0
        scores = model.predict(_pixels(arguments[0], model.manifest["input"]))
        classes = model.manifest["outputs"][0].get("classes") or range(scores.shape[1])
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        for row in odds / odds.sum(axis=1, keepdims=True):
            best = np.argsort(-row)[:5]
            print(json.dumps([{"class": classes[i], "probability": round(float(row[i]), 4)} for i in best]))
    except Exception as error:  # the last door: a message, never a traceback
        _tell(f"{arguments[0]}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
