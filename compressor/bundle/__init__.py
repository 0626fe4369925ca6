"""The deployable folder: model, manifest, golden outputs and the runner, which checks them all."""

from compressor.bundle._golden import golden_samples
from compressor.bundle._verify import verify_bundle
from compressor.bundle._write import write_bundle
from compressor.bundle.manifest import EngineEntry, Golden, ImageInput, Manifest, bundle_folder

__all__ = [
    "EngineEntry",
    "Golden",
    "ImageInput",
    "Manifest",
    "bundle_folder",
    "golden_samples",
    "verify_bundle",
    "write_bundle",
]
