"""Images as the samples of a task that looks at single images."""

from __future__ import annotations

from compressor.core import Data, DataSource, InputSpec, Normalization
from compressor.data import PhotographSource, Source

__all__ = ["prepare_images"]


def prepare_images(source: DataSource, input: InputSpec, normalization: Normalization, input_name: str) -> Data:
    """Prepare images with their labels; of a source without classes, images alone."""
    if isinstance(source, PhotographSource):
        return source.prepare_unlabelled(input, normalization, input_name)
    assert isinstance(source, Source)
    return source.prepare(input, normalization, input_name)
