"""A report that has everything, as plain JSON, as large and with such words as a test wants."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from compressor.report.document import SCHEMA_VERSION

HOSTILE = (
    "</title></style></svg>\"'><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e&amp;{{ 7 * 7 }}"
)
"""Words that a page must show as words."""
SECTIONS = (
    "summary gains search training layers latency samples passes environment bundle again".split()  # noqa: SIM905
)
"""The parts of a run's page, in its order."""


def png(side: int, seed: int) -> str:
    """Noise, which no compression makes smaller."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def metric(value: float) -> dict[str, Any]:
    return {
        "name": "top1", "value": value, "samples": 10_000, "fingerprint": "f" * 64, "source": "cifar10 test",
        "also": {}, "unit": "%", "higher_is_better": True,
    }  # fmt: skip


def latency(median: float) -> dict[str, Any]:
    return {
        "median": median, "p90": 1.2 * median, "p99": 1.5 * median, "samples": 10_000, "estimated": False, "threads": 1,
    }  # fmt: skip


def side(precision: str, size: int, ms: float, top1: float) -> dict[str, Any]:
    return {
        "family": "cifar-resnet", "precision": precision, "params": size // 4, "macs": 100 * size, "bytes": size,
        "metric": metric(top1), "latency_ms": latency(ms), "memory_bytes": None,
    }  # fmt: skip


def stage(passes: list[str], structure: str | None, weights: str | None, **figures: Any) -> dict[str, Any]:
    told = side(**figures)
    del told["family"], told["memory_bytes"]
    return {"passes": passes, "structure": structure, "weights": weights, **told}


def student(number: int) -> dict[str, Any]:
    share = 0.1 + 0.04 * number
    return {
        "space": "cifar-resnet", "student": f'{{"depths": [{number + 1}, 1, 1]}}', "rank": 6 - number,
        "score": 0.5 + 0.08 * number, "params": 50_000 * (number + 1), "macs": 1_000_000 * (number + 1),
        "latency_share_predicted": share,
    }  # fmt: skip


def searched() -> dict[str, Any]:
    front = [student(number) for number in (4, 3, 2, 1, 0)]
    finalists = [each | {"latency_share": each["latency_share_predicted"], "bytes": 90_000} for each in front[:2]]
    first, second = (f"{each['space']} {each['student']}" for each in front[:2])
    reached = {first: 0.81, second: 0.7725}
    generator = np.random.default_rng(0)
    return {
        "space": "cifar-resnet", "searched": ["cifar-resnet", "mobilenetv2"],
        "student": front[0]["student"], "budget": "latency=30%", "evaluated": 400,
        "timed_as": "int8", "scored_on": "64 images of cifar10 train", "score": "mean of ranks: 8 x width",
        "finalists": finalists, "front": front,
        "candidates": [[0.1 + 0.3 * x, 0.8 * x * y] for x, y in generator.random((400, 2)).round(4).tolist()],
        "successive_halving": {
            "minutes": 1.0, "seconds": 61.0, "learned_from": "10,000 of train", "judged_on": "2,000 of train",
            "rounds": [{"steps": 90, "top1": reached}], "changed": True, "before": second,
            "after": first,
        },
    }  # fmt: skip


def trained(points: int) -> dict[str, Any]:
    rounds = [
        {"steps": 9, "top1": {"kd": 0.5, "dist": 0.61, "exits": 0.4}},
        {"steps": 20, "top1": {"dist": 0.7, "kd": 0.6}},
    ]
    return {
        "teachers": [0.75, 0.25],
        "methods": {
            "chosen": "dist", "minutes": 1.0, "seconds": 61.0, "judged_on": "2,000 of train", "rounds": rounds,
        },
        "steps": 40 * points, "batch": 128, "loss": 0.2,
        "losses": [{"loss": "kl", "weight": 0.9}, {"loss": "cross-entropy", "weight": 0.1}],
        "curve": [
            {"step": 40 * i, "loss": 2 / i, "parts": [1.9 / i, 2.2 / i], "lr": 0.1} for i in range(1, points + 1)
        ],
    }  # fmt: skip


def verified(layers: int) -> dict[str, Any]:
    compared = [
        {"tensor": f"relu_{i}", "op": "Conv", "db": 30 - 0.1 * i, "weight": f"conv{i}.weight", "elements": 2304,
         "stored": "int8", "bits": 4 + i % 5}
        for i in range(layers)
    ]  # fmt: skip
    parity = {"max_abs": 0.1, "relative_error": 0.01, "db": 24.7, "agreement": 0.992}
    rung = {"from": "fp32", "to": "int8", **parity, "outputs": {"output": parity}}
    return {"ladder": [rung], "layers": compared, "first_drift": None}


def record(kind: str, metrics: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "kind": kind, "settings": settings, "seconds": 61.0, "cached": False, "metrics": metrics, "warnings": [],
        "pinned": {},
    }  # fmt: skip


def predictions(count: int) -> dict[str, Any]:
    pairs = [("cat", "dog"), ("dog", "cat"), ("dog", "dog"), ("cat", "cat")]
    counts = {"only the teacher is right": 310, "only the result is right": 140, "both are right": 9550}
    return {
        "layout": "grid", "title": "Predictions", "text": "10,000 samples.", "judged_on": "cifar10 test",
        "facts": [{"name": name, "value": value, "of": 10_000} for name, value in counts.items()],
        "shown": [
            {"name": "cat", "images": [{"caption": "", "png": png(32, i % 24)}],
             "lines": [
                 {"name": side, "text": label, "good": label == "cat"}
                 for side, label in zip(("teacher", "result"), pairs[i % 4], strict=True)
             ]}
            for i in range(count)
        ],
    }  # fmt: skip


def crops(count: int) -> dict[str, Any]:
    sides = {"input": 24, "teacher": 96, "result": 96, "target": 96}
    return {
        "layout": "rows", "title": "Crops", "text": "Crops of Set5, 4x.", "judged_on": "Set5", "facts": [],
        "shown": [
            {"name": f"butterfly {i}",
             "images": [
                 {"caption": caption, "png": png(side, 4 * i + seed)}
                 for seed, (caption, side) in enumerate(sides.items())
             ],
             "lines": [
                 {"name": "teacher", "text": "27.50 dB", "good": None},
                 {"name": "result", "text": "27.25 dB (-0.25 dB)", "good": None},
             ]}
            for i in range(count)
        ],
    }  # fmt: skip


def specimen(*, more_passes: int = 0, samples: int = 480, shown: int = 24, layers: int = 60) -> dict[str, Any]:
    """A run of the profile balanced; ``more_passes`` train and make a graph each."""
    generator = np.random.default_rng(1)

    def taken(median: float) -> list[list[float]]:
        blocks = median * generator.lognormal(0, 0.1, (24, samples // 24))
        return [[round(ms, 4) for ms in block] for block in blocks.tolist()]

    floats = {"precision": "fp32", "size": 1_000_000, "ms": 0.8, "top1": 0.881}
    whole = {"precision": "int8", "size": 309_000, "ms": 0.29, "top1": 0.8734}
    more = [
        stage([f"tune{i}"], None, f"tune{i}", **floats | {"size": 1_000_000 - 100 * i, "top1": 0.881 + 1e-5 * i})
        for i in range(more_passes)
    ]
    return {
        "schema_version": SCHEMA_VERSION, "status": "ok",
        "command": ["compress", "run", "resnet 56.pt", "--target", "host"],
        "environment": {
            "arch": "x86_64", "board": None, "cpu": "AMD EPYC", "features": ["avx2", "fma"], "cores": 2,
            "memory_mb": 7900, "governor": None, "load": [0.1, 0.2, 0.3], "system": "Linux 6", "python": "3.11.7",
        },
        "versions": {"compressor": "0.1.0", "onnxruntime": "1.24.0"}, "seed": 0, "target": "host",
        "profile": "balanced", "task": "classification", "sizes": {"batch": 1},
        "inputs": [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 32, 32]}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}],
        "normalization": {
            "name": "imagenet", "scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.2, 0.2, 0.2],
            "channels": "rgb", "layout": "nchw",
        },
        "data": {"source": "cifar10/", "fingerprints": {"cifar10 train": "1" * 64, "cifar10 test": "2" * 64}},
        "teacher": side("fp32", 3_420_000, 2.01, 0.89), "result": side(**whole), "speedup": 6.95,
        "speedup_interval": [6.87, 7.02], "why_no_metric": None, "why_no_latency": None,
        "budgets": [
            {"name": "latency", "limit": "latency=20%", "value": 0.29, "met": True, "shortfall": None},
            {"name": "bytes", "limit": "bytes=300k", "value": 309_000, "met": False, "shortfall": "bytes: 9,000 over"},
        ],
        "stages": [
            stage(["search", "distill", "lower"], "search", "distill", **floats), *more,
            stage(["quantize"], None, "quantize", **whole),
        ],
        "passes": [
            record("search", searched(), space="auto"), record("distill", trained(30), minutes=28.0),
            record("lower", {"precision": "fp32", "opset": 21}), record("quantize", trained(20), bits=8),
            *(record(f"tune{i}", trained(100), minutes=28.0, losses=["kl"] * 9) for i in range(more_passes)),
            record("measure", {"teacher": metric(0.89), "result": metric(0.8734)}),
            record("verify", verified(layers), drift_db=15.0),
        ],
        "notes": ["normalisation 'imagenet', the best"], "engine": "ready", "todo": None,
        "bundle": {"path": "runs/x/bundle", "manifest_sha256": "d" * 64, "files": [{"name": "model.onnx", "bytes": 9}]},
        "samples_ms": {"teacher": taken(2.01), "result": taken(0.29)}, "samples": predictions(shown),
    }  # fmt: skip


def hostile(value: Any, words: str) -> Any:
    """The same with ``words`` in place of every string, and after every key that is not the report's own."""
    free = ("fingerprints", "versions", "settings", "top1", "samples_ms", "outputs")

    def changed(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {f"{name} {words}" if key in free else name: changed(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [changed(item) for item in value]
        return words if isinstance(value, str) else value

    return changed(value)
