"""Data sources: where training and judging samples come from, and how they are cut in halves."""

from compressor.data._npz import Pickled, read_arrays
from compressor.data._photographs import Photographs, PhotographSource, PreparedPhotographs, read_photographs
from compressor.data._pictures import Picture, pictures
from compressor.data._source import Prepared, Source, default_size, load_data
from compressor.data._splits import PreparedSplit, RawSplit

__all__ = [
    "PhotographSource", "Photographs", "Pickled", "Picture", "Prepared", "PreparedPhotographs", "PreparedSplit",
    "RawSplit", "Source", "default_size", "load_data", "pictures", "read_arrays", "read_photographs",
]  # fmt: skip
