"""What a program may rely on: the names, their signatures and their fields, and what a call of them does."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import ROOT
from torch import Tensor, nn

import compressor
from compressor import (
    BudgetMissed,
    Compressed,
    LoadedBundle,
    UnsafeInput,
    UsageError,
    VerificationFailed,
    catalog,
    compress,
    load_bundle,
)
from compressor.cli.run import run as run_command
from compressor.models.cifar_resnet import CifarResNet

DIGITS = ROOT / "examples" / "digits" / "teacher.pt"
ARCHITECTURE = CifarResNet(depths=(2, 2, 1), widths=(16, 32, 64), outputs=10, channels=1)
QUICK = {"measure.blocks": 5, "measure.inferences": 1}
SNAPSHOT = Path(__file__).with_name("public_api.txt")


# -- the surface -----------------------------------------------------------------------------------


def described() -> str:
    """Every public name, one line each, and one for each of its fields, values or methods."""
    return "\n".join(line for name in sorted(compressor.__all__) for line in _lines(name)) + "\n"


def _lines(name: str) -> list[str]:
    thing = getattr(compressor, name)
    if name == "__version__":
        return [name]
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        parameters = [f"    {'*, ' * (p.kind is p.KEYWORD_ONLY)}{_plain(p)}" for p in signature.parameters.values()]
        return [name, *parameters, f"    -> {signature.return_annotation}"]
    bases = [base.__name__ for base in thing.__bases__ if base not in (object, enum.IntEnum)]
    head = f"class {name}" + (f"({', '.join(bases)})" if bases else "")
    if issubclass(thing, enum.Enum):
        return [head, *(f"    {member.name} = {member.value}" for member in thing)]
    if issubclass(thing, compressor.CompressError):
        return [f"{head}: exit {int(thing.code)}"]
    fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    lines = [f"    {f.name}: {f.type}" + (" = …" if _optional(f) else "") for f in fields]
    lines += [f"    {key}: {hint}" for key, hint in vars(thing).get("__annotations__", {}).items() if not fields]
    for key, member in vars(thing).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if inspect.isfunction(function) and (key == "__call__" or not key.startswith("_")):
            lines.append(
                f"    {key}{_plain(inspect.signature(function))}" + "  [property]" * isinstance(member, property)
            )
    return [head, *lines]


def _optional(field: dataclasses.Field[Any]) -> bool:
    return not field.default is field.default_factory is dataclasses.MISSING


def _plain(signature: object) -> str:
    return str(signature).replace("'", "")


def test_the_public_api_is_as_written_down() -> None:
    assert described() == SNAPSHOT.read_text(encoding="utf-8"), (
        "the public API changed. If it was meant to: python tests/api/test_public_api.py writes it down anew, "
        "and CHANGELOG.md says so; a name or field that goes away or changes is a new minor version before 1.0"
    )


def test_every_public_name_is_there_and_no_other() -> None:
    assert sorted(compressor.__all__) == list(compressor.__all__)
    assert set(compressor.__all__) <= set(dir(compressor))
    for name in compressor.__all__:
        assert getattr(compressor, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        compressor.compres  # type: ignore[attr-defined]  # noqa: B018


def test_the_function_takes_what_the_command_takes() -> None:
    # A front is several runs: a program calls compress for each budget.
    command = set(inspect.signature(run_command).parameters) - {"dry_run", "as_json", "pareto"}
    assert command == set(inspect.signature(compress).parameters) - {"progress"}, (
        "an option of `compress run` is an argument of compressor.compress, by the same name"
    )


def test_importing_it_imports_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import compressor; compressor.Target; compressor.UsageError\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new - set(sys.stdlib_module_names) == {'compressor'}, new\n"
        "compressor.compress\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


PROGRAM = """
from __future__ import annotations

from pathlib import Path

import numpy as np

import compressor
from compressor import Compressed, CompressError, Signature, Target, load_bundle


def told(message: str, done: int, total: int) -> None:
    print(f"{message}: {done} of {total}")


