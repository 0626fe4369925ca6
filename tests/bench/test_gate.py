"""A gate's verdicts, its exit codes one by one, and what it tells CI systems."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import xmlschema
from onnx import TensorProto, helper, numpy_helper
from places import ROOT

from compressor.bench import device as device_module
from compressor.bench.cache import ResultCache
from compressor.bench.device import TimingRun
from compressor.bench.gate import Limits, judge
from compressor.bench.statistics import detectable, enough, quantile
from compressor.bench.timing import Blocks, TimingConfig
from compressor.bundle import EngineEntry, ImageInput, Manifest, write_bundle
from compressor.core import UsageError
from compressor.machine import probe
from compressor.onnx_signature import onnx_signature
from compressor.report.github import annotate
from compressor.report.junit import junit
from compressor.report.markdown import markdown

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))
STATE = {
    "power_mode": "MAXN", "governors": ["performance"], "limits_mhz": [[1, 2]], "gpu_limits_mhz": [], "driver": None,
    "runtime": "onnxruntime 1", "load": [0.5, 0.5, 0.5], "temperatures": {}, "throttle_events": 0,
    "throttled_now": None,
}  # fmt: skip


def samples(scale: float, noise: float, seed: int, blocks: int = 15, inferences: int = 20) -> Blocks:
    drawn = scale * np.random.default_rng(seed).lognormal(0, noise, (blocks, inferences))
    return tuple(map(tuple, drawn.tolist()))


def timed(ratio: float, noise: float = 0.01, after: Any = STATE, **more: Any) -> TimingRun:
    both = {"baseline": samples(1.0, noise, 0, **more), "candidate": samples(ratio, noise, 1, **more)}
    return TimingRun(both, 1, (0,), "onnxruntime 1", STATE, after)


# -- verdicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [(1.0, 0.01, "pass"), (0.8, 0.5, "pass"), (1.03, 0.01, "pass"), (1.1, 0.01, "fail"), (1.05, 0.2, "inconclusive")],
)
def test_a_regression_has_three_verdicts(ratio: float, noise: float, verdict: str) -> None:
    (check,) = judge(timed(ratio, noise), Limits(regression=0.05))
    assert (check.name, check.verdict) == ("regression", verdict)
    assert check.low is not None
    assert check.high is not None
    assert (check.high <= 1.05) == (verdict == "pass")
    assert (check.low > 1.05) == (verdict == "fail")


@pytest.mark.parametrize(("share", "verdict"), [(2.0, "pass"), (0.5, "fail"), (1.0, "inconclusive")])
def test_a_percentile_has_three_verdicts(share: float, verdict: str) -> None:
    seen = timed(1.0, 0.1)
    limit = share * quantile(seen.blocks["candidate"], 90).value
    (check,) = judge(seen, Limits(latency_ms=limit, percentile=90))
    assert (check.name, check.verdict) == ("latency p90", verdict)


def test_too_few_samples_tell_nothing_of_a_percentile() -> None:
    (check,) = judge(timed(1.0, blocks=5, inferences=8), Limits(latency_ms=100.0, percentile=99))
    assert check.verdict == "inconclusive"
    assert "too few samples" in check.why


def test_what_the_device_changed_into_is_invalid_not_a_failure() -> None:
    for change in ({"power_mode": "15W"}, {"governors": ["powersave"]}, {"driver": "2"}, {"runtime": "other"}):
        checks = judge(timed(2.0, after={**STATE, **change}), Limits(latency_ms=1.0, regression=0.05))
        assert [check.verdict for check in checks] == ["invalid", "invalid"]
        assert next(iter(change)).replace("_", " ") in checks[0].why
    warm = {"temperatures": {"0 cpu": 80.0}, "load": [9.0, 9.0, 9.0], "throttle_events": 3}
    hot = timed(1.0, after={**STATE, **warm})
    assert judge(hot, Limits(regression=0.05))[0].verdict == "pass"
    assert hot.throttled


def test_pooled_samples_are_judged_together() -> None:
    first, more = timed(1.0), timed(1.0, blocks=30)
    both = first.pooled(more)
    assert len(both.blocks["candidate"]) == 45
    assert both.blocks["candidate"][:15] == first.blocks["candidate"]


# -- figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("percentile", "fewest"), [(90, 44), (99, 459), (50, 7)])
def test_the_fewest_samples_of_a_percentile(percentile: float, fewest: int) -> None:
    assert enough(percentile) == fewest
    just = (tuple(float(i) for i in range(fewest)),)
    assert quantile(just, percentile).high == fewest - 1
    assert quantile((just[0][:-1],), percentile).high is None


def test_binomial_bounds_hold_what_they_promise() -> None:
    """Of 500 draws of 300 samples the true p90 lies under the low bound, or over the high one, in 1 % each."""
    rng = np.random.default_rng(5)
    truth, beyond = 0.9, [0, 0]
    for _ in range(500):
        found = quantile((tuple(rng.random(300).tolist()),), 90)
        assert found.low is not None
        assert found.high is not None
        beyond[0] += found.low > truth
        beyond[1] += found.high < truth
    assert max(beyond) <= 11  # 5 expected at most; 11 is 2.7 deviations more


def test_the_bounds_are_scipys() -> None:
    from scipy.stats import binom

    for n, q in ((44, 0.9), (300, 0.9), (930, 0.99), (4500, 0.5)):
        found = quantile((tuple(float(i + 1) for i in range(n)),), 100 * q)
        assert (found.low, found.high) == (binom.ppf(0.01, n, q), binom.ppf(0.99, n, q) + 1)


def test_the_smallest_change_that_can_be_told() -> None:
    assert detectable(0.05, 15) == pytest.approx(np.expm1(3.67 * 0.05 / np.sqrt(15)))


def test_the_cache_finds_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ResultCache(tmp_path / "cache")
    assert cache.find("things", {"a": 1}) is None
    cache.put("things", {"a": 1}, [1.5])
    assert cache.find("things", {"a": 1})["value"] == [1.5]
    assert cache.find("things", {"a": 2}) is None
    assert cache.find("others", {"a": 1}) is None
    for path in (tmp_path / "cache" / "things").iterdir():
        path.write_text("{broken")
    assert cache.find("things", {"a": 1}) is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert ResultCache.of_user().folder == Path.home() / ".cache" / "compressor"
    ResultCache(Path("/dev/null/nowhere")).put("things", 1, 2)  # what cannot be kept is no failure


# -- the command ------------------------------------------------------------------------------


def _model(seed: int) -> tuple[bytes, np.ndarray]:
    weights = np.random.default_rng(seed).standard_normal((12, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    ).SerializeToString()
    return data, weights


def make_bundle(folder: Path, top1: float, fingerprint: str = "abc", target: str = "host", seed: int = 0) -> Path:
    data, weights = _model(seed)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(data)
    batch = np.random.default_rng(1).standard_normal((2, 3, 2, 2)).astype(np.float32)
    metric = {"name": "top1", "value": top1, "samples": 100, "fingerprint": fingerprint, "source": "test", "unit": "%"}
    manifest = Manifest(
        task={"kind": "classification", "classes": []},
        target=target,
        precision={"realised": "fp32"},
        opset=21,
        signature=onnx_signature(onnx.load_from_string(data)),
        sizes={"batch": 1},
        engine=EngineEntry("ready", "onnxruntime", "model.onnx"),
        image=ImageInput("input", (0.0, 1.0), (0.0,) * 3, (1.0,) * 3),
        evaluation={"fingerprint": fingerprint, "metric": metric},
    )
    outputs = {"output": batch.reshape(2, -1) @ weights}
    return write_bundle(
        folder / "bundle", folder / "model.onnx", manifest, {"input": batch}, outputs, {"output": 1e-3}
    ).path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    here = tmp_path_factory.mktemp("pair")
    return make_bundle(here / "candidate", 0.90), make_bundle(here / "baseline", 0.91, seed=1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Latencies and states as a test says."""

    class Device:
        def __init__(self) -> None:
            self.ratio, self.noise = 1.0, 0.01
            self.quiet_after = 0
            self.states: list[Any] = [STATE]
            self.calls: list[TimingConfig] = []

        def take(self, runners: Any, config: TimingConfig, *, progress: Any) -> dict[str, Blocks]:
            """Blocks that are as far over as under what the ratio says, by up to the noise."""
            noise = self.noise if not self.quiet_after or len(self.calls) < self.quiet_after else 0.0
            self.calls.append(config)
            moved = np.exp(np.linspace(-noise, noise, config.blocks))
            scales = {"candidate": self.ratio * moved, "b": moved}
            every = {name: scales.get(name, np.ones(config.blocks)) for name in runners}
            return {name: tuple((float(each),) * config.inferences for each in of) for name, of in every.items()}

        def state(self, root: Path = Path("/")) -> Any:
            return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    device = Device()
    monkeypatch.setattr(device_module, "interleave", device.take)
    asked = {name: getattr(probe, name) for name in ("facts", "changed", "throttled")}
    monkeypatch.setattr(device_module, "probe", SimpleNamespace(state=device.state, **asked))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return device


