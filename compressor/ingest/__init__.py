"""The one door through which a model file enters, and the way its weights are kept."""

from compressor.ingest._ingest import Ingested, ingest, load
from compressor.ingest._weights import save

__all__ = ["Ingested", "ingest", "load", "save"]
