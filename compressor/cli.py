"""The command line: it parses, calls, prints, and turns errors into exit codes. No logic of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from compressor import __version__
from compressor.core import Exit, Incomplete, Json, UsageError
from compressor.exits import discard, end, fail, heed_signals

if TYPE_CHECKING:
    from rich.console import Console

    from compressor.core import Progress, Record
    from compressor.pipeline import Watcher

__all__ = ["app", "main"]

app = typer.Typer(
    name="compress",
    help="From a PyTorch teacher to a measured, verified bundle for a small board.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A checkpoint: .pt, .pth, .th, .safetensors; with --trust a whole module or program."
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code in MODEL with your rights: whole modules, TorchScript, .pt2. Only if you know who made it.",
    ),
]
Arch = Annotated[str | None, typer.Option(metavar="PKG.MODULE:CALLABLE", help="Your own architecture's constructor.")]
DataSource = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE", help="A folder or zip of images, an .npz, builtin:digits, or package.module:callable."
    ),
]
BoardUrl = Annotated[
    str | None,
    typer.Option("--board", metavar="ssh://USER@HOST[:PORT][/PYTHON]", help="Where latency is taken, if not here."),
]
InputSize = Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="Input size, such as 3x224x224.")]


@app.command()
def run(
    model: ModelFile,
    target: Annotated[str | None, typer.Option(metavar="T", help="Where it will run: see `compress targets`.")] = None,
    profile: Annotated[str | None, typer.Option(metavar="P", help="How to compress: see `compress profiles`.")] = None,
    arch: Arch = None,
    data: DataSource = None,
    evaluate: Annotated[
        str | None, typer.Option("--eval", metavar="SOURCE", help="Samples to judge on, instead of the data's own.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="The run's folder.")] = None,
    input: InputSize = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="imagenet, cifar10, unit, symmetric, raw or MEAN/STD; found from data if left out."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LIMIT", help="latency=25%, latency=5ms, params=200k, macs=20M, bytes=500k."),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Largest loss of accuracy, in percentage points.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="PASS.FIELD=VALUE", help="Change a setting of the profile.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="0 if left out.")] = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Where training happens.")] = None,
    board: BoardUrl = None,
    trust: Trust = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in a folder that has a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do every check that a run does first, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compress MODEL for a target: measured, verified, bundled."""
    from compressor.plan import Options, make_plan

    flags = Options(
        target, profile, arch, data, evaluate, input, normalize,
        tuple(budget) if budget else None, max_drop, tuple(set) if set else None, seed, device, board,
    )  # fmt: skip
    plan = make_plan(model, flags, trust=trust)
    folder = output or plan.folder
    from compressor import pipeline
    from compressor.train import workers

    if dry_run:
        _print(_dry(plan, pipeline.check(plan, folder, fresh=fresh), folder), as_json)
        return

    from compressor.report.console import print_summary

    err = _stderr()
    with err.status("reading the model") as status:
        outcome = pipeline.run(plan, folder, ["compress", *sys.argv[1:]], _watcher(err, status), fresh=fresh)
    if not workers.is_main_process():
        return
    if as_json:
        print(json.dumps(outcome.report, indent=2))
    else:
        print_summary(outcome.report, _stdout())
    if outcome.missed is not None:
        raise outcome.missed


@app.command()
def rank(
    archs: Annotated[Path, typer.Argument(metavar="ARCHS.json", help="A JSON list of encodings of students.")],
    space: Annotated[str, typer.Option(metavar="S", help="Their family: cifar-resnet, shufflenetv2, mobilenetv2 …")],
    data: Annotated[str, typer.Option(metavar="SOURCE", help="The images that they are to tell apart.")],
    teacher: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The teacher, for the scores that compare with it.")
    ] = None,
    arch: Arch = None,
    score: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another score to print beside the default's own.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the images and the initialisations.")] = 0,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Rank untrained students by how good they promise to be when distilled; higher is better."""
    from compressor.search.rank import rank as rank_students

    err = _stderr()
    with err.status("score") as status:
        rows = rank_students(
            archs, space, data, teacher=teacher, arch=arch, also=score or (), seed=seed, trust=trust,
            progress=lambda message, done, total: status.update(f"{message} {done}/{total}"),
        )  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = [
        {"score": f"{r['scores']['default']:.3f}", "params": f"{r['params']:,}", "MACs": f"{r['macs']:,}"}
        | {name: _figure(value) for name, value in r["scores"].items() if name not in ("default", "params", "macs")}
        | {"arch": json.dumps(r["arch"])}
        for r in sorted(rows, key=lambda r: -r["scores"]["default"])
    ]
    _list(table, tuple(table[0]), as_json)


