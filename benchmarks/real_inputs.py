"""Real inputs for networks of other people: audio frames, spectra, tokens and bytes, by input name."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Arrays = Mapping[str, NDArray[np.generic]]


def speech(folder: Path) -> NDArray[np.float32]:
    """All ``.wav`` files of a folder one after another, mono at 16 kHz."""
    from scipy.signal import resample_poly

    parts = []
    for path in sorted(folder.glob("*.wav")):
        with wave.open(str(path)) as file:
            rate, channels = file.getframerate(), file.getnchannels()
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, channels)
        parts.append(resample_poly(samples.mean(1) / 32768, RATE, rate))
    rng = np.random.default_rng(0)
    joined = np.concatenate(parts * 4)
    return np.asarray(joined + 0.003 * rng.standard_normal(len(joined)), np.float32)


def pitch_frames(audio: NDArray[np.float32]) -> Arrays:
    """Frames of 1,024 samples, each of mean 0 and deviation 1, as torchcrepe makes them."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 1024)[::800][:400].copy()
    frames -= frames.mean(1, keepdims=True)
    return {"frames": frames / np.maximum(frames.std(1, keepdims=True), 1e-10)}


def mel_frames(audio: NDArray[np.float32]) -> Arrays:
    """Mel spectrograms of 40 bands, 160 frames of 25 ms every 10 ms, as resemblyzer makes them."""
    power = np.abs(_spectra(audio, 400, 160)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), 42)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(400, 1 / RATE)
    rise = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    bands = power @ (np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2]))
    windows = np.lib.stride_tricks.sliding_window_view(bands, 160, axis=0)[::40]
    return {"mels": windows.transpose(0, 2, 1).astype(np.float32)}


def voice_chunks(audio: NDArray[np.float32]) -> Arrays:
    """Sequences of 50 steps of 512 samples with the 64 before them."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 576)[::512]
    return {"input": _sequences(frames, 50)[:, :, None]}


def magnitudes(audio: NDArray[np.float32]) -> Arrays:
    """Sequences of 100 magnitude spectra of 512 samples every 128."""
    return {"input_2": _sequences(np.abs(_spectra(audio, 512, 128)), 100)[:, :, None, None]}


def complex_spectra(audio: NDArray[np.float32]) -> Arrays:
    """Sequences of 100 complex spectra of 512 samples every 256: real and imaginary parts."""
    spectra = _spectra(audio, 512, 256)
    parts = np.stack([spectra.real, spectra.imag], -1)
    return {"mix": _sequences(parts, 100)[:, :, None, :, None, :].astype(np.float32)}


def _spectra(audio: NDArray[np.float32], size: int, hop: int) -> NDArray[np.complex128]:
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]
    made: NDArray[np.complex128] = np.fft.rfft(frames * np.sqrt(np.hanning(size)), axis=1)
    return made


def _sequences(frames: NDArray[np.generic], steps: int) -> NDArray[np.float32]:
    count = min(len(frames) // steps, 20)
    return frames[: count * steps].reshape(count, steps, *frames.shape[1:]).astype(np.float32)


def file_bytes(folder: Path) -> Arrays:
    """The first and the last 1,024 bytes of files, 256 where there are none, as magika takes them."""
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _SUFFIXES)[:2000:5]:
        content = list(path.read_bytes().strip())
        first, last = content[:1024], content[-1024:]
        rows.append([*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last])
    return {"bytes": np.array(rows, np.int32)}


_SUFFIXES = (".py", ".md", ".toml", ".json", ".png", ".c", ".h", ".txt", ".so", ".pyc", ".html", ".js")


def tokens(folder: Path, tokenizer: Path) -> Arrays:
    """Sentences of the docstrings in a folder, as token ids and masks of 64."""
    import re

    from tokenizers import Tokenizer

    texts = " ".join(path.read_text(errors="ignore") for path in sorted(folder.rglob("*.md"))[:40])
    texts += " ".join(path.read_text(errors="ignore") for path in sorted(folder.rglob("*.py"))[:200])
    sentences = [s.strip() for s in re.findall(r"[A-Z][a-z][^.\n{}=_`\"]{30,160}\.", texts)]
    made = Tokenizer.from_file(str(tokenizer))
    made.enable_truncation(64)
    made.enable_padding(length=64)
    encoded = [made.encode(sentence) for sentence in dict.fromkeys(sentences[:4000])][:400]
    return {
        "input_ids": np.array([each.ids for each in encoded], np.int64),
        "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
    }


AUDIO: Mapping[str, Callable[[NDArray[np.float32]], Arrays]] = {
    "pitch": pitch_frames, "mel": mel_frames, "chunks": voice_chunks, "magnitudes": magnitudes,
    "spectra": complex_spectra,
}  # fmt: skip