def main() -> int:
    try:
        made: Compressed = compressor.compress(
            Path("model.pt"), data="images/", input=(1, 32, 32), budget={"params": 1000, "bytes": "2MB"}, progress=told
        )
    except CompressError as error:
        return int(error.code)
    if made.missed is not None or made.bundle is None:
        return 3
    bundle = load_bundle(made.bundle, threads=2)
    signature: Signature = bundle.signature
    outputs = bundle({signature.input.name: np.zeros((2, 1, 32, 32), np.float32)})
    print(outputs["output"].argmax(1), bundle.classes)
    return 0
"""

WRONG = """
import compressor

compressor.compres("model.pt")
compressor.compress(3)
compressor.load_bundle("bundle").classes.append("cat")
"""


@pytest.mark.slow
def test_type_checkers_know_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("mypy")
    assert (Path(compressor.__file__).parent / "py.typed").is_file()
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    cache = request.config.cache.mkdir("mypy") if request.config.cache else tmp_path / "cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "right.py", "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    told = [line.partition(" error: ") for line in done.stdout.splitlines() if " error: " in line]
    assert [where for where, _, _ in told] == ["wrong.py:4:", "wrong.py:5:", "wrong.py:6:", "wrong.py:6:"], done.stdout


# -- a run ------------------------------------------------------------------------------------------


def digits() -> tuple[np.ndarray, ...]:
    """A data source as a function: scikit-learn's digits, in the halves of ``builtin:digits``."""
    from compressor.data import load_data

    source = load_data("builtin:digits")
    assert source.train is not None
    halves = [(half.samples.pixels[half.rows], half.labels) for half in (source.train, source.evaluate)]
    return tuple(array for half in halves for array in half)


class Renamed(nn.Module):
    """A network of no known family: the example's teacher, its layers under other names."""

    def __init__(self) -> None:
        super().__init__()
        net = ARCHITECTURE.build()
        self.layers = nn.ModuleList(net.children())
        self.__dict__["net"] = net  # not a child: its names are not in the state dict

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


@pytest.fixture(scope="module")
def network() -> nn.Module:
    net = ARCHITECTURE.build()
    net.load_state_dict(torch.load(DIGITS, weights_only=True))
    return net.train()


@pytest.fixture(scope="module")
def made(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, list[tuple[str, int, int]]]:
    """A network in memory, compressed with a budget that cannot be met."""
    told: list[tuple[str, int, int]] = []
    folder = tmp_path_factory.mktemp("api") / "run"
    result = compress(
        network, data=digits, input=(1, 32, 32), profile="ptq", output=folder, set=QUICK, seed=1,
        budget={"bytes": 1000, "latency": "900%"}, progress=lambda *each: told.append(each),
    )  # fmt: skip
    return result, told


def test_a_network_in_memory_is_compressed(made: tuple[Compressed, Any], network: nn.Module) -> None:
    result, _ = made
    assert json.loads((result.folder / "report.json").read_text()) == result.report
    assert result.report["teacher"]["family"] == "cifar-resnet"
    assert result.report["target"] == "host"
    assert result.report["seed"] == 1
    assert result.report["result"]["metric"]["value"] > 0.97
    assert result.bundle == result.folder / "bundle"
    assert network.training, "the network is as it was"
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.folder = Path()  # type: ignore[misc]


def test_a_missed_budget_is_returned_and_the_bundle_is_there(made: tuple[Compressed, Any]) -> None:
    result, _ = made
    assert isinstance(result.missed, BudgetMissed)
    assert "bytes=1000" in result.missed.what
    assert result.report["status"] == "missed"
    load_bundle(result.folder)


def test_progress_tells_each_pass(made: tuple[Compressed, Any]) -> None:
    _, told = made
    for number, kind in enumerate(["lower", "quantize", "build", "measure", "verify"], start=1):
        assert (f"[{number}/5] {kind}", 0, 1) in told
        assert (f"[{number}/5] {kind}", 1, 1) in told
    assert any(message.startswith("[4/5] measure: evaluating") for message, _, _ in told)
    assert all(0 <= done <= total for _, done, total in told)


