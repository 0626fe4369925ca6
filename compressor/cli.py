"""The command line: it parses, calls, prints, and turns errors into exit codes. No logic of its own."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from compressor import __version__
from compressor.core import BudgetMissed, CompressError, Exit, Json

if TYPE_CHECKING:
    from rich.console import Console

    from compressor.core import Record
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
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint: .pt, .pth, .th, .safetensors.")]
Arch = Annotated[str | None, typer.Option(metavar="PKG.MODULE:CALLABLE", help="Your own architecture's constructor.")]
DataSource = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE", help="A folder or zip of images, an .npz, builtin:digits, or package.module:callable."
    ),
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
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in a folder that has a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do every check that a run does first, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compress MODEL for a target: measured, verified, bundled."""
    from compressor.plan import Options, make_plan

    flags = Options(
        target, profile, arch, data, evaluate, input, normalize,
        tuple(budget) if budget else None, max_drop, tuple(set) if set else None, seed, device,
    )  # fmt: skip
    plan = make_plan(model, flags)
    folder = output or Path("runs") / f"{model.stem}-{plan.target.name}-{plan.profile.name}"
    from compressor import pipeline

    if dry_run:
        _print(_dry(plan, pipeline.check(plan, folder, fresh=fresh), folder), as_json)
        return

    from compressor.report.console import print_summary

    err = _stderr()
    with err.status("reading the model") as status:
        outcome = pipeline.run(plan, folder, ["compress", *sys.argv[1:]], _watcher(err, status), fresh=fresh)
    if as_json:
        print(json.dumps(outcome.report, indent=2))
    else:
        print_summary(outcome.report, _stdout())
    if outcome.missed is not None:
        raise outcome.missed


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
def inspect(model: ModelFile, arch: Arch = None, input: InputSize = None, as_json: AsJson = False) -> None:
    """Tell what a model file is: family, parameters, MACs, input, and what a run would do."""
    from compressor.core import InputSpec
    from compressor.inspection import inspect_model

    spec = None if input is None else InputSpec.parse(input)
    _print(inspect_model(model, arch, spec), as_json)


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
) -> None: ...


def main() -> NoReturn:
    """Run the command line; every failure is one message, its mend and the right exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    as_json = "--json" in sys.argv
    try:
        # Not standalone: typer would print usage errors and exit in its own way.
        code = app(standalone_mode=False)
        if code == Exit.STOPPED:
            raise KeyboardInterrupt  # which typer swallows
        sys.stdout.flush()
    except CompressError as error:
        # With a missed limit stdout has its one document already: the report, which names the shortfall.
        _fail(error.what, error.mend, error.code, as_json and not isinstance(error, BudgetMissed))
    except TyperException as error:
        _fail(error.format_message(), _usage(error), Exit.USAGE, as_json)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped", "the same command goes on from where it was", Exit.STOPPED, as_json)
    except BrokenPipeError:
        # The reader went away, as `head` does: nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    except MemoryError:
        _fail("out of memory", "a smaller --input, or a machine with more memory", Exit.INTERNAL, as_json)
    except Exception as error:  # noqa: BLE001 - the last door: no traceback reaches the user
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail("the disk is full", "free some space; the same command goes on from there", Exit.INTERNAL, as_json)
        mend = "this is a fault of compress: the run's logs/run.log has the traceback"
        _fail(f"internal error: {type(error).__name__}: {error}", mend, Exit.INTERNAL, as_json)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def _fail(what: str, mend: str | None, code: Exit, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"error": {"what": what, "mend": mend, "exit": int(code)}}, indent=2))
    sys.stderr.write(_printable(f"error: {what}\n" + (f"  mend: {mend}\n" if mend else "")))
    sys.exit(int(code))


def _printable(text: str) -> str:
    """A file's name may hold escape codes: they are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'compress'} --help"


# -- printing ---------------------------------------------------------------------------------


def _stdout() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


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
