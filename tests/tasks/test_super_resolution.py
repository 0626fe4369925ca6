"""Super-resolution as a task: pairs, protocol, parts of images, losses, patches, integers, and `compress upscale`."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sessions import FunctionSession

from compressor import catalog
from compressor.bundle.runner import Model as Runner
from compressor.bundle.runner import cropped
from compressor.core import InputSpec, Model, PlanContext, TorchSource, UsageError, image_signature
from compressor.data import ImagePairs, PhotographSource, load_data
from compressor.frontend import save_weights
from compressor.losses import Outputs, objective
from compressor.losses.target_l1 import TargetL1
from compressor.lowering.export import export
from compressor.models.common.headed import settings
from compressor.models.common.imdb import IMDB, SLOPE
from compressor.models.imdn import IMDN
from compressor.plan import with_machine_quirks
from compressor.preprocessing import NORMALIZATIONS
from compressor.quant.cross_layer_equalization import equalize_channels
from compressor.quant.fake_quant import FakeQuantised
from compressor.quant.float_layers import attention_nodes, float_candidates
from compressor.quant.mixed_precision import MixedPrecision
from compressor.quant.psnr import psnr as image_psnr
from compressor.tasks.classification import Classification
from compressor.tasks.super_resolution import SuperResolution, psnr, ssim
from compressor.train.distill_config import DistillConfig
from compressor.train.optimizer_config import OptimizerConfig
from compressor.train.patches import Patches

UNIT = NORMALIZATIONS["unit"]
PATCH = InputSpec(3, 16, 16)
TINY = IMDN(8, 2, 2, True, 2)


def photograph(seed: int, width: int = 48, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Smooth, so that what is enlarged resembles it."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def folder(root: Path, count: int = 5, **said: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        photograph(seed, **said).save(root / f"{seed}.png")
    return root


def prepared(source: PhotographSource | Any, scale: int = 2) -> ImagePairs:
    assert isinstance(source, PhotographSource)
    return source.prepare(PATCH, UNIT, "input", scale).evaluate


# -- data -------------------------------------------------------------------------------------


def test_pairs_are_made_of_a_folder_of_images(tmp_path: Path) -> None:
    source = load_data(str(folder(tmp_path / "photos", 5, width=49, height=41)))
    assert isinstance(source, PhotographSource)
    assert source.targets == "images"
    assert source.train is not None
    assert (len(source.train), len(source.evaluate)) == (4, 1)
    assert not set(source.train.rows.tolist()) & set(source.evaluate.rows.tolist())
    split = prepared(source, 3)
    ((name, small, large),) = split.pairs()
    assert (small.shape, large.shape) == ((3, 13, 16), (3, 39, 48))
    image = Image.open(tmp_path / "photos" / name).crop((0, 0, 48, 39))
    wanted = np.asarray(image.resize((16, 13), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(small, wanted)
    assert [feeds["input"].shape for feeds, _ in split.batches(4)] == [(1, 3, 16, 16)]  # mirrored where it is smaller
    assert split.fingerprint != prepared(source, 2).fingerprint


def given_pairs(root: Path) -> Path:
    for name in ("HR", "LR_x2", "LR_x4"):
        (root / name).mkdir(parents=True)
    for seed in range(2):
        image = photograph(seed, 49, 41)
        image.save(root / "HR" / f"{seed}.png")
        for scale in (2, 4):
            image.resize((48 // scale, 40 // scale)).save(root / f"LR_x{scale}" / f"{seed}.png")
    return root


def test_given_pairs_are_taken_as_they_are(tmp_path: Path) -> None:
    source = load_data(None, evaluate=str(given_pairs(tmp_path / "set")))
    for scale in (2, 4):
        for _, small, large in prepared(source, scale).pairs():
            assert (small.shape, large.shape) == ((3, 40 // scale, 48 // scale), (3, 40, 48))
    with pytest.raises(UsageError, match="pairs for x2, x4, the model enlarges x3") as caught:
        prepared(source, 3)
    assert "LR_x3" in str(caught.value.hint)


def test_pairs_that_are_none(tmp_path: Path) -> None:
    root = given_pairs(tmp_path / "set")
    photograph(0, 20, 20).save(root / "LR_x2/1.png")
    with pytest.raises(UsageError, match=r"1\.png.*not one image, 2 times smaller"):
        list(prepared(load_data(None, evaluate=str(root)), 2).pairs())
    (root / "LR_x2/1.png").unlink()
    with pytest.raises(UsageError, match=r"not the same file names: 1\.png"):
        load_data(None, evaluate=str(root))


def test_bad_photographs_are_told_by_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", 2)
    photograph(9, 1, 1).save(root / "dot.png")
    with pytest.raises(UsageError, match=r"dot\.png has 1 x 1 pixels"):
        list(prepared(load_data(None, evaluate=str(root))).pairs())
    (root / "dot.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"dot\.png"):
        load_data(None, evaluate=str(root))


def test_what_is_for_one_task_is_refused_for_the_other(tmp_path: Path) -> None:
    photos = load_data(str(folder(tmp_path / "photos")))
    unlabelled = Classification().prepare(photos, PATCH, UNIT, "input")
    assert (unlabelled.targets, unlabelled.classes) == (None, ())
    ((feeds, targets),) = unlabelled.evaluate.batches(4)
    assert (feeds["input"].shape, targets) == ((1, 3, 16, 16), None)
    with pytest.raises(UsageError, match="the model makes images"):
        SuperResolution(2).prepare(load_data("builtin:digits"), InputSpec(1, 8, 8), UNIT, "input")
    with pytest.raises(UsageError, match="builtin:digits is for classification"):
        load_data(str(tmp_path / "photos"), evaluate="builtin:digits")


def test_two_photographs_are_built_in() -> None:
    source = load_data("builtin:photographs")
    assert isinstance(source, PhotographSource)
    assert source.train is not None
    assert {len(source.train), len(source.evaluate)} == {1}
    ((_, small, large),) = prepared(source, 4).pairs()
    assert small.shape[1] * 4 == large.shape[1]
    assert large.shape[2] == 640


def test_photographs_that_are_judged_on_are_not_trained_on(tmp_path: Path) -> None:
    root, other = folder(tmp_path / "photos", 4), folder(tmp_path / "other", 1)
    source = load_data(str(root), evaluate=str(other))
    assert isinstance(source, PhotographSource)
    assert source.train is not None
    assert len(source.train) == 3
    assert any("not trained on" in note for note in source.notes)


# -- the protocol -----------------------------------------------------------------------------


def test_the_metrics_are_the_papers() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((20, 23)) * 255
    other = np.clip(one + rng.normal(0, 9, one.shape), 0, 255)
    assert psnr(one, other) == pytest.approx(10 * np.log10(255**2 / np.mean((one - other) ** 2)))
    assert ssim(one, one) == pytest.approx(1.0)
    # The window by hand, at one place of a small image.
    a, b = one[:11, :11], other[:11, :11]
    bell = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    w = np.outer(bell, bell) / bell.sum() ** 2
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, ab = (w * a * a).sum() - ma**2, (w * b * b).sum() - mb**2, (w * a * b).sum() - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def session(function: Callable[[Any], Any]) -> FunctionSession:
    return FunctionSession(function, PATCH)


def test_a_perfect_and_a_wrong_enlarger(tmp_path: Path) -> None:
    split = prepared(load_data(None, evaluate=str(folder(tmp_path / "photos", 2))))
    large = {small.tobytes(): big for _, small, big in split.pairs()}

    def perfect(batch: Any) -> Any:
        return large[np.rint(batch[0] * 255).astype(np.uint8).tobytes()][None].astype(np.float32) / 255

    task = SuperResolution(2)
    metric, each = task.evaluate(session(perfect), split, 1, lambda *_: None)
    assert (metric.name, metric.value, metric.also["ssim"], metric.samples) == ("psnr", 100.0, pytest.approx(1.0), 2)
    assert each.tolist() == [100.0, 100.0]
    with pytest.raises(UsageError, match="the pair has 48 x 40"):
        task.evaluate(session(lambda batch: batch), split, 1, lambda *_: None)
    sessions = {"teacher": session(perfect), "result": session(lambda b: perfect(b) * np.float32(0.9))}
    outcomes = {side: task.evaluate(s, split, 1, lambda *_: None)[1] for side, s in sessions.items()}
    told = task.samples(split, (), outcomes, sessions, 0)
    assert (told["layout"], told["judged_on"]) == ("rows", split.name)
    lost = [float(crop["lines"][1]["text"].partition(" dB")[0]) for crop in told["shown"]]
    assert len(lost) == 2
    assert lost == sorted(lost)
    for crop in told["shown"]:
        images = {image["caption"]: image["png"] for image in crop["images"]}
        sizes = {side: Image.open(io.BytesIO(base64.b64decode(image))).size for side, image in images.items()}
        assert sizes.pop("input") == (20, 20)
        assert list(sizes.values()) == [(40, 40)] * 4
    with_words = [crop["name"] for crop in told["shown"]]
    assert sorted(with_words) == sorted(name for name, _, _ in split.pairs())


# -- parts of images --------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 63), (61, 64), (121, 59), (40, 300)], ids=str)
def test_parts_join_to_the_whole(size: tuple[int, int], divisor: int) -> None:
    image = np.random.default_rng(0).random((3, *size), np.float32)

    def run(batch: Any) -> Any:
        assert not batch.shape[2] % divisor
        assert not batch.shape[3] % divisor
        return batch.repeat(2, 2).repeat(2, 3)

    for overlap in (0, 8, 32):
        for most in (10**9, 3000, 500):
            assert np.array_equal(cropped(run, image, 2, divisor, overlap, most), run_whole(image)), (overlap, most)


def run_whole(image: Any) -> Any:
    return image.repeat(2, 1).repeat(2, 2)


# -- learning ---------------------------------------------------------------------------------


def patches(root: Path, kept: Path | None = None) -> Patches:
    split = prepared(load_data(None, evaluate=str(folder(root / "photos", 3))))
    return Patches(split, 12, True, 0, kept)


def test_a_patch_its_image_and_its_answer_belong_together(tmp_path: Path) -> None:
    drawn = patches(tmp_path, tmp_path)

    def enlarge(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    assert drawn.prepare(enlarge, lambda *_: None) == 3
    assert drawn.prepare(enlarge, lambda *_: None) == 0
    rows = np.arange(len(drawn))
    for epoch in range(3):
        small, large, answers = drawn.batch(rows, epoch)
        assert small.shape == (len(drawn), 3, 12, 12)
        assert large.shape == answers.shape == (len(drawn), 3, 24, 24)
        torch.testing.assert_close(answers, enlarge(small), atol=1e-3, rtol=0)
        assert (large - answers).abs().mean() < 0.05
    again = patches(tmp_path, tmp_path).batch(rows, 2)
    assert all(torch.equal(a, b) for a, b in zip((small, large, answers), again, strict=True))
    assert not torch.equal(small, drawn.batch(rows, 1)[0])


def test_photographs_smaller_than_a_patch_are_refused(tmp_path: Path) -> None:
    split = prepared(load_data(None, evaluate=str(folder(tmp_path / "photos", 2, width=20, height=20))))
    with pytest.raises(UsageError, match="10 pixels a side, a patch 12") as caught:
        len(Patches(split, 12, True, 0, None))
    assert "distill.patch=10" in str(caught.value.hint)


def test_losses_on_images() -> None:
    made, wanted = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert TargetL1()(Outputs(made), Outputs(made), wanted) == (made - wanted).abs().mean()
    with pytest.raises(UsageError, match="the true image has the shape"):
        TargetL1()(Outputs(torch.rand(2, 5)), Outputs(torch.rand(2, 5)), torch.tensor([0, 1]))


def test_losses_of_the_other_task_are_refused_before_any_work() -> None:
    host = catalog.find_target("host")
    photos, classes = (PlanContext(host, targets, True, True) for targets in ("images", "labels"))
    assert any("kl" in p and "data of images" in p for p in DistillConfig().problems("distill", photos))
    images = DistillConfig(losses=({"loss": "target-l1"}, {"loss": "output-l1"}, {"loss": "hint", "weight": 0.1}))
    assert not images.problems("distill", photos)
    assert any("target-l1" in p for p in images.problems("distill", classes))


def test_adam_takes_its_rate_as_it_is() -> None:
    assert OptimizerConfig(optimizer="adam", batch=16, lr=1e-3, schedule="cosine").lr_at(0, 100) == pytest.approx(1e-3)
    assert OptimizerConfig(batch=16, lr=0.1, schedule="cosine").lr_at(0, 100) == pytest.approx(0.0125)


def test_a_student_learns(tmp_path: Path) -> None:
    from compressor.train.fit import Duration, fit

    torch.manual_seed(0)
    drawn = patches(tmp_path)
    student = IMDN(8, 1, 2, False, 2, "rtc").build()
    optimizer_config = OptimizerConfig(optimizer="adam", batch=4, lr=3e-3, weight_decay=0.0, momentum=0.9)
    steps, curve = fit(
        student, drawn, objective([{"loss": "target-l1"}]), optimizer_config, Duration(steps=60), seed=0, device="cpu",
        checkpoint=None, remember=lambda compute: compute(), progress=lambda *_: None,
    )  # fmt: skip
    assert steps == 60
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]


# -- integers ---------------------------------------------------------------------------------


def test_equalising_changes_no_output() -> None:
    torch.manual_seed(0)
    for arch in (TINY, IMDN(8, 1, 3, False, 2, "rtc")):
        network, x = arch.build().eval(), torch.rand(2, 3, 12, 14)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            before = network(x)
            assert equalize_channels(network, [x]) == arch.blocks
            torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-4)


def test_equalising_brings_channels_together() -> None:
    torch.manual_seed(0)
    network, x = TINY.build().eval(), torch.rand(2, 3, 12, 14)
    block = network.IMDB1
    assert isinstance(block, IMDB)

    def spread() -> float:
        with torch.no_grad():
            made = F.leaky_relu(block.c1(network.fea_conv(x)), SLOPE).abs().amax((0, 2, 3))
        return float(made.max() / made.min())

    before = spread()
    equalize_channels(network, [x], share=1.0)
    assert spread() < min(before, 1.01)


@pytest.mark.slow
def test_the_parts_of_a_network() -> None:
    graph = export(TINY.build().eval(), *image_signature(PATCH, upscale_factor=2), 21)
    nodes = {node.name: node for node in graph.graph}
    found = float_candidates(graph)
    assert list(found) == ["attention", "scaling", "last", "first", "residual", "join", "skip"]
    assert len(found["scaling"]) == TINY.blocks
    ops = sorted({nodes[name].op_type for name in attention_nodes(graph)})
    assert {"GlobalAveragePool", "Sqrt", "Sigmoid", "Conv"} <= set(ops)
    assert [nodes[name].inputs[0].is_graph_input() for name in found["first"]] == [True]
    plain = export(IMDN(8, 1, 2, False, 2, "rtc").build().eval(), *image_signature(PATCH, upscale_factor=2), 21)
    assert "attention" not in float_candidates(plain)


@pytest.mark.slow
def test_integers_near_the_floats_at_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TINY.build().eval()
    sha256 = save_weights(network.state_dict(), tmp_path / "tiny.safetensors")
    source = TorchSource("imdn", settings(TINY), tmp_path / "tiny.safetensors")
    signature, sizes = image_signature(PATCH, upscale_factor=2)
    model = Model(source, None, sha256, 1, 1, signature, sizes, normalization=UNIT)
    target = with_machine_quirks(catalog.find_target("host"))
    backend = catalog.find("backends", "onnxruntime")()
    batches = [{"input": np.random.default_rng(n).random((1, 3, 16, 16), np.float32)} for n in range(3)]
    made = MixedPrecision(
        model, SuperResolution(2), backend.rules(target), 21, partial(backend.open, threads=1), batches, lambda _: {},
        lambda *_: None, tmp_path, lambda *_: None,
    ).run()  # fmt: skip
    assert made.metrics["parity_db"] > 35
    assert made.onnx.precision == "int8"
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == ["float.onnx", "model.onnx"]
    session = backend.open(made.onnx.path, threads=1)
    for size in ((1, 1), (17, 30)):
        x = np.random.default_rng(5).random((2, 3, *size), np.float32)
        with torch.no_grad():
            wanted = network(torch.from_numpy(x)).clamp(0, 1).numpy()
        got = session({"input": x})["output"]
        assert got.shape == wanted.shape
        assert image_psnr([wanted], [got]) > 30
    ops = [node.op_type for node in ir.load(made.onnx.path).graph]
    assert "QuantizeLinear" in ops
    assert ops[-1] == "Clip"


@pytest.mark.slow
def test_fake_integers_leave_the_attention_alone() -> None:
    torch.manual_seed(0)
    network = TINY.build().eval()
    target = with_machine_quirks(catalog.find_target("host"))
    rules = catalog.find("backends", "onnxruntime")().rules(target)
    fake = FakeQuantised(
        network,
        rules,
        *image_signature(PATCH, upscale_factor=2),
        21,
        [torch.rand(2, 3, 16, 16)] * 2,
        None,
        attention_nodes,
    )
    kinds = {name: type(module).__name__ for name, module in fake.module.named_modules()}
    assert kinds["IMDB1.c1"] == "QuantConv2d"
    assert kinds["IMDB1.cca.conv_du.0"] == "Conv2d"
    exact, graph = fake.lowered(network)
    quantised = {node.name for node in graph.graph if node.op_type == "DequantizeLinear"}
    assert quantised
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert image_psnr([network(x).numpy()], [fake.module(x).numpy()]) > 30
    assert exact.graph.inputs[0].shape is not None


# -- a run, and what comes of it --------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, compress: Callable[..., Any]) -> Path:
    """Of a tiny network, in floats; judged on photographs."""
    root = tmp_path_factory.mktemp("sr")
    torch.manual_seed(0)
    save_weights(TINY.build().state_dict(), root / "tiny.safetensors")
    photos = folder(root / "photos", 3)
    done = compress(
        "run", root / "tiny.safetensors", "--target", "host", "--profile", "float", "--eval", photos,
        "--set", "measure.blocks=5", "--set", "measure.inferences=4", "-o", root / "run", "--input", "3x16x16",
    )  # fmt: skip
    assert done.code == 0, done.err
    return root / "run"


def test_a_runs_report_and_manifest(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    assert report["teacher"]["metric"]["name"] == "psnr"
    assert report["teacher"]["metric"]["also"]["ssim"] > 0.5
    assert len(report["samples"]["shown"]) == 3
    page = (bundle / "report.html").read_text()
    assert page.count("difference of the two, 8x") >= 3
    manifest = json.loads((bundle / "bundle/manifest.json").read_text())
    assert manifest["task"] == {"kind": "super-resolution", "upscale_factor": 2, "divisor": 1}
    assert manifest["input"]["shape"] == ["batch", 3, "height", "width"]
    assert manifest["outputs"][0]["shape"] == ["batch", 3, "2*height", "2*width"]
    assert manifest["sizes"] == {"batch": 1, "height": 16, "width": 16}


def test_upscale_takes_all_kinds_and_loses_nothing(bundle: Path, tmp_path: Path, compress: Callable[..., Any]) -> None:
    images = tmp_path / "in"
    (images / "deep").mkdir(parents=True)
    photograph(0, 30, 21).save(images / "a.png")
    photograph(1, 30, 21).save(images / "a.jpg")
    photograph(2, 9, 8, "L").save(images / "grey.png")
    photograph(3, 9, 8, "RGBA").save(images / "deep/alpha.png")
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save(images / "wide.png")
    photograph(4, 1, 1).save(images / "dot.png")
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:90])
    (images / "notes.txt").write_text("no image")
    done = compress("upscale", bundle, images, tmp_path / "out", "--json")
    told = json.loads(done.out)
    assert done.code == 2
    assert "1 of 7 images" in done.err
    assert "broken.png" in told["failed"][0]
    assert told["images"] == 6
    sizes = {str(p.relative_to(tmp_path / "out")): Image.open(p) for p in (tmp_path / "out").rglob("*.png")}
    assert {name: (image.mode, *image.size) for name, image in sizes.items()} == {
        "a.png.png": ("RGB", 60, 42), "a.jpg.png": ("RGB", 60, 42), "grey.png": ("L", 18, 16),
        "deep/alpha.png": ("RGBA", 18, 16), "wide.png": ("L", 12, 10), "dot.png": ("RGB", 2, 2),
    }  # fmt: skip
    assert any("16 bits" in note for note in told["notes"])


def test_upscale_says_what_it_cannot(bundle: Path, tmp_path: Path, compress: Callable[..., Any]) -> None:
    for arguments, said in (
        ((bundle, tmp_path / "none", tmp_path / "out"), "no such image or folder"),
        ((tmp_path, tmp_path, tmp_path / "out"), "is not a bundle"),
        ((bundle, folder(tmp_path / "in", 1), tmp_path / "in"), "where the images come from"),
    ):
        done = compress("upscale", *arguments)
        assert done.code == 2, done.err
        assert said in done.err
        assert "Traceback" not in done.err


def test_the_runner_enlarges_by_itself(bundle: Path, tmp_path: Path) -> None:
    photograph(0, 30, 21).save(tmp_path / "x.png")
    command = [sys.executable, str(bundle / "bundle/run.py"), "x.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"image": "x-x2.png", "shape": [42, 60, 3]}
    model = Runner(bundle / "bundle")
    with pytest.raises(ValueError, match="no classifier"):
        model.predict(np.zeros((8, 8, 3), np.uint8))
    whole = model.enlarge(np.asarray(Image.open(tmp_path / "x.png")))
    assert np.array_equal(whole, np.asarray(Image.open(tmp_path / "x-x2.png")))


def test_from_python(bundle: Path) -> None:
    from compressor import load_bundle

    loaded = load_bundle(bundle)
    assert loaded(loaded.preprocess(np.zeros((2, 7, 9, 3), np.uint8)))["output"].shape == (2, 3, 14, 18)


def test_a_scale_that_does_not_match_the_teacher(bundle: Path, tmp_path: Path, compress: Callable[..., Any]) -> None:
    root = given_pairs(tmp_path / "set")
    for file in (root / "LR_x2").iterdir():
        file.unlink()
    (root / "LR_x2").rmdir()
    model = bundle.parent / "tiny.safetensors"
    done = compress("run", model, "--target", "host", "--profile", "float", "--eval", root, "-o", tmp_path / "run")
    assert done.code == 2
    assert "pairs for x4, the model enlarges x2" in done.err
    assert not (tmp_path / "run").exists()