BenchPath = Annotated[Path, typer.Argument(metavar="PATH", help="A bundle, a run's folder or an .onnx.")]
Against = Annotated[
    Path | None, typer.Option(metavar="PATH", help="What it is compared with: a bundle, a run's folder or an .onnx.")
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="The target's if left out.")]
Anew = Annotated[bool, typer.Option("--fresh", help="Measure anew what is known of this board.")]


@app.command()
def bench(
    path: BenchPath,
    against: Against = None,
    threads: Threads = None,
    board: BoardUrl = None,
    input: InputSize = None,
    fresh: Anew = False,
    as_json: AsJson = False,
) -> None:
    """Time a model, alone or beside another: interleaved, with intervals, and what the device can tell apart."""
    from compressor.bench.compare import Bench
    from compressor.bench.compare import bench as measure
    from compressor.core import InputSpec

    err = _stderr()
    with err.status("reading the models") as status:
        spec = None if input is None else InputSpec.parse(input)
        plan = Bench.of(path, against, input=spec, threads=threads, board=board, fresh=fresh)
        document = measure(plan, _shown(status))
    if as_json:
        print(json.dumps(document, indent=2))
        return
    from compressor.report.measured import print_bench

    print_bench(document, _stdout())


@app.command()
def gate(
    path: BenchPath,
    against: Against = None,
    evaluate: Annotated[
        str | None, typer.Option("--eval", metavar="SOURCE", help="Samples to judge both on, for --max-drop.")
    ] = None,
    max_latency: Annotated[str | None, typer.Option(metavar="5ms", help="Of the --percentile of inferences.")] = None,
    percentile: Annotated[float | None, typer.Option(metavar="P", help="90 if left out.")] = None,
    max_regression: Annotated[str | None, typer.Option(metavar="5%", help="How much slower than --against.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Largest loss of accuracy against --against.")
    ] = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="1MB", help="Of the model file.")] = None,
    threads: Threads = None,
    board: BoardUrl = None,
    input: InputSize = None,
    fresh: Anew = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as Markdown.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotate the workflow run and write its summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge a model by limits: 0 it keeps them, 3 it misses one, 4 it cannot be told or the device changed."""
    from compressor.bench.compare import Bench
    from compressor.bench.gate import Limits
    from compressor.bench.gate import gate as judge
    from compressor.core import InputSpec

    limits = Limits.parse(max_latency, percentile, max_regression, max_drop, max_bytes)
    err = _stderr()
    with err.status("reading the models") as status:
        spec = None if input is None else InputSpec.parse(input)
        plan = Bench.of(path, against, input=spec, threads=threads, board=board, fresh=fresh)
        document = judge(plan, limits, evaluate, _shown(status))
    from compressor.report.gated import publish, verdict

    for line in publish(document, junit=junit, markdown=markdown, github=github):
        print(line, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        from compressor.report.measured import print_gate

        print_gate(document, _stdout())
    if (missed := verdict(document)) is not None:
        raise missed


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or the folder of a run.")],
    as_json: AsJson = False,
) -> None:
    """Recompute a bundle's hashes, load its model and check it against known outputs."""
    from compressor.bundle import verify_bundle

    checked = verify_bundle(bundle)
    _print({"bundle": str(checked.path), "manifest_sha256": checked.manifest_sha256, "verified": True}, as_json)


@app.command()
def upscale(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or the folder of a run.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, or a folder of images of any size.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the enlarged PNGs.")],
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Of the runtime.")] = 1,
    overlap: Annotated[
        int, typer.Option(metavar="PIXELS", min=0, help="That the parts of a large image share with their neighbours.")
    ] = 32,
    most: Annotated[
        int, typer.Option(metavar="PIXELS", min=1, help="That go through the model whole; more go in parts.")
    ] = 1 << 18,
    as_json: AsJson = False,
) -> None:
    """Enlarge a folder of images by a bundle for super-resolution."""
    from rich.text import Text

    from compressor.upscale import upscale as enlarge

    err = _stderr()
    with err.status("upscale") as status:
        done = enlarge(
            bundle, source, out, threads=threads, overlap=overlap, most=most,
            progress=lambda message, at, total: status.update(Text(f"{message} {at}/{total}")),
        )  # fmt: skip
    told = {"scale": done.scale, "images": len(done.made), "output": str(out)}
    _print({**told, "notes": list(done.notes), "failed": list(done.failed)}, as_json)
    if done.failed:
        raise Incomplete(
            f"{len(done.failed)} of {len(done.failed) + len(done.made)} images are left out; first: {done.failed[0]}",
            hint=f"replace or remove them; the others are in {out}",
        )


