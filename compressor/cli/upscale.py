"""``compress upscale``: enlarge images by a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli._options import AsJson, BundlePath
from compressor.cli._printing import print_document, show_count, stderr_console
from compressor.core import Incomplete

__all__ = ["upscale"]


def upscale(
    bundle: BundlePath,
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, or a folder of images of any size.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the enlarged PNGs.")],
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="The runtime's threads.")] = 1,
    overlap: Annotated[
        int, typer.Option(metavar="PIXELS", min=0, help="Overlap of neighbouring tiles of a large image.")
    ] = 32,
    most: Annotated[
        int, typer.Option(metavar="PIXELS", min=1, help="An image of more pixels goes through the model in tiles.")
    ] = 1 << 18,
    as_json: AsJson = False,
) -> None:
    """Enlarge a folder of images by a bundle for super-resolution."""
    from compressor.upscale import upscale as enlarge

    with stderr_console().status("upscale") as status:
        done = enlarge(bundle, source, out, threads=threads, overlap=overlap, most=most, progress=show_count(status))
    document = {
        "scale": done.scale,
        "images": len(done.made),
        "output": str(out),
        "notes": list(done.notes),
        "failed": list(done.failed),
    }
    print_document(document, as_json)
    if done.failed:
        raise Incomplete(
            f"{len(done.failed)} of {len(done.failed) + len(done.made)} images are left out; first: {done.failed[0]}",
            hint=f"replace or remove them; the others are in {out}",
        )
