"""Run a compressed model: this file, its folder, NumPy and ONNX Runtime are all it takes.

    python run.py --verify             check every file of the bundle, and the model against known outputs
    python run.py INPUT.npy            classify 8-bit pixels (H x W x C, or N x H x W x C); prints JSON
    python run.py PHOTO.png            the same from an image file, where Pillow is installed

In an application: copy the folder, then ``Model("folder").predict(pixels)``.
"""

# Boards carry old Pythons: nothing newer than Python 3.6 in this file.

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np

__all__ = ["Model", "verify"]


class Model:
    """A bundle, loaded. ``manifest`` is its manifest.json."""

    def __init__(self, folder: Union[str, Path], threads: int = 1) -> None:
        import onnxruntime

        self.manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))  # type: Dict[str, Any]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch: Any) -> Any:
        """Map a normalised float32 batch (N x C x H x W) to the first output."""
        return self._session.run([self.manifest["outputs"][0]["name"]], {self.manifest["input"]["name"]: batch})[0]

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
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files, tolerance = dict(manifest["files"]), float(manifest["golden"]["tolerance"])
        hashes = {name: str(files[name]["sha256"]) for name in sorted(files)}
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"its tolerance is {tolerance}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"manifest.json cannot be read: {error}"]
    problems = [
        f"the manifest does not list {name}" for name in ("model.onnx", "golden.npz", "run.py") if name not in files
    ]
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            problems.append(f"{name} was changed: its SHA-256 is not the manifest's")
    if problems:
        return problems
    try:
        golden = np.load(str(folder / "golden.npz"), allow_pickle=False)
        wanted = golden["output"].astype(np.float32)
        got = Model(folder)(golden["input"])
    except Exception as error:  # whatever stops the model from running is the answer
        return [f"the model cannot be run: {error}"]
    if got.shape != wanted.shape or not got.size or not np.all(np.isfinite(got)):
        return ["the outputs have the wrong shape or are not finite"]
    worst = float(np.max(np.abs(got - wanted)))
    return (
        [] if worst <= tolerance else [f"the outputs differ from golden.npz by {worst:.3g}, more than {tolerance:.3g}"]
    )


def _pixels(path: str, entry: Dict[str, Any]) -> Any:
    channels, height, width = entry["shape"][1:]
    if path.endswith(".npy"):
        return np.load(path, allow_pickle=False)
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(f"image files need Pillow; without it: a .npy of {height} x {width} x {channels}") from error
    image = Image.open(path).convert("RGB" if channels == 3 else "L").resize((width, height))
    return np.asarray(image).reshape(height, width, channels)


def main(arguments: List[str]) -> int:
    folder = Path(__file__).resolve().parent
    if arguments == ["--verify"]:
        problems = verify(folder)
        sys.stderr.write("".join(f"error: {problem}\n" for problem in problems))
        if not problems:
            print("verified")
        return 6 if problems else 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(f"{__doc__}\n")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        model = Model(folder)
        scores = model.predict(_pixels(arguments[0], model.manifest["input"]))
        classes = model.manifest["outputs"][0].get("classes") or range(scores.shape[1])
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        for row in odds / odds.sum(axis=1, keepdims=True):
            best = np.argsort(-row)[:5]
            print(json.dumps([{"class": classes[i], "probability": round(float(row[i]), 4)} for i in best]))
    except Exception as error:  # the last door: a message, never a traceback
        sys.stderr.write(f"error: {arguments[0]}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