@app.command()
def inspect(
    model: ModelFile, arch: Arch = None, input: InputSize = None, trust: Trust = False, as_json: AsJson = False
) -> None:
    """Tell what a model file is: family, parameters, MACs, input, and what a run would do."""
    from compressor.core import InputSpec
    from compressor.inspection import inspect_model

    spec = None if input is None else InputSpec.parse(input)
    _print(inspect_model(model, arch, spec, trust=trust), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or their report.json.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page; left out, see above.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the page of a run again, as its report.html; of several runs compared, as comparison.html here."""
    from compressor.report.pages import write_pages

    told = write_pages(runs, output)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        print(told["page"])


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A target, or the path of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the targets, or explain one."""
    from compressor import catalog

    if name is not None:
        _print(_plain(catalog.find_target(name)), as_json)
        return
    _list(
        [catalog.find_target(n) for n in catalog.toml_names("targets")],
        ("name", "title", "backend", "precisions"),
        as_json,
    )


@app.command()
def profiles(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A profile, or the path of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the profiles, or explain one."""
    from compressor import catalog

    if name is not None:
        _print(_plain(catalog.find_profile(name)), as_json)
        return
    found = [catalog.find_profile(n) for n in catalog.toml_names("profiles")]
    rows = [{"name": p.name, "title": p.title, "passes": [s.kind for s in p.passes]} for p in found]
    _list(rows, ("name", "title", "passes"), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine has: CPU, libraries, and the targets that can be built and measured here."""
    from compressor.doctor import examine

    _print(examine(), as_json)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"compress {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:  # no library that is loaded from here on copes with that
        raise UsageError("the working directory is not there any more", hint="cd to one that is") from error


def main() -> NoReturn:
    """Run the command line; every failure is one message, its mend and the right exit code."""
    heed_signals()
    try:
        # Not standalone: typer would print usage errors and exit in its own way.
        code = app(standalone_mode=False)
        if sys.stdout is not None:  # which a shell may have closed
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as stop:
        if not isinstance(stop if isinstance(stop, OSError) else stop.__context__, BrokenPipeError):
            raise
        discard(sys.stdout)  # typer exits with 1 there; but a reader that has had enough is no failure
        code = Exit.OK
    except Exception as error:  # noqa: BLE001 - the last door: no traceback reaches the user
        fail(error)
    end(code if isinstance(code, int) else Exit.OK)


# -- printing ---------------------------------------------------------------------------------


def _stdout() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _stderr() -> Console:
    from rich.console import Console

    from compressor.train import workers

    return Console(stderr=True, highlight=False, quiet=not workers.is_main_process())


def _shown(status: Any) -> Progress:
    from rich.text import Text

    def show(message: str, done: int, total: int) -> None:
        status.update(Text(f"{message} {done / total:.0%}" if total > 1 else message))

    return show


def _watcher(console: Console, status: Any) -> Watcher:
    from rich.text import Text

    from compressor.pipeline import Watcher

    where = ""

    def show(text: str) -> None:
        status.update(Text(text))  # never markup: a folder may be called [red]

    def started(kind: str, number: int, total: int) -> None:
        nonlocal where
        where = f"[{number}/{total}] {kind}"
        show(where)

    def progress(message: str, done: int, total: int) -> None:
        share = f" {done / total:.0%}" if total > 1 else ""
        show(f"{where}: {message}{share}" if where else f"{message}{share}")

    def done(record: Record) -> None:
        took = "cached" if record.cached else f"{record.seconds:.1f} s"
        console.print(f"{where} {took}", markup=False)

    return Watcher(progress, started, done)


def _plain(value: Any) -> Json:
    import dataclasses

    return json.loads(json.dumps(dataclasses.asdict(value), default=str))


def _print(value: Json, as_json: bool) -> None:
    """One document: as JSON, or one line a key."""
    if as_json:
        print(json.dumps(value, indent=2))
        return
    width = max(len(key) for key in value)
    for key, item in value.items():
        lines = item if isinstance(item, list) and any(isinstance(i, dict | str) for i in item) else [item]
        for i, line in enumerate(lines):
            text = ", ".join(f"{k}: {v}" for k, v in line.items()) if isinstance(line, dict) else _text(line)
            print(f"{key if i == 0 else '':{width}}  {text}")


def _text(value: Json) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _list(rows: list[Any], columns: tuple[str, ...], as_json: bool) -> None:
    table = [row if isinstance(row, dict) else {c: getattr(row, c) for c in columns} for row in rows]
    if as_json:
        print(json.dumps(table, indent=2))
        return
    cells = [[", ".join(v) if isinstance(v := row[c], list | tuple) else str(v) for c in columns] for row in table]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _dry(plan: Any, taken: Any, folder: Path) -> Json:
    return {
        "model": str(plan.model),
        "family": taken.ingested.family,
        "params": taken.params,
        "macs": taken.macs,
        "input": str(taken.input),
        "target": plan.target.name,
        "profile": plan.profile.name,
        "passes": [each.kind for each in plan.passes],
        "data": plan.source.evaluate.name if plan.source else None,
        "output": str(folder),
    }


if __name__ == "__main__":
    main()
