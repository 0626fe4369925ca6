"""From a model file to a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.core import GivenInput, UsageError
from compressor.store import file_sha256
from compressor.teacher._network import Network, free_sides, image_of, layout_of
from compressor.teacher._teacher import Teacher

if TYPE_CHECKING:
    from compressor.data import AnySource

__all__ = ["load_teacher"]


def load_teacher(
    path: Path,
    arch: str | None,
    given: tuple[GivenInput, ...],
    source: AnySource | None,
    *,
    trust: bool = False,
    task: str | None = None,
    metric: str | None = None,
    layout: str | None = None,
) -> Teacher:
    """Read a model file, a checkpoint or an ONNX graph; find its signature, its costs and its task.

    Raises UsageError or UnsafeInput as the frontend does, and UsageError where model, input and data do not fit.
    """
    if path.suffix.lower() == ".onnx":
        if arch is not None:
            raise UsageError("--arch is for checkpoints, and an ONNX file holds its own graph", hint="leave out --arch")
        from compressor.teacher._graph import load_graph

        network: Network = load_graph(path, given, source)
    else:
        # Nothing here imports torch before this is done: a file that is refused is refused at once.
        from compressor.teacher._torch import load_torch

        network = load_torch(path, arch, given, source, trust=trust)
    return _with_task(path, network, source, task, metric, layout)


def _with_task(
    path: Path, network: Network, source: AnySource | None, named: str | None, metric: str | None, layout: str | None
) -> Teacher:
    from compressor.data import FeedSource
    from compressor.feeds import random_feeds
    from compressor.preprocessing import parse_normalization
    from compressor.tasks import Evidence, find_task, with_metric

    arrays = source if isinstance(source, FeedSource) else None
    layout = layout or layout_of(network.signature)
    image = None if arrays else image_of(network.signature, network.sizes, layout)
    made = network(random_feeds(network.signature, network.sizes, None, 0))
    shapes = tuple(array.shape for array in made.values())
    evidence = Evidence(network.signature, image, shapes, network, source, network.task, divisor=network.divisor)
    task = with_metric(find_task(named, evidence), metric)
    if arrays is not None:
        arrays.prepare_feeds(network.signature, network)
    elif source is not None and image is None:
        raise UsageError(
            f"{source.evaluate.name} holds images, and the network takes "
            f"{', '.join(map(str, network.signature.inputs))}",
            hint="give arrays by the names of its inputs, an .npz; --profile float needs no data",
        )
    elif source is not None and image is not None:
        # Data that is for other networks is refused before anything is written.
        task.prepare(source, image, parse_normalization("unit", image.channels), network.signature.input.name)
    if task.spatial and image is not None and not network.signature.input.free[1:]:
        signature, sides = free_sides(network.signature, image)
        network = replace(network, signature=signature, sizes={**network.sizes, **sides})  # type: ignore[type-var]
    return Teacher(network, file_sha256(path), task, image, layout)
