"""Data sources: where training and judging samples come from, and how they are cut in halves."""

from compressor.data._feeds import FeedSource, FeedSplit
from compressor.data._fitting import fit_images
from compressor.data._masks import MaskSource, MaskSplit
from compressor.data._npz import Pickled, read_arrays
from compressor.data._photographs import (
    ImagePairs,
    Photographs,
    PhotographSource,
    PreparedImages,
    PreparedSource,
    UnlabelledImages,
    read_photographs,
)
from compressor.data._pictures import Picture, pictures
from compressor.data._source import AnySource, Prepared, Source, default_size, load_data
from compressor.data._splits import PreparedSplit, RawSplit
from compressor.data._states import feed_back, states_of

__all__ = [
    "AnySource", "FeedSource", "FeedSplit", "ImagePairs", "MaskSource", "MaskSplit", "PhotographSource", "Photographs",
    "Pickled", "Picture", "Prepared", "PreparedImages", "PreparedSource", "PreparedSplit", "RawSplit", "Source",
    "UnlabelledImages", "default_size", "feed_back", "fit_images", "load_data", "pictures", "read_arrays",
    "read_photographs", "states_of",
]  # fmt: skip
