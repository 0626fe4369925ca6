"""What teacher and result make of single samples."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.core import Json
from compressor.report.sections._section import Picture, Section, cut, picture, table

__all__ = ["samples"]

_SHOWN = 24
_BYTES = 900_000
"""Of all images together."""

_KINDS = {
    "lost": "the teacher alone has right",
    "gained": "the result alone has right",
    "both_wrong": "neither has right",
    "both_right": "both have right",
}


def samples(report: Mapping[str, Json]) -> Section | None:
    """Predictions beside their images; of super-resolution, crops side by side."""
    told = report["samples"]
    if not told or not told["shown"]:
        return None
    if told["task"] == "super-resolution":
        words = f"Crops of {told['judged_on']}, {told['scale']}x, pixel for pixel; dB are of the whole image."
        return Section("samples", "Crops", (cut(words),), pictures=_within(map(_crop, told["shown"][:_SHOWN])))
    counts = told["counts"]
    total = sum(counts.values())
    rows = (
        (f"what {_KINDS[kind]}", f"{number:,}", _share(number, total))
        for kind, number in counts.items()
        if kind in _KINDS
    )
    words = f"Of {total:,} samples of {told['judged_on']}; those that only one of the two has right are shown first."
    return Section(
        "samples",
        "Predictions",
        (cut(words),),
        table=table("predictions", ("samples", "number", "share"), rows),
        pictures=_within(map(_prediction, told["shown"][:_SHOWN])),
    )


def _within(shown: map[Picture]) -> tuple[Picture, ...]:
    """As many as there is room for on the page."""
    kept, size = [], 0
    for each in shown:
        size += sum(len(source) for source, _, _ in each.images)
        if size > _BYTES:
            break
        kept.append(each)
    return tuple(kept)


def _share(number: int, total: int) -> str:
    return f"{100 * number / total:.2f} %" if total else ""


def _prediction(sample: Json) -> Picture:
    label = _name(sample["label"])
    lines = [("", f"is {label}")]
    for side in ("teacher", "result"):
        right = sample[side] == sample["label"]
        lines.append(("good" if right else "bad", f"{'✓' if right else '✗'} {side}: {_name(sample[side])}"))
    source = picture(sample["image"])
    return Picture(((source, f"a sample of {label}", ""),) if source else (), tuple(lines))


def _name(label: Json) -> str:
    words = "none" if label is None else str(label)
    return words if len(words) <= 40 else f"{words[:39]}…"


def _crop(sample: Json) -> Picture:
    name = _name(sample["name"])
    sides = {"low": "input", "teacher": "teacher", "result": "result", "truth": "truth",
             "difference": "difference of the two, 8x"}  # fmt: skip
    sources = [(picture(sample.get(side)), f"{name}: {word}", word) for side, word in sides.items()]
    images = tuple((source, told, word) for source, told, word in sources if source is not None)
    difference = round(sample["result_db"] - sample["teacher_db"], 2) + 0.0  # no minus before a zero
    decibels = f"teacher {sample['teacher_db']:.2f} dB, result {sample['result_db']:.2f} dB ({difference:+.2f})"
    return Picture(images, (("", name), ("", decibels)))
