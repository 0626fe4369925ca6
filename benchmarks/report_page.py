"""How soon a page opens: a run's, and that of a run with 200 passes, 10,000 latency samples and 10,000 predictions.

Each page is rendered, then opened ten times in a fresh window of a Chromium that runs already. Printed are the medians
of the time to the load event and to the first paint after it, by the browser's own clock. Needs Chromium::

    python benchmarks/report_page.py [RUN...]
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from compressor.report.html import render_html

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from specimen import specimen

TIMES = 10
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
OPENED = """() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(
    [performance.getEntriesByType("navigation")[0].loadEventEnd, performance.now()]))))"""


def enormous() -> Any:
    """200 passes that all trained and made a graph, with warnings; 5,000 layers."""
    report = specimen(more_passes=194, samples=10_000, shown=24, layers=5000)
    report["samples"]["shown"] = [copy.copy(report["samples"]["shown"][i % 24]) for i in range(10_000)]
    for done in report["passes"]:
        done["warnings"] = ["of something that is described at length " * 20] * 10
    return report


def main(runs: list[Path]) -> None:
    from playwright.sync_api import sync_playwright

    reports = {run.name: json.loads((run / "report.json").read_text(encoding="utf-8")) for run in runs}
    reports |= {"usual": specimen(), "enormous": enormous()}
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt install chromium")
    print("| report | report.json | page | rendered in | loaded | painted |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        render_html(specimen())  # what is imported and read once for all pages
        for name, report in reports.items():
            begun = time.perf_counter()
            text = render_html(report)
            rendered = time.perf_counter() - begun
            file = Path(folder) / "report.html"
            file.write_text(text, encoding="utf-8")
            times = []
            for _ in range(TIMES):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto(file.as_uri())
                times.append(page.evaluate(OPENED))
                page.close()
            loaded, painted = (median(column) for column in zip(*times, strict=True))
            sizes = [len(json.dumps(report, indent=2).encode()) / 1e6, len(text.encode()) / 1e6]
            print(
                f"| {name} | {sizes[0]:.2f} MB | {sizes[1]:.2f} MB | {rendered:.1f} s "
                f"| {loaded / 1e3:.2f} s | {painted / 1e3:.2f} s |"
            )
        browser.close()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
