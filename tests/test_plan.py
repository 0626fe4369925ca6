"""From what the user asks for to a plan that can finish, or a refusal in the first second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor import plan as plan_module
from compressor.backends.onnxruntime import OnnxRuntime
from compressor.core import CompressError, GivenInput, Unavailable, UsageError
from compressor.machine import Machine
from compressor.options import Options
from compressor.plan import Plan, make_plan

DIGITS = "builtin:digits"
NULL_TARGET = """
backend = "null"
builds = "here"
arch = "any"
precisions = ["fp32"]
opset = 21
"""
FLOAT_PROFILE = """
[[pass]]
kind = "lower"
[[pass]]
kind = "build"
[[pass]]
kind = "measure"
[[pass]]
kind = "verify"
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file's stand-in, in a folder of its own; the working directory is another, empty one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    file = tmp_path / "models" / "model.pt"
    file.parent.mkdir()
    file.write_bytes(b"a plan reads no model")
    return file


def refused(call: Callable[[], Any], kind: type[CompressError] = UsageError) -> str:
    """What is refused, and its mend, which must be there."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.hint
    return f"{caught.value.what} | {caught.value.hint}"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def pass_of(plan: Plan, kind: str) -> Any:
    return next(each for each in plan.passes if each.kind == kind)


# -- precedence -------------------------------------------------------------------------------


def test_flag_then_here_then_beside_then_profile_then_default(model: Path) -> None:
    profile = write(Path("mine.toml"), f"[options]\nseed = 4\n{FLOAT_PROFILE}")
    options = Options(target="host", profile=str(profile))
    here, beside = Path("compress.toml"), model.parent / "compress.toml"
    write(here, "seed = 2")
    write(beside, "seed = 3")

    assert make_plan(model, Options(target="host", profile=str(profile), seed=0)).seed == 0, "0 is said, too"
    assert make_plan(model, options).seed == 2
    here.unlink()
    assert make_plan(model, options).seed == 3
    beside.unlink()
    assert make_plan(model, options).seed == 4
    assert make_plan(model, Options(target="host")).seed == 0


def test_each_option_is_taken_from_the_first_that_says_it(model: Path) -> None:
    write(Path("compress.toml"), 'normalize = "unit"\nmax_drop = 1')
    write(model.parent / "compress.toml", f'target = "host"\ndata = "{DIGITS}"\nnormalize = "raw"\ninput = "1x8x8"')
    plan = make_plan(model, Options(budget=("bytes=1k",)))
    assert (plan.target.name, plan.options.normalize, plan.input) == ("host", "unit", (GivenInput.parse("1x8x8"),))
    assert plan.max_drop == 1.0
    assert [b.text for b in plan.budgets] == ["bytes=1k"]


def test_the_models_own_folder_may_be_the_working_directory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    write(model.parent / "compress.toml", 'target = "host"\nseed = 9')
    assert make_plan(Path("model.pt"), Options()).seed == 9


def test_paths_of_a_compress_toml_start_at_its_own_folder(model: Path) -> None:
    beside = model.parent
    write(beside / "board.toml", NULL_TARGET)
    write(beside / "recipe.toml", FLOAT_PROFILE)
    write(beside / "compress.toml", 'target = "board.toml"\nprofile = "recipe.toml"\ndata = "images"')
    assert "no such data: 'images'" in refused(lambda: make_plan(model, Options()))
    plan = make_plan(model, Options(data=DIGITS))
    assert (plan.target.name, plan.profile.name) == ("board", "recipe")


def test_a_folder_named_like_a_target_does_not_hide_it(model: Path) -> None:
    (model.parent / "host").mkdir()
    (model.parent / "float").mkdir()
    write(model.parent / "compress.toml", 'target = "host"\nprofile = "float"')
    plan = make_plan(model, Options())
    assert (plan.target.name, plan.profile.name) == ("host", "float")


def test_a_plan_as_it_ran_is_deaf_to_compress_toml(model: Path) -> None:
    write(model.parent / "compress.toml", 'seed = 3\nset = ["measure.blocks=5"]\ntarget = "raspberry-pi-5"')
    text = f'resolved = true\n[options]\nseed = 4\ntarget = "host"\n{FLOAT_PROFILE}'
    plan = make_plan(model, Options(profile=str(write(Path("resolved.toml"), text))))
    assert (plan.seed, plan.target.name) == (4, "host")
    assert pass_of(plan, "measure").blocks != 5
    assert make_plan(model, Options(profile="resolved.toml", seed=7)).seed == 7, "flags still count"


# -- the default profile ----------------------------------------------------------------------


def test_without_data_the_profile_is_float(model: Path) -> None:
    plan = make_plan(model, Options(target="host"))
    assert plan.profile.name == "float"
    assert plan.source is None


@pytest.mark.parametrize("where", ["flag", "file"])
def test_with_data_the_profile_quantises(where: str, model: Path) -> None:
    if where == "file":
        write(Path("compress.toml"), f'data = "{DIGITS}"')
    plan = make_plan(model, Options(target="host", data=DIGITS if where == "flag" else None))
    assert plan.profile.name == "balanced"
    assert "quantize" in [each.kind for each in plan.passes]


def test_the_resolved_passes_are_spelled_out(model: Path) -> None:
    plan = make_plan(model, Options(target="host", data=DIGITS, profile="ptq"))
    assert [spec.kind for spec in plan.profile.passes] == ["lower", "quantize", "build", "measure", "verify"]
    quantize = plan.profile.passes[1].settings
    assert quantize["samples"] == pass_of(plan, "quantize").samples


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message", "near"),
    [
        (Options(target="hots"), "unknown target: 'hots'", "'host'"),
        (Options(target="raspberrypi-5"), "unknown target: 'raspberrypi-5'", "'raspberry-pi-5'"),
        (Options(target="host", profile="flaot"), "unknown profile: 'flaot'", "'float'"),
        (Options(target="host", device="cdua"), "unknown device: 'cdua'", "'cuda'"),
        (Options(target="host", budget=("latancy=5ms",)), "unknown budget: 'latancy'", "'latency'"),
        (Options(target="host", set=("mesure.blocks=5",)), "unknown pass of this profile: 'mesure'", "'measure'"),
        (Options(target="host", set=("measure.block=5",)), "'block'", "'blocks'"),
        (Options(target="host", set=("lower.precision=fp23",)), "'fp23'", "'fp32'"),
    ],
)
def test_an_unknown_name_gets_the_nearest(flags: Options, message: str, near: str, model: Path) -> None:
    said = refused(lambda: make_plan(model, flags))
    assert message in said
    assert f"did you mean {near}?" in said


def test_without_a_target_the_targets_are_listed(model: Path) -> None:
    said = refused(lambda: make_plan(model, Options()))
    assert "host" in said
    assert "raspberry-pi-5" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tarmac = 1", "unknown setting"),
        ("targe = 'host'", "did you mean 'target'?"),
        ("seed = 'one'", "seed"),
        ("seed = 1.5", "seed"),
        ("seed = true", "seed"),
        ("max_drop = '1'", "max_drop"),
        ("budget = 'bytes=1k'", "budget"),
        ("data = [1]", "data"),
        ("seed = ", "not valid TOML"),
    ],
)
@pytest.mark.parametrize("where", ["here", "beside"])
def test_a_broken_compress_toml_is_named(text: str, message: str, where: str, model: Path) -> None:
    file = write((Path() if where == "here" else model.parent) / "compress.toml", text)
    said = refused(lambda: make_plan(model, Options(target="host")))
    assert message in said
    assert str(file) in said


@pytest.mark.parametrize("seed", [-1])
def test_a_seed_of_a_file_is_as_limited_as_the_flags(seed: int, model: Path) -> None:
    write(Path("compress.toml"), f"seed = {seed}")
    assert "seed" in refused(lambda: make_plan(model, Options(target="host")))


def test_options_of_a_profile_are_checked_alike(model: Path) -> None:
    own = write(Path("mine.toml"), f"[options]\ntargte = 'host'\n{FLOAT_PROFILE}")
    said = refused(lambda: make_plan(model, Options(target="host", profile=str(own))))
    assert "did you mean 'target'?" in said


# -- --set ------------------------------------------------------------------------------------


def test_settings_are_typed_as_toml(model: Path) -> None:
    settings = ("measure.blocks=7", "measure.seconds=2", "quantize.range=mean-minmax", "lower.precision='fp32'")
    plan = make_plan(model, Options(target="host", data=DIGITS, profile="ptq", set=settings))
    assert pass_of(plan, "measure").blocks == 7
    assert pass_of(plan, "measure").seconds == 2.0
    assert pass_of(plan, "quantize").range == "mean-minmax"
    assert pass_of(plan, "lower").precision == "fp32"


def test_the_last_of_two_settings_counts(model: Path) -> None:
    plan = make_plan(model, Options(target="host", set=("measure.blocks=7", "measure.blocks=8")))
    assert pass_of(plan, "measure").blocks == 8


@pytest.mark.parametrize("text", ["measure", "measure=5", "measure.=5", ".blocks=5", "measure.blocks", "=", "", "."])
def test_what_is_no_setting_is_refused(text: str, model: Path) -> None:
    said = refused(lambda: make_plan(model, Options(target="host", set=(text,))))
    assert "--set pass.field=value" in said or "unknown pass" in said


@pytest.mark.parametrize("value", ["many", "1.5", "true", "'5'", "[5]", "", "{a = 1}", "2020-01-01"])
def test_a_value_of_another_kind_is_refused(value: str, model: Path) -> None:
    said = refused(lambda: make_plan(model, Options(target="host", set=(f"measure.blocks={value}",))))
    assert "blocks" in said
    assert "int" in said


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_refused(value: str, model: Path) -> None:
    flags = Options(target="host", data=DIGITS, profile="ptq", set=(f"verify.drift_db={value}",))
    assert "drift_db" in refused(lambda: make_plan(model, flags))


@pytest.mark.parametrize(
    "setting", ["measure.blocks=0", "measure.seconds=0", "quantize.samples=0", "verify.golden=0", "verify.samples=1"]
)
def test_a_setting_out_of_range_is_refused(setting: str, model: Path) -> None:
    flags = Options(target="host", data=DIGITS, profile="ptq", set=(setting,))
    assert setting.partition(".")[0] in refused(lambda: make_plan(model, flags))


# -- checks before work -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "message", "giver"),
    [
        (["quantize", "lower", "build", "measure", "verify"], "pass 1 (quantize) needs onnx", "lower"),
        (["lower", "measure", "build", "verify"], "pass 2 (measure) needs engine", "build"),
        (["build"], "pass 1 (build) needs onnx", "lower"),
        (["lower", "build", "verify"], "pass 3 (verify) needs measurements", "measure"),
    ],
)
def test_a_pass_before_what_it_needs_is_refused(order: list[str], message: str, giver: str, model: Path) -> None:
    own = write(Path("mine.toml"), "".join(f'[[pass]]\nkind = "{kind}"\n' for kind in order))
    said = refused(lambda: make_plan(model, Options(target="host", profile=str(own), data=DIGITS)))
    assert message in said
    assert giver in said.partition("|")[2]


def test_an_unknown_pass_gets_the_nearest(model: Path) -> None:
    own = write(Path("mine.toml"), '[[pass]]\nkind = "quantise"\n')
    said = refused(lambda: make_plan(model, Options(target="host", profile=str(own))))
    assert "unknown pass: 'quantise'" in said
    assert "'quantize'" in said


def test_int8_for_a_target_without_it_is_refused(model: Path) -> None:
    own = write(Path("board.toml"), NULL_TARGET)
    said = refused(lambda: make_plan(model, Options(target=str(own), profile="ptq", data=DIGITS)))
    assert "target board does not run int8" in said
    assert "float" in said


def test_fp16_for_a_target_without_it_is_refused(model: Path) -> None:
    said = refused(lambda: make_plan(model, Options(target="host", set=("lower.precision=fp16",))))
    assert "does not run fp16" in said


def test_quantising_without_data_is_refused(model: Path) -> None:
    said = refused(lambda: make_plan(model, Options(target="host", profile="ptq")))
    assert "no training data" in said


def test_max_drop_without_data_is_refused(model: Path) -> None:
    assert "--max-drop" in refused(lambda: make_plan(model, Options(target="host", max_drop=1.0)))


@pytest.mark.parametrize("drop", [float("nan"), float("inf")])
def test_a_max_drop_that_means_nothing_is_refused(drop: float, model: Path) -> None:
    assert "max-drop" in refused(lambda: make_plan(model, Options(target="host", data=DIGITS, max_drop=drop)))


@pytest.mark.parametrize("flag", [{"input": "3x224"}, {"input": "0x1x1"}, {"input": "axbxc"}, {"budget": ("latency",)}])
def test_what_cannot_be_read_is_refused(flag: dict[str, Any], model: Path) -> None:
    refused(lambda: make_plan(model, Options(target="host", **flag)))


def test_no_model_and_a_directory(model: Path) -> None:
    assert "there is no file" in refused(lambda: make_plan(Path("none.pt"), Options(target="host")))
    assert "is a directory" in refused(lambda: make_plan(model.parent, Options(target="host")))


# -- targets ----------------------------------------------------------------------------------


def test_a_users_own_target_and_profile_by_path(model: Path) -> None:
    target, profile = write(Path("board.toml"), NULL_TARGET), write(Path("recipe.toml"), FLOAT_PROFILE)
    plan = make_plan(model, Options(target=str(target), profile=str(profile)))
    assert (plan.target.name, plan.target.backend, plan.profile.name) == ("board", "null", "recipe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('builds = "here"', 'builds = "somewhere"'), "somewhere"),
        (('["fp32"]', '["fp64"]'), "fp64"),
        (('backend = "null"', ""), "lacks 'backend'"),
        (('backend = "null"', 'backend = "nul"'), "did you mean 'null'?"),
        (("opset = 21", "opsett = 21"), "did you mean 'opset'?"),
        (("opset = 21", 'opset = 21\nruntime = { onnx = "banana" }'), "banana"),
    ],
)
def test_a_broken_target_is_refused(change: tuple[str, str], message: str, model: Path) -> None:
    own = write(Path("board.toml"), NULL_TARGET.replace(*change))
    assert message in refused(lambda: make_plan(model, Options(target=str(own))))


def cpu(*features: str, arch: str = "x86_64") -> Machine:
    return Machine(arch, None, "a CPU", features, 1, 1024, None, (0.0, 0.0, 0.0), "Linux", "3.11")


@pytest.mark.parametrize(
    ("here", "saturates"),
    [
        (cpu("avx2"), True),
        (cpu("avx2", "avx512_vnni"), False),
        (cpu("avx2", "avx_vnni"), False),
        (cpu("asimddp", arch="aarch64"), False),
    ],
)
def test_host_takes_on_this_cpus_quirk(
    here: Machine, saturates: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "machine", lambda: here)
    plan = make_plan(model, Options(target="host"))
    assert ("u8s8-saturates" in plan.target.quirks) is saturates


def test_a_named_cpu_keeps_its_own_quirks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "machine", lambda: cpu("avx2"))
    assert make_plan(model, Options(target="x86-vnni")).target.quirks == ()


def test_a_missing_runtime_is_unavailable_before_any_work(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: OnnxRuntime) -> str:
        raise Unavailable("ONNX Runtime is not installed", hint="pip install onnxruntime")

    monkeypatch.setattr(OnnxRuntime, "version", absent)
    assert "pip install" in refused(lambda: make_plan(model, Options(target="host")), Unavailable)
    assert make_plan(model, Options(target="raspberry-pi-5")).target.builds == "on-device", "needs none here"


@pytest.mark.parametrize("runtime", ['onnx = ">=99"', 'no-such-package-as-this = ">=1"'])
def test_another_runtime_than_the_target_takes_is_unavailable(runtime: str, model: Path) -> None:
    own = write(Path("board.toml"), f"{NULL_TARGET}\nruntime = {{ {runtime} }}")
    assert "pip install" in refused(lambda: make_plan(model, Options(target=str(own))), Unavailable)


def test_a_plan_writes_nothing(model: Path) -> None:
    before = sorted(str(p) for p in model.parent.parent.rglob("*"))
    make_plan(model, Options(target="host", data=DIGITS))
    assert sorted(str(p) for p in model.parent.parent.rglob("*")) == before
    assert list(Path().iterdir()) == []