def test_the_report_names_a_command_that_does_the_same(made: tuple[Compressed, Any], compress: Any) -> None:
    words = made[0].report["command"]
    assert words[:2] == ["compress", "run"]
    assert Path(words[2]) == made[0].folder / "teacher" / "model.safetensors"
    at = words.index("--data")
    assert words[at + 1] == f"{__name__}:digits"
    done = compress(*words[1:], "--fresh", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["input"] == "1x32x32"


@pytest.mark.slow
def test_nothing_is_printed_and_a_finished_run_is_taken_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = compress(DIGITS, data="builtin:digits", input="1x32x32", profile="smoke")
    assert first.folder == Path("runs/teacher-host-smoke")
    again = compress(str(DIGITS), data="builtin:digits", profile="smoke", target="host", output=first.folder)
    assert [p["kind"] for p in again.report["passes"] if not p["cached"]] == ["measure"]
    assert again.missed is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_resolved_plan_keeps_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"input": "1x32x32", "normalize": "symmetric", "set": QUICK}
    made = compress(DIGITS, target="raspberry-pi-5", profile="float", output="pi", **options)  # type: ignore[arg-type]
    again = compress(DIGITS, profile=made.folder / "resolved.toml", output="again")
    assert (again.report["target"], again.report["engine"]) == ("raspberry-pi-5", "pending")


@pytest.mark.slow
def test_a_network_of_no_family_comes_with_what_makes_it(network: nn.Module, tmp_path: Path) -> None:
    renamed = Renamed().train()
    renamed.net.load_state_dict(network.state_dict())
    with pytest.raises(UsageError, match=r"^Renamed: the architecture is not recognised") as caught:
        compress(renamed, data="builtin:digits", output=tmp_path / "run")
    assert "arch" in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()
    result = compress(
        renamed, arch=Renamed, data="builtin:digits", input=(1, 32, 32), profile="smoke", output=tmp_path / "run"
    )
    assert result.report["teacher"]["family"] == f"{__name__}:Renamed"
    assert result.report["result"]["metric"]["value"] > 0.97


class Squared(nn.Module):
    """Has the state dict of the example's teacher, and computes something else."""

    def __new__(cls) -> Any:
        net: Any = ARCHITECTURE.build()
        net.register_forward_hook(lambda module, inputs, scores: scores.square())
        return net


