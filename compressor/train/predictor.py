"""Inference of a teacher for a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, Session, image_signature
from compressor.feeds import run_in_batches
from compressor.lowering.export import export
from compressor.lowering.save import save
from compressor.train import workers
from compressor.train.precision import autocast, uses_bf16

__all__ = ["as_scores", "graph_predictor", "make_predictor"]

_OPSET = 21
_SUMS_TO_1, _LEAST_SHARE = 1e-3, 1e-7
"""How near to 1 the sum of probabilities lies, and the least that one counts as."""
_EXAMPLE_SIZE = 64
"""Pixels a side of the example input, where the exported graph takes any size."""


def make_predictor(
    teacher: nn.Module, precision: str, device: str, folder: Path, *, any_size: bool = False
) -> Callable[[Tensor], Tensor]:
    """A function from images N x C x H x W to the teacher's output, in the precision that students train in.

    ``any_size`` is for networks that take images of any height and width. In float32 on a CPU, ONNX Runtime
    computes the outputs: its kernels are about twice as fast as torch's. The graphs that it loads are kept in
    ``folder``, which belongs to this teacher.
    """
    place = workers.accelerator(device).device
    teacher = teacher.to(place).eval()
    if place.type == "cpu" and not uses_bf16(precision, place):
        return _runtime_predictor(teacher, any_size, folder)

    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(precision, place):
            outputs: Tensor = teacher(images.to(place))
        return outputs.float().cpu()

    return predict


def graph_predictor(path: Path) -> Callable[[Tensor], Tensor]:
    """A function from images N x C x H x W to the scores (or the image) of an ONNX file, in batches that it takes."""
    session: Session = catalog.find("backends", "onnxruntime")().open(path, threads=torch.get_num_threads())
    source, sink = session.signature.input.name, session.signature.scores.name

    def predict(images: Tensor) -> Tensor:
        outputs = run_in_batches(session, {source: images.contiguous().numpy()}, len(images))
        return torch.from_numpy(outputs[sink])

    return predict


def as_scores(predict: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function; where its answers are probabilities, their logarithms, of which softmax makes them again."""

    def answer(images: Tensor) -> Tensor:
        scores = predict(images)
        shares = scores.ndim == 2 and scores.shape[1] > 1 and bool((scores >= 0).all())
        if shares and bool(((scores.sum(1) - 1).abs() < _SUMS_TO_1).all()):
            return scores.clamp_min(_LEAST_SHARE).log()
        return scores

    return answer


def _runtime_predictor(teacher: nn.Module, any_size: bool, folder: Path) -> Callable[[Tensor], Tensor]:
    @cache
    def session(input: InputSpec) -> Session:
        path = folder / f"{'x'.join(map(str, input.shape))}.onnx"
        if not path.is_file():
            signature, sizes = image_signature(input, upscale_factor=1 if any_size else None)
            save(export(teacher, signature, sizes, _OPSET), path, "fp32")
        opened: Session = catalog.find("backends", "onnxruntime")().open(path, threads=torch.get_num_threads())
        return opened

    def predict(images: Tensor) -> Tensor:
        size = (_EXAMPLE_SIZE, _EXAMPLE_SIZE) if any_size else images.shape[2:]
        outputs = session(InputSpec(images.shape[1], *size))({"input": images.numpy()})
        return torch.from_numpy(outputs["output"])

    return predict
