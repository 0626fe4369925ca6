"""Super-resolution: judged by PSNR and SSIM on luma, by the protocol that the published figures are by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.core import (
    Data,
    DataSource,
    InputSpec,
    Json,
    Metric,
    Normalization,
    OutputParity,
    Progress,
    Session,
    UsageError,
)
from compressor.data import ImagePairs, PhotographSource
from compressor.figures import format_change, format_value
from compressor.preprocessing import NORMALIZATIONS
from compressor.tasks._evidence import Evidence
from compressor.tasks._parity import output_parity
from compressor.tasks._picture import picture

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["SuperResolution"]

_LUMA = np.array([65.481, 128.553, 24.966])
"""BT.601's weights of 8-bit red, green and blue, times 255; black is 16."""
_WINDOW, _SIGMA = 11, 1.5
_SHOWN, _CROP = 3, 72
"""Photographs that a report shows crops of, and their sides in large pixels."""
_EVIDENCE, _IMAGE_DB = 4, 15.0
"""Images that a network is tried on, and the PSNR in dB that shows that its output is an image."""
_STEADY = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)


@dataclass(frozen=True)
class SuperResolution:
    """Small photographs are enlarged, and compared with the large ones that they were made of; x1 is restoration.

    Outputs are rounded to 8 bits; luma stays in floats (rounding it costs up to 0.09 dB, as much as rivals
    differ by); as many pixels as the image is enlarged times are left out at each edge; the mean is over images.
    """

    upscale_factor: int
    """How many times as high and wide as the input the output is."""
    divisor: int = 1
    """What height and width of an input must be divisible by."""

    kind: ClassVar[str] = "super-resolution"
    profile: ClassVar[str] = "super-resolution"
    losses: ClassVar[tuple[Mapping[str, Json], ...]] = (
        {"loss": "output-l1", "weight": 0.5},
        {"loss": "target-l1", "weight": 0.5},
    )
    spatial: ClassVar[bool] = True
    output_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    mixed_precision: ClassVar[bool] = True
    golden: ClassVar[int] = 2

    @classmethod
    def fits(cls, evidence: Evidence) -> Self | None:
        """A network whose output is an image: its family or the data show it, or the task was named.

        The output is clipped to [0, 1], so a network is never taken for one on its shapes alone: a network that maps
        images to images of their size may predict noise or masks.
        """
        factor = evidence.upscale_factor
        if factor is None:
            return None
        shown = evidence.family == cls.kind or evidence.named
        if not shown and isinstance(evidence.source, PhotographSource):
            shown = _makes_images(evidence, evidence.source, factor)
        return cls(factor, evidence.divisor) if shown else None

    @property
    def facts(self) -> Mapping[str, Json]:
        """The upscale factor and the divisor of its inputs' sides."""
        return {"upscale_factor": self.upscale_factor, "divisor": self.divisor}

    def prepare(self, source: DataSource, input: InputSpec, normalization: Normalization, input_name: str) -> Data:
        """Pairs of small and large images. Raises UsageError of images of classes, or pairs for another factor."""
        if not isinstance(source, PhotographSource):
            raise UsageError(
                "the data has images of classes, and the model makes images",
                hint="give a folder of photographs, or HR/ beside LR_x2/ with the same file names",
            )
        return source.prepare(input, normalization, input_name, self.upscale_factor)

    def parity(self, expected: Outputs, got: Outputs) -> dict[str, OutputParity]:
        """The parity of each output."""
        return output_parity(expected, got, labels=False)

    def evaluate(
        self, session: Session, split: ImagePairs, batch: int, progress: Progress, reference: Session | None = None
    ) -> tuple[Metric, NDArray[np.float64]]:
        """PSNR in dB and SSIM over all of ``split``, whole images one by one, and each image's PSNR.

        Raises UsageError if the network enlarges otherwise than the split's pairs.
        """
        psnrs, ssims = [], []
        for number, (name, small, large) in enumerate(split.pairs()):
            progress(f"evaluating on {split.name}", number, len(split))
            made = _enlarged(session, split.feeds(small))
            if made.shape != (1, *large.shape):
                raise UsageError(
                    f"the model makes {made.shape[-1]} x {made.shape[-2]} pixels of {name}, "
                    f"the pair has {large.shape[2]} x {large.shape[1]}",
                    hint="give pairs of the model's own scale",
                )
            pair = [_cut(_luma(image), self.upscale_factor) for image in (rounded(made[0]), large)]
            psnrs.append(psnr(*pair))
            ssims.append(ssim(*pair))
        also = {} if np.isnan(ssims).any() else {"ssim": float(np.mean(ssims))}
        value = float(np.mean(psnrs))
        metric = Metric("psnr", value, len(split), split.fingerprint, split.name, also, unit="dB")
        return metric, np.array(psnrs)

    def allowance(self, metric: Metric) -> float:
        """A tenth of a dB."""
        return 0.1

    def samples(
        self,
        split: ImagePairs,
        classes: Sequence[str],
        outcomes: Mapping[str, NDArray[np.float64]],
        sessions: Mapping[str, Session],
        seed: int,
    ) -> Json:
        """Describe crops of single photographs, in the form of the report's ``samples``.

        ``outcomes`` and ``sessions`` map ``teacher`` and ``result`` to what `evaluate` returned and to the session.
        Up to three photographs are shown: those on which the result loses most against the teacher. The crop of each
        lies where the two differ most. Its images are the input, the outputs of both, the target, and the difference
        of the outputs, times eight, around grey. The dB are those of the whole photograph.
        """
        lost = np.argsort(outcomes["result"] - outcomes["teacher"], kind="stable")[:_SHOWN]
        shown: list[dict[str, Json]] = []
        for row in lost.tolist():
            ((name, small, large),) = split.take(np.array([row])).pairs()
            feeds = split.feeds(small)
            made = {side: rounded(_enlarged(session, feeds)[0]) for side, session in sessions.items()}
            difference = made["result"].astype(np.int32) - made["teacher"]
            place = _worst(difference, self.upscale_factor)
            low = small[:, *(slice(at.start // self.upscale_factor, at.stop // self.upscale_factor) for at in place)]
            images = {
                "input": low,
                **{side: image[:, *place] for side, image in (*made.items(), ("target", large))},
                "difference of the two, 8x": np.clip(8 * difference[:, *place] + 128, 0, 255).astype(np.uint8),
            }
            teacher, result = (float(outcomes[side][row]) for side in ("teacher", "result"))
            change = format_change(teacher, result, "dB") or "no change"
            shown.append(
                {
                    "name": name,
                    "images": [{"caption": caption, "png": picture(image, _CROP)} for caption, image in images.items()],
                    "lines": [
                        {"name": "teacher", "text": format_value(teacher, "dB"), "good": None},
                        {"name": "result", "text": f"{format_value(result, 'dB')} ({change})", "good": None},
                    ],
                }
            )
        return {
            "layout": "rows",
            "title": "Crops",
            "text": f"Crops of {split.name}, {self.upscale_factor}x, pixel for pixel; dB are of the whole image.",
            "judged_on": split.name,
            "facts": [],
            "shown": shown,
        }


def _enlarged(session: Session, feeds: Feeds) -> NDArray[np.float32]:
    """The first output."""
    made: NDArray[np.float32] = next(iter(session(feeds).values()))
    return made


def _makes_images(evidence: Evidence, source: PhotographSource, factor: int) -> bool:
    """Whether the network's output is close to the large images of the data, as no noise, mask or score is.

    At x1 there is no telling without given pairs: a small image would be made that is the large one.
    """
    if factor == 1 and not source.evaluate.small:
        return False
    if source.evaluate.small and factor not in source.evaluate.small:
        return evidence.targets == "images" and factor > 1  # the data's own error names the scales
    assert evidence.image is not None
    pairs = source.prepare(evidence.image, NORMALIZATIONS["unit"], evidence.signature.input.name, factor).evaluate
    decibels = []
    for _, small, large in pairs.take(np.arange(min(_EVIDENCE, len(pairs)))).pairs():
        side = [
            min(n, m) // evidence.divisor * evidence.divisor for n, m in zip(small.shape[1:], (96, 96), strict=True)
        ]
        crop: NDArray[np.float32] = small[None, :, : side[0], : side[1]].astype(np.float32) / np.float32(255)
        made = evidence.run_images(crop)[0]
        truth = large[:, : factor * side[0], : factor * side[1]].astype(np.float64)
        decibels.append(psnr(made.astype(np.float64) * 255, truth) if made.shape == truth.shape else 0.0)
    return float(np.mean(decibels)) >= _IMAGE_DB


def _worst(difference: NDArray[np.int32], scale: int) -> tuple[slice, slice]:
    """Where a square crop, on the small image's pixels, has the largest mean squared ``difference``."""
    height, width = difference.shape[1:]
    side = max(scale, min(_CROP, height, width) // scale * scale)
    places = [
        (slice(top, top + side), slice(left, left + side))
        for top in range(0, height - side + 1, side)
        for left in range(0, width - side + 1, side)
    ]
    return max(places, key=lambda place: float(np.square(difference[:, *place], dtype=np.float64).mean()))


def rounded(made: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A network's output in [0, 1], C x H x W, as 8 bits; what is not a number is black."""
    return np.rint(np.clip(np.nan_to_num(made, nan=0.0), 0.0, 1.0) * 255).astype(np.uint8)


def psnr(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio of two H x W images of 0 to 255, in dB; at most 100."""
    error = float(np.mean((one - other) ** 2)) if one.size else 0.0
    return min(100.0, 10 * float(np.log10(255**2 / max(error, 1e-10))))


def ssim(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Structural similarity of two H x W images of 0 to 255 (Wang et al. 2004, section III.B).

    A Gaussian window of 11 x 11, sigma 1.5, wherever it lies within the image. NaN where it does nowhere.
    """
    if min(one.shape) < _WINDOW:
        return float("nan")
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    bell = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    bell /= bell.sum()

    def mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = sum(w * image[i : image.shape[0] - _WINDOW + 1 + i] for i, w in enumerate(bell))
        assert not isinstance(rows, int)
        seen: NDArray[np.float64] = sum(w * rows[:, i : rows.shape[1] - _WINDOW + 1 + i] for i, w in enumerate(bell))
        return seen

    a, b = mean(one), mean(other)
    spread_a, spread_b, both = mean(one**2) - a**2, mean(other**2) - b**2, mean(one * other) - a * b
    c1, c2 = _STEADY
    similarity = ((2 * a * b + c1) * (2 * both + c2)) / ((a**2 + b**2 + c1) * (spread_a + spread_b + c2))
    return float(similarity.mean())


def _luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 luma of 8-bit RGB, C x H x W, in floats; of a grey image its own values."""
    if len(image) == 1:
        grey: NDArray[np.float64] = image[0].astype(np.float64)
        return grey
    luma: NDArray[np.float64] = np.tensordot(_LUMA / 255, image.astype(np.float64), 1) + 16
    return luma


def _cut(image: NDArray[np.float64], border: int) -> NDArray[np.float64]:
    """Without its border; whole where nothing would be left."""
    return image[border:-border, border:-border] if border and min(image.shape) > 2 * border else image