def test_exit_0_where_every_limit_is_kept(pair: Any, device: Any, compress: Any) -> None:
    limits = ("--max-regression", "5%", "--max-latency", "5ms", "--max-drop", "1.5", "--max-bytes", "1k")
    done = compress("gate", pair[0], "--against", pair[1], *limits, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert (document["verdict"], document["exit"]) == ("pass", 0)
    assert [check["name"] for check in document["checks"]] == ["latency p90", "regression", "bytes", "drop"]
    assert len(device.calls) == 1


@pytest.mark.parametrize(
    ("flags", "ratio"),
    [
        (("--max-regression", "5%"), 1.2),
        (("--max-latency", "0.5ms", "--percentile", "50"), 1.0),
        (("--max-drop", "0.5"), 1.0),
        (("--max-bytes", "100"), 1.0),
    ],
)
def test_exit_3_where_one_is_missed(pair: Any, device: Any, compress: Any, flags: Any, ratio: float) -> None:
    device.ratio = ratio
    done = compress("gate", pair[0], "--against", pair[1], *flags)
    assert done.code == 3, done.err
    assert "FAIL in" in done.out
    assert "error: " in done.err


def test_exit_4_where_it_cannot_be_told_after_one_extension(pair: Any, device: Any, compress: Any) -> None:
    device.ratio, device.noise = 1.05, 0.3
    done = compress("gate", pair[0], "--against", pair[1], "--max-regression", "5%", "--json")
    assert done.code == 4
    document = json.loads(done.out)
    assert (document["verdict"], document["extended"]) == ("inconclusive", True)
    # The gate's own 15 blocks, the one extension, and the A/A run that says what the device could tell.
    assert [call.blocks for call in device.calls] == [15, 30, 15]
    assert len(document["samples_ms"]["candidate"]) == 45
    assert "this device resolves a change of" in document["checks"][0]["why"]
    assert document["self_test"]["when"] is None
    again = json.loads(compress("gate", pair[0], "--against", pair[1], "--max-regression", "5%", "--json").out)
    assert again["self_test"]["when"] is not None  # kept
    assert len(device.calls) == 5


def test_an_extension_may_tell(pair: Any, device: Any, compress: Any) -> None:
    device.noise, device.quiet_after = 0.3, 1
    done = compress("gate", pair[0], "--against", pair[1], "--max-regression", "5%", "--json")
    document = json.loads(done.out)
    assert (done.code, document["verdict"], document["extended"]) == (0, "pass", True)
    assert [call.blocks for call in device.calls] == [15, 30]


def test_exit_4_where_the_device_changed(pair: Any, device: Any, compress: Any) -> None:
    device.ratio = 2.0
    device.states = [STATE, STATE, {**STATE, "power_mode": "15W"}]
    done = compress("gate", pair[0], "--against", pair[1], "--max-regression", "5%")
    assert done.code == 4
    assert "power mode was MAXN, then 15W" in done.err
    assert len(device.calls) == 1  # no extension makes that good
    device.states = [STATE, STATE, {**STATE, "power_mode": "15W"}]
    missed = compress("gate", pair[0], "--against", pair[1], "--max-regression", "5%", "--max-bytes", "10")
    assert missed.code == 3  # what has nothing to do with the device is missed all the same


def test_exit_5_where_the_target_is_not_at_hand(tmp_path: Path, device: Any, compress: Any) -> None:
    elsewhere = make_bundle(tmp_path / "pi", 0.9, target="raspberry-pi-5")
    done = compress("gate", elsewhere, "--max-latency", "5ms")
    assert done.code == 5
    assert "A gate takes no estimate" in done.err
    assert compress("gate", elsewhere, "--max-bytes", "1k").code == 0  # a size is the same everywhere


def test_exit_6_where_a_bundle_was_changed(pair: Any, device: Any, compress: Any, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(pair[0], tmp_path / "broken"))
    (broken / "run.py").write_text("print('ours')")
    assert compress("gate", broken, "--max-latency", "5ms").code == 6


def test_exit_7_where_a_file_is_hostile(device: Any, compress: Any, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(
        [helper.make_node("Call", ["x"], ["y"], domain="evil")],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("evil", 1)]
    (tmp_path / "x.onnx").write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    assert compress("gate", tmp_path / "x.onnx", "--max-latency", "5ms").code == 7


@pytest.mark.parametrize(
    "flags",
    [
        (), ("--percentile", "90"), ("--max-latency", "25%"), ("--max-latency", "5"), ("--max-regression", "5"),
        ("--max-regression", "-5%"), ("--max-regression", "much%"), ("--max-bytes", "5ms"), ("--max-drop", "nan"),
        ("--max-latency", "5ms", "--percentile", "100"), ("--max-latency", "5ms", "--threads", "0"),
        ("--max-latency", "5ms", "--fresh"), ("--max-latency", "5ms", "--board", "pi5"),
        ("--max-bytes", "1k", "--eval", "builtin:digits"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_exit_2_for_flags_that_make_no_gate(pair: Any, compress: Any, flags: Any) -> None:
    done = compress("gate", pair[0], *flags)
    assert done.code == 2, done.out
    assert "hint: " in done.err


def test_exit_2_where_there_is_nothing_to_compare_with(pair: Any, compress: Any, tmp_path: Path) -> None:
    for flags in (("--max-regression", "5%"), ("--max-drop", "1")):
        assert "compares with a baseline" in compress("gate", pair[0], *flags).err
    other = make_bundle(tmp_path / "other", 0.9, fingerprint="def")
    done = compress("gate", pair[0], "--against", other, "--max-drop", "1")
    assert (done.code, "judged on different samples" in done.err) == (2, True)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(_model(3)[0])
    done = compress("gate", pair[0], "--against", alone, "--max-drop", "1")
    assert (done.code, "does not say how accurate it is" in done.err) == (2, True)
    assert compress("gate", tmp_path / "none", "--max-bytes", "1k").code == 2
    assert compress("gate", tmp_path / "none.onnx", "--max-bytes", "1k").code == 2


def test_accuracy_on_samples_that_are_named(tmp_path: Path, device: Any, compress: Any, pair: Any) -> None:
    """By the bundle's own preparation, which an ONNX file beside it shares."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(60, 2, 2, 3), dtype=np.uint8)
    _, weights = _model(0)
    right = (images.transpose(0, 3, 1, 2).reshape(60, -1) / 255 @ weights).argmax(1)
    np.savez(tmp_path / "eval.npz", x=images, y=right)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(_model(0)[0])
    data = ("--eval", str(tmp_path / "eval.npz"), "--json")
    done = compress("gate", pair[0], "--against", alone, "--max-drop", "0", *data)
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert metrics["candidate"]["value"] == metrics["baseline"]["value"] == 1.0
    worse = compress("gate", pair[1], "--against", pair[0], "--max-drop", "1", *data)
    assert worse.code == 3


def test_bench_prints_figures_and_json(pair: Any, device: Any, compress: Any) -> None:
    device.ratio = 0.5
    done = compress("bench", pair[0], "--against", pair[1])
    assert done.code == 0, done.err
    assert "x as fast as the baseline" in done.out
    assert "A/A: " in done.out
    document = json.loads(compress("bench", pair[0], "--json").out)
    assert document["speedup"] is None
    assert document["models"]["candidate"]["latency_ms"]["samples"] == 480
    assert document["models"]["candidate"]["latency_ms"]["p99"] is not None


# -- what CI systems are told -----------------------------------------------------------------


@pytest.fixture
def documents(pair: Any, device: Any, compress: Callable[..., Any]) -> list[Any]:
    """One of every verdict."""
    found = []
    for ratio, noise, states in ((1.0, 0.01, [STATE]), (2.0, 0.01, [STATE]), (1.05, 0.3, [STATE]),
                                 (1.0, 0.01, [STATE, STATE, {**STATE, "driver": "new"}])):  # fmt: skip
        device.ratio, device.noise, device.states = ratio, noise, list(states)
        limits = ("--max-regression", "5%", "--max-bytes", "1k", "--json")
        found.append(json.loads(compress("gate", pair[0], "--against", pair[1], *limits).out))
    assert [each["verdict"] for each in found] == ["pass", "fail", "inconclusive", "invalid"]
    return found


def test_junit_keeps_to_its_schema(documents: list[Any]) -> None:
    counts = []
    for document in documents:
        text = junit(document, "a host")
        SCHEMA.validate(text)
        suite = ElementTree.fromstring(text)[0]
        counts.append((suite.get("tests"), suite.get("failures"), suite.get("errors")))
        assert len(suite.findall("testcase")) == 2
    assert counts == [("2", "0", "0"), ("2", "1", "0"), ("2", "0", "1"), ("2", "0", "1")]


def test_names_that_xml_and_markdown_cannot_hold(documents: list[Any]) -> None:
    document = documents[1]
    document["models"]["candidate"]["path"] = 'a <b> & "c" | `d` \x1b[31m\udcff'
    document["checks"][0]["why"] = "x < y & z | \x07"
    SCHEMA.validate(junit(document, ""))
    text = markdown(document)
    assert "<b>" not in text
    assert "\x1b" not in text
    assert all(line.count("|") - line.count("\\|") in (4, 6) for line in text.splitlines() if line.startswith("|"))


def test_annotations_have_the_documented_form(documents: list[Any]) -> None:
    levels = [annotate(document)[0].split(" ", 1)[0] for document in documents]
    assert levels == ["::notice", "::error", "::warning", "::warning"]
    document = documents[1]
    document["checks"][0] |= {"name": "a:b,c%", "why": "50 %\r\nmore"}
    assert annotate(document)[0] == "::error title=compress gate%3A a%3Ab%2Cc%25::50 %25%0D%0Amore"


def test_files_and_the_step_summary(
    pair: Any, device: Any, compress: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    views = ("--junit", tmp_path / "new" / "j.xml", "--markdown", tmp_path / "m.md", "--github")
    done = compress("gate", pair[0], "--max-bytes", "1k", *views, "--json")
    assert done.code == 0, done.err
    json.loads(done.out)  # one document
    assert "::notice title=compress gate%3A bytes::" in done.err
    SCHEMA.validate((tmp_path / "new" / "j.xml").read_text())
    assert summary.read_text() == "before\n" + (tmp_path / "m.md").read_text() + "\n"
    assert compress("gate", pair[0], "--max-bytes", "1k", "--junit", "/proc/none/j.xml").code == 2


def test_the_action_runs_the_gate(pair: Any, tmp_path: Path) -> None:
    import sys

    output = tmp_path / "output"
    inputs = {
        "GATE_PYTHON": sys.executable, "GATE_PATH": str(pair[0]), "GATE_MAX_BYTES": "10", "GITHUB_OUTPUT": str(output),
        "RUNNER_TEMP": str(tmp_path), "GATE_JUNIT": str(tmp_path / "j.xml"), "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run([ROOT / ".ci" / "gate"], env=inputs, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "::error title=compress gate%3A bytes::" in done.stderr
    assert output.read_text() == f"verdict=fail\nreport={tmp_path}/gate.json\n"
    SCHEMA.validate((tmp_path / "j.xml").read_text())


def test_every_input_of_the_action_reaches_the_script() -> None:
    action, script = (ROOT / "action.yml").read_text(), (ROOT / ".ci" / "gate").read_text()
    named = [line.split("inputs.")[1].rstrip(" }") for line in action.splitlines() if "${{ inputs." in line]
    declared = action.partition("inputs:\n")[2].partition("\noutputs:")[0]
    assert sorted(named) == sorted(
        line[2:-1] for line in declared.splitlines() if line.startswith("  ") and line[2] != " " and line.endswith(":")
    )
    assert "${{" not in action.partition("run:")[2].partition("env:")[0]  # no input is a part of a script
    for name in named:
        assert name.upper().replace("-", "_") in script


def test_limits_are_read() -> None:
    limits = Limits.parse("5ms", 99, "2.5%", 1.0, "1MB")
    assert limits == Limits(5.0, 99, 0.025, 1.0, 1e6)
    with pytest.raises(UsageError):
        Limits.parse(None, None, None, None, None)
