"""The pictures of the README: what a run prints, and its page, light and dark.

Runs the demo's teacher through the profile balanced, with short training, unless the folder of another run is named.
Needs Chromium::

    python docs/screens.py [RUN]
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from compressor.atomic import write
from compressor.report.console import print_summary

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).with_name("images")
SHORT = (
    "search.evaluations=120",
    "search.budget=['latency=60%']",
    "distill.minutes=1.0",
    "quantize.distill.minutes=0.5",
)
SCHEMES: tuple[tuple[Literal["light", "dark"], str], ...] = (("light", "page.png"), ("dark", "page-dark.png"))
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
WIDTH, HEIGHT = 1120, 1230
COLUMNS = 84

PAPER, INK, QUIET = (255, 255, 255), (27, 30, 36), (91, 98, 112)
GREEN, AMBER, RED = (10, 107, 61), (143, 75, 0), (179, 38, 30)
THEME = TerminalTheme(PAPER, INK, [QUIET, RED, GREEN, AMBER, INK, INK, INK, QUIET])
# Rich's own frame fetches its font from a server; this one uses a font of the reader's machine.
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>What a run prints</title>
<style>
text {{ font: {char_height}px ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre; }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="10" fill="#fff" stroke="#e2e5ea"/>
<g transform="translate(9, 14)">{backgrounds}{matrix}</g>
</svg>
"""


def main(run: Path | None) -> None:
    """Write ``docs/images/summary.svg``, ``page.png`` and ``page-dark.png``."""
    if run is None:
        run = ROOT / "runs" / "screens"
        settings = [part for setting in SHORT for part in ("--set", setting)]
        teacher = ROOT / "examples" / "digits" / "teacher.pt"
        command = ["run", str(teacher), "--profile", "balanced", *settings, "-o", str(run)]
        subprocess.run([sys.executable, "-m", "compressor", *command], check=True)
    IMAGES.mkdir(exist_ok=True)
    write(IMAGES / "summary.svg", summary(json.loads((run / "report.json").read_text(encoding="utf-8"))))
    for scheme, name in SCHEMES:
        write(IMAGES / name, page(run / "report.html", scheme))
    print(*sorted(path.relative_to(ROOT).as_posix() for path in IMAGES.iterdir()), sep="\n")


def summary(report: Any) -> str:
    """What the terminal shows of a report, as SVG; without notes, and without this machine's folders."""
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, highlight=False)
    print_summary(report | {"notes": [], "bundle": report["bundle"] | {"path": "runs/model/bundle"}}, console)
    return console.export_svg(theme=THEME, code_format=SVG, unique_id="summary")


def page(file: Path, scheme: Literal["light", "dark"]) -> bytes:
    """The top of a page, as PNG."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
        shown = context.new_page()
        shown.goto(file.resolve().as_uri())
        image = shown.screenshot()
        browser.close()
    return image


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
