"""``compress verify``: check a bundle."""

from __future__ import annotations

from compressor.cli._options import AsJson, BundlePath
from compressor.cli._printing import print_document

__all__ = ["verify"]


def verify(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Recompute a bundle's hashes, load its model and check it against known outputs."""
    from compressor.bundle import verify_bundle

    checked = verify_bundle(bundle)
    print_document({"bundle": str(checked.path), "manifest_sha256": checked.manifest_sha256, "verified": True}, as_json)
