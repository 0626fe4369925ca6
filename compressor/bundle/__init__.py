"""The deployable folder: model, manifest, golden outputs and the runner, which checks them all."""

from compressor.bundle._verify import verify_bundle
from compressor.bundle._write import write_bundle
from compressor.bundle.manifest import EngineEntry, Golden, ImageInput, Manifest, bundle_folder

__all__ = ["EngineEntry", "Golden", "ImageInput", "Manifest", "bundle_folder", "verify_bundle", "write_bundle"]