def test_weights_that_look_like_a_family_are_not_taken_for_it(network: nn.Module, tmp_path: Path) -> None:
    other: Any = Squared()
    other.load_state_dict(network.state_dict())
    with pytest.raises(UsageError, match="has the weights of cifar-resnet, and computes something else"):
        compress(other, data="builtin:digits", input=(1, 32, 32), output=tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ({"weight": torch.zeros(2)}, {}, "not dict"),
        (nn.LazyLinear(3), {}, "LazyLinear has lazy layers"),
        (nn.Identity(), {}, "Identity holds no weights"),
        (nn.Linear(2, 2), {"arch": lambda: nn.Linear(2, 2)}, "arch is <function"),
        (nn.Linear(2, 2), {"arch": "no_such_module:Net"}, "no_such_module"),
        (DIGITS, {"data": (np.zeros((4, 8, 8)), np.zeros(4))}, "data is tuple"),
        (DIGITS, {"budget": {"latency": -1}}, "not a budget: 'latency=-1ms'"),
        (DIGITS, {"budget": {"speed": 1}}, "unknown budget"),
        (DIGITS, {"set": {"quantize": 1}}, "not a setting"),
        (DIGITS, {"set": {"quantize.samples": "many"}}, "'many'"),
        (DIGITS, {"set": {"quantize.samples": None}}, "'null'"),
        (DIGITS, {"input": (3, 8)}, "takes one image"),
        (DIGITS, {"target": "hots"}, "unknown target"),
        (ROOT / "none.pt", {}, "there is no file"),
    ],
)
def test_what_cannot_be_is_a_usage_error(model: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compress(model, **{"data": "builtin:digits", "output": tmp_path / "run", **options})
    assert words in caught.value.what
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


def test_a_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(UnsafeInput):
        compress(tmp_path / "whole.pt")


# -- its bundle -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(made: tuple[Compressed, Any]) -> LoadedBundle:
    return load_bundle(made[0].folder)


def test_a_bundle_knows_what_it_takes(bundle: LoadedBundle, made: tuple[Compressed, Any]) -> None:
    assert bundle.path == made[0].bundle
    assert bundle.manifest["target"] == "host"
    assert str(bundle.signature) == "input float32 [batch, 1, 32, 32] -> output float32 [batch, 10]"
    assert (bundle.image, bundle.sizes) == ("input", {"batch": 1})
    assert bundle.normalization is not None
    assert bundle.normalization.mean == (0.5,)
    assert bundle.classes == tuple("0123456789")
    assert "sha256" not in repr(bundle)


def test_a_bundle_does_as_well_as_was_measured(bundle: LoadedBundle, made: tuple[Compressed, Any]) -> None:
    _, _, x, y = digits()
    metric = made[0].report["result"]["metric"]
    assert metric["samples"] == len(y)
    outputs = bundle(bundle.preprocess(x))
    assert list(outputs) == ["output"]
    assert (outputs["output"].argmax(1) == y).mean() == pytest.approx(metric["value"], abs=1e-9)


def test_images_may_come_in_any_form(bundle: LoadedBundle) -> None:
    pixels = digits()[0][:3]
    wanted = bundle.preprocess(pixels)["input"]
    assert wanted.shape == (3, 1, 32, 32)
    assert wanted.dtype == np.float32
    for images in (
        pixels[:, 0],
        pixels.transpose(0, 2, 3, 1),
        pixels / 255,
        pixels.astype(np.float32) / 255,
        [*pixels],
        np.repeat(pixels, 3, axis=1),
    ):
        np.testing.assert_array_equal(bundle.preprocess(images)["input"], wanted)
    for image in (pixels[0, 0], pixels[0].transpose(1, 2, 0)):
        np.testing.assert_array_equal(bundle.preprocess(image)["input"], wanted[:1])
    scores = bundle({"input": wanted})["output"]
    np.testing.assert_array_equal(bundle({"input": wanted.astype(np.float64)})["output"], scores)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 32, 32), np.float32),
        np.zeros((2, 1, 8, 8), np.float32),
        np.zeros((0, 1, 32, 32), np.float32),
        np.zeros((2, 1, 32, 32), np.complex64),
        np.zeros((2, 2, 2, 2, 2), np.uint8),
        np.float32(1),
        "cat.png",
    ],
)
def test_what_is_no_batch_is_a_usage_error(batch: Any, bundle: LoadedBundle) -> None:
    with pytest.raises(UsageError, match=r"input is .*, and the network takes input float32") as caught:
        bundle({"input": batch})
    assert caught.value.hint


@pytest.mark.parametrize("feeds", [np.zeros((1, 1, 32, 32), np.float32), {}, {"image": np.zeros(3)}])
def test_inputs_go_by_their_names(feeds: Any, bundle: LoadedBundle) -> None:
    with pytest.raises(UsageError, match="the network takes input, and was given"):
        bundle(feeds)


def test_a_changed_bundle_is_not_opened(bundle: LoadedBundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    assert load_bundle(copy, threads=2).classes == bundle.classes
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, words in (
        ({"engine": {**manifest["engine"], "backend": "onnxruntim"}}, "unknown backend"),
        ({"engine": {}}, "lacks 'status'"),
        ({"input": {**manifest["input"], "mean": [0.5, 0.5]}}, "input is not the entry"),
        ({"sizes": {}}, "batch"),
    ):
        (copy / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises((UsageError, VerificationFailed), match=words):
            load_bundle(copy)
    (copy / "model.onnx").write_bytes(b"another")
    with pytest.raises(VerificationFailed, match=r"model\.onnx was changed"):
        load_bundle(copy)
    with pytest.raises(UsageError, match="is not a bundle"):
        load_bundle(tmp_path / "none")


def test_a_bundle_opens_on_its_own_backend(bundle: LoadedBundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "engine": {**manifest["engine"], "backend": "null"}}))
    opened = load_bundle(copy)
    assert isinstance(opened.session, type(catalog.find("backends", "null")().open(copy / "model.onnx", threads=1)))
    feeds = bundle.preprocess(digits()[0][:2])
    np.testing.assert_array_equal(opened(feeds)["output"].argmax(1), bundle(feeds)["output"].argmax(1))


if __name__ == "__main__":
    SNAPSHOT.write_text(described(), encoding="utf-8")
