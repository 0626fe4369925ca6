"""Training: reproducible augmentation, stored teacher outputs, resuming, inheritance, fake quantisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import TEACHER
from runs import Run
from torch import Tensor, nn

from compressor import catalog
from compressor.core import InputSpec, UsageError, VerificationFailed, image_signature
from compressor.data import load_data
from compressor.losses import objective
from compressor.models.cifar_resnet import CifarResNet
from compressor.models.mobilenetv2 import MobileNetV2
from compressor.plan import with_machine_quirks
from compressor.preprocessing import parse_normalization
from compressor.quant.fake_quant import FakeQuantised
from compressor.train import loop
from compressor.train.augmentation import Augmentation
from compressor.train.fit import Duration, fit
from compressor.train.inherit import inherit
from compressor.train.learner import Learner
from compressor.train.live_targets import LiveTargets
from compressor.train.optimizer_config import OptimizerConfig
from compressor.train.samples import Samples
from compressor.train.soft_targets import SoftTargets

INPUT = InputSpec(1, 16, 16)
KD = ({"loss": "kl", "weight": 0.9, "temperature": 4.0}, {"loss": "cross-entropy", "weight": 0.1})


def quiet(message: str, done: int, total: int) -> None:
    return


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def samples() -> Samples:
    scaling = parse_normalization("symmetric", 1)
    train = load_data("builtin:digits").prepare(INPUT, scaling, "input").train
    assert train is not None
    return Samples(train.take(np.arange(300)), INPUT, scaling, 10, Augmentation(0.125, True), 0)


def network(seed: int, depths: tuple[int, ...] = (1, 1, 1), widths: tuple[int, ...] = (4, 8, 8)) -> nn.Module:
    torch.manual_seed(seed)
    return CifarResNet(depths, widths, channels=1).build()


# -- augmentation -----------------------------------------------------------------------------


def test_what_is_drawn_depends_on_seed_and_view_alone() -> None:
    augmentation = Augmentation(0.25, True, 0.4)
    one = augmentation.draw(3, 5, 50, INPUT)
    assert np.array_equal(one, augmentation.draw(3, 5, 50, INPUT))
    assert not np.array_equal(one, augmentation.draw(3, 6, 50, INPUT))
    assert not np.array_equal(one, augmentation.draw(4, 5, 50, INPUT))
    assert np.abs(one[:, :2]).max() == 4
    assert set(one[:, 2]) == {0, 1}
    assert 0 < one[:, 3].max() <= 0.5


def test_images_are_moved_as_drawn() -> None:
    augmentation = Augmentation(0.25, True)
    images = torch.randn(20, 3, 8, 12)
    drawn = augmentation.draw(0, 0, 20, InputSpec(3, 8, 12))
    moved = augmentation.move(images, drawn).numpy()
    for image, (down, right, flipped, *_), got in zip(images.numpy(), drawn.astype(int), moved, strict=True):
        for y in range(8):
            for x in range(12):
                column = (11 - x if flipped else x) + right
                inside = 0 <= y + down < 8 and 0 <= column < 12
                assert np.array_equal(got[:, y, x], image[:, y + down, column] if inside else np.zeros(3, np.float32))


def test_mixed_images_have_mixed_labels(samples: Samples) -> None:
    mixed = replace(samples, augmentation=Augmentation(0.0, False, 0.8))
    drawn = mixed.drawn(0)
    rows = np.arange(40)
    images, labels = mixed.batch(rows, drawn)
    plain, other = mixed.plain(rows), mixed.plain(drawn[rows, 4].astype(int))
    share = torch.from_numpy(drawn[rows, 3])
    assert torch.allclose(images, plain + share[:, None, None, None] * (other - plain), atol=1e-6)
    assert torch.allclose(labels.sum(1), torch.ones(40))
    for label, row, partner, part in zip(labels, rows, drawn[rows, 4].astype(int), share, strict=True):
        expected = torch.zeros(10)
        expected[samples.split.labels[row]] += 1 - part
        expected[samples.split.labels[partner]] += part
        assert torch.allclose(label, expected, atol=1e-6)


def test_a_box_of_another_image_has_its_share_of_the_label(samples: Samples) -> None:
    mixed = replace(samples, augmentation=Augmentation(0.0, False, cutmix=1.0))
    drawn = mixed.drawn(0)
    rows = np.arange(40)
    images, labels = mixed.batch(rows, drawn)
    others = drawn[rows, 4].astype(int)
    plain, other = mixed.plain(rows), mixed.plain(others)
    for n, (top, left, tall, wide) in enumerate(drawn[rows, 5:].astype(int)):
        expected = plain[n].clone()
        expected[:, top : top + tall, left : left + wide] = other[n, :, top : top + tall, left : left + wide]
        assert torch.equal(images[n], expected)
        share = tall * wide / (INPUT.height * INPUT.width)
        wanted = torch.zeros(10)
        wanted[samples.split.labels[n]] += 1 - share
        wanted[samples.split.labels[others[n]]] += share
        assert torch.allclose(labels[n], wanted, atol=1e-6)
    assert drawn[:, 3].max() <= 0.6  # the box, rounded to pixels, is about the smaller part


def test_with_both_each_image_is_blended_or_has_a_box(samples: Samples) -> None:
    augmentation = Augmentation(0.0, False, 0.8, 0.8)
    drawn = augmentation.draw(0, 0, 400, INPUT)
    assert np.array_equal(drawn, augmentation.draw(0, 0, 400, INPUT))
    boxed = drawn[:, 7] > 0
    assert 150 < boxed.sum() < 250
    shares = augmentation.shares(drawn, INPUT.height, INPUT.width)
    assert set(shares[boxed].flatten().tolist()) == {0.0, 1.0}
    assert all(len(set(each.flatten().tolist())) == 1 for each in shares[~boxed])


# -- the teacher's stored outputs ---------------------------------------------------------------


def test_stored_outputs_are_the_teachers(samples: Samples, tmp_path: Path) -> None:
    teacher = network(0).eval()
    predicted: list[int] = []

    def predict(images: Tensor) -> Tensor:
        predicted.append(len(images))
        with torch.no_grad():
            return teacher(images)

    targets = SoftTargets(samples, 2, tmp_path, "it")
    assert targets.prepare(predict, quiet) == 600 == sum(predicted)
    rows = np.array([7, 250, 3])
    for epoch in (0, 1, 2, 3):
        images, labels, logits = targets.batch(rows, epoch)
        with torch.no_grad():
            expected = teacher(images)
        assert torch.allclose(torch.softmax(logits, 1), torch.softmax(expected, 1), atol=2e-3)
        assert labels.tolist() == samples.split.labels[rows].tolist()
    first, third = targets.batch(rows, 0)[0], targets.batch(rows, 2)[0]
    assert torch.equal(first, third)
    assert SoftTargets(samples, 2, tmp_path, "it").prepare(predict, quiet) == 0
    assert SoftTargets(samples, 2, tmp_path, "another teacher").prepare(predict, quiet) == 600
    (damaged := tmp_path / "view1-0.safetensors").write_bytes(damaged.read_bytes()[:40])
    assert SoftTargets(samples, 2, tmp_path, "another teacher").prepare(predict, quiet) == 300


def test_of_many_classes_the_highest_are_stored(samples: Samples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(256, 500)).eval()
    with torch.no_grad():
        teacher[1].weight *= 12
    targets = SoftTargets(replace(samples, classes=500), 1, tmp_path, "it")
    targets.prepare(lambda images: teacher(images).detach(), quiet)
    images, _, logits = targets.batch(np.arange(20), 0)
    full = teacher(images).detach()
    assert torch.equal(full.argmax(1), logits.argmax(1))
    for temperature, most in ((1, 0.03), (4, 2e-4)):
        wanted, got = (torch.log_softmax(each / temperature, 1) for each in (full, logits))
        top = wanted.topk(32, dim=1)
        assert torch.allclose(got.gather(1, top.indices).exp(), top.values.exp(), atol=most)
    # At T = 4 the tail has most of the mass, and has all of it back.
    assert got.exp().sum(1).sub(got.gather(1, top.indices).exp().sum(1)).min() > 0.3


def test_outputs_that_do_not_fit() -> None:
    assert SoftTargets.affordable_views(1000, 10, 170_000) == 3
    with pytest.raises(UsageError, match="more than distill"):
        SoftTargets.affordable_views(1_000_000, 10, 60_000)


# -- the loop -----------------------------------------------------------------------------------


def test_the_learning_rate_climbs_and_falls() -> None:
    optimizer_config = OptimizerConfig(lr=0.1, batch=256, warmup=0.25)
    lrs = [optimizer_config.lr_at(step, 100) for step in range(100)]
    assert max(lrs) == lrs[25] == pytest.approx(0.2)
    assert lrs[:26] == sorted(lrs[:26])
    assert lrs[25:] == sorted(lrs[25:], reverse=True)
    assert lrs[60] == pytest.approx(0.1 * (1 + math.cos(math.pi * 35 / 75)))
    assert OptimizerConfig(schedule="cosine").lr_at(0, 10) == pytest.approx(0.1)


class Stop(Exception):
    pass


def dropping() -> nn.Module:
    """A network that is random as it learns."""
    torch.manual_seed(1)
    return MobileNetV2(((1, 8, 1, 1), (2, 16, 1, 2)), 32, outputs=10, channels=1).build()


def fake() -> nn.Module:
    """A network with quantisers."""
    rules = catalog.find("backends", "onnxruntime")().rules(with_machine_quirks(catalog.find_target("host")))
    torch.manual_seed(2)
    return FakeQuantised(
        network(1), rules, *image_signature(INPUT), 21, [torch.randn(8, *INPUT.shape) for _ in range(2)]
    ).module


def teach(
    samples: Samples,
    folder: Path,
    checkpoint: Path | None,
    student: Callable[[], nn.Module],
    losses: Any = KD,
    *,
    stop: int | None = None,
    **optimizer_config: Any,
) -> tuple[dict[str, Tensor], list[Any], list[int]]:
    """The weights, the curve, and the steps that progress was reported at."""
    teacher = network(0).eval()
    targets: Any = SoftTargets(samples, 2, folder, "it")
    targets.prepare(lambda images: teacher(images).detach(), quiet)
    learner, seen = student(), list[int]()
    reads = "features" in objective(losses).needs

    def progress(message: str, done: int, total: int) -> None:
        seen.append(done)
        if stop is not None and done >= stop:
            raise Stop

    _, curve = fit(
        learner, LiveTargets(samples) if reads else targets, objective(losses),
        OptimizerConfig(batch=32, **optimizer_config), Duration(steps=30),
        teacher=teacher if reads else None, seed=0, device="cpu", checkpoint=checkpoint,
        remember=lambda compute: compute(), progress=progress,
    )  # fmt: skip
    return {name: each.detach() for name, each in (*learner.named_parameters(), *learner.named_buffers())}, curve, seen


REMEMBERING = ({"loss": "taid"}, {"loss": "discriminator", "widths": [8]}, {"loss": "exits"}, {"loss": "dist"})
FEATURES = ({"loss": "similarity"}, {"loss": "hint"}, {"loss": "cross-entropy"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "losses", "optimizer_config"),
    [
        (lambda: network(1), KD, {}),
        (lambda: network(1), KD, {"ema": 0.9}),
        (lambda: network(1), KD, {"precision": "fp32", "schedule": "cosine"}),
        (dropping, KD, {}),
        (fake, KD, {"lr": 0.01}),
        (fake, KD, {"lr": 0.01, "ema": 0.9}),
        (lambda: network(1, widths=(4, 8, 16)), FEATURES, {}),
        (lambda: network(1), REMEMBERING, {"ema": 0.9}),
    ],
    ids=["plain", "ema", "fp32", "dropout", "quantised", "quantised, ema", "features", "remembering"],
)
def test_a_stopped_training_ends_with_the_same_weights(
    samples: Samples,
    tmp_path: Path,
    student: Callable[[], nn.Module],
    losses: Any,
    optimizer_config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    whole, curve, _ = teach(samples, tmp_path, None, student, losses, **optimizer_config)
    torch.rand(7)  # what was drawn before is no matter
    for stop in (10, 20):
        with pytest.raises(Stop):
            teach(samples, tmp_path, tmp_path / "c.pt", student, losses, stop=stop, **optimizer_config)
    resumed, same, seen = teach(samples, tmp_path, tmp_path / "c.pt", student, losses, **optimizer_config)
    assert min(seen) == 20
    assert same == curve
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], tensor) for name, tensor in student().named_parameters())


@pytest.mark.slow
def test_an_average_is_one_of_scales_too(samples: Samples, tmp_path: Path) -> None:
    first = {name: each.detach().clone() for name, each in fake().named_parameters() if "quantiser" in name}
    averaged, _, _ = teach(samples, tmp_path, None, fake, lr=0.01, ema=0.5)
    assert first
    changed = {name for name in first if not torch.equal(first[name], averaged[name])}
    assert sum("scaling" in name for name in changed) >= sum("scaling" in name for name in first) - 1  # but the input's


def test_a_live_teacher_is_not_trained() -> None:
    teacher = network(0)
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    learner = Learner(network(1, widths=(4, 8, 16)), objective(FEATURES), INPUT, teacher).train()
    learner(torch.randn(8, *INPUT.shape), torch.zeros(8, dtype=torch.int64), torch.zeros(8, 10))
    assert not teacher.training
    assert all(torch.equal(before[name], each) for name, each in teacher.state_dict().items())


def test_a_damaged_checkpoint(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="damaged"):
        teach(samples, tmp_path, tmp_path / "c.pt", lambda: network(1))


def test_a_training_that_diverges(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="diverged"):
        teach(samples, tmp_path, None, lambda: network(1), lr=1e12)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["attention-transfer", "correlation", "hint", "relational", "similarity"])
def test_losses_on_feature_maps_train_for_minutes(samples: Samples, loss: str) -> None:
    terms = objective(({"loss": loss}, {"loss": "cross-entropy"}))
    steps, curve = fit(
        network(1, widths=(4, 8, 16)), LiveTargets(samples), terms, OptimizerConfig(batch=32), Duration(minutes=0.02),
        teacher=network(0), seed=0, device="cpu", checkpoint=None, remember=lambda compute: compute(), progress=quiet,
    )  # fmt: skip
    assert curve[-1]["step"] == steps
    assert len(curve[-1]["parts"]) == 2


def test_minutes_become_steps_once(samples: Samples, tmp_path: Path) -> None:
    targets = SoftTargets(samples, 1, tmp_path, "it")
    targets.prepare(lambda images: torch.zeros(len(images), 10), quiet)
    remembered: list[int] = []

    def remember(compute: Callable[[], Any]) -> Any:
        if not remembered:
            remembered.append(compute())
        return remembered[0]

    def run(duration: Duration) -> int:
        steps, curve = fit(
            network(1), targets, objective(KD), OptimizerConfig(batch=32), duration, seed=0, device="cpu",
            checkpoint=None, remember=remember, progress=quiet,
        )  # fmt: skip
        assert curve[-1]["step"] == steps
        return steps

    first = run(Duration(minutes=0.005))
    assert run(Duration(minutes=0.005)) == first == remembered[0] >= 1
    assert run(Duration(minutes=0.005, epochs=0.1)) == 1  # 9 steps make an epoch; the lesser counts


# -- inheritance --------------------------------------------------------------------------------


def test_a_student_like_its_teacher_is_its_teacher() -> None:
    teacher, student = network(0).eval(), network(1).eval()
    assert inherit(student, teacher) == 1.0
    images = torch.randn(4, *INPUT.shape)
    assert torch.equal(teacher(images), student(images))


def test_blocks_and_channels_are_kept() -> None:
    teacher, student = network(0, (5, 3, 3), (8, 16, 16)), network(1, (3, 1, 3), (4, 16, 16))
    with torch.no_grad():
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d) and module.num_features == 8:
                module.weight[[1, 3, 4, 6]] += 5
    share = inherit(student, teacher)
    ours, theirs = student.state_dict(), teacher.state_dict()
    kept = [1, 3, 4, 6]
    assert torch.equal(ours["conv1.weight"], theirs["conv1.weight"][kept])
    for block, source in ((0, 0), (1, 2), (2, 4)):
        name = "layer1.{}.conv2.weight"
        assert torch.equal(ours[name.format(block)], theirs[name.format(source)][kept][:, kept])
    assert torch.equal(ours["layer3.2.bn2.running_var"], theirs["layer3.2.bn2.running_var"])
    assert share == 1.0


def test_what_does_not_fit_stays_as_it_is() -> None:
    teacher, student = network(0), network(1, widths=(8, 16, 16))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    assert inherit(student, teacher) < 0.1
    assert torch.equal(student.state_dict()["layer2.0.conv1.weight"], before["layer2.0.conv1.weight"])


# -- in a run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_searched_distilled_and_quantised(digits_student: Run, compress: Any, tmp_path: Path) -> None:
    passes = digits_student.passes
    curve = passes["distill"]["curve"]
    assert curve[-1]["step"] == passes["distill"]["steps"] == 33
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert passes["quantize"]["fake_agreement"] >= 0.98
    finalists = passes["search"]["finalists"]
    assert {each["space"] for each in finalists} == {"repvgg", "cifar-resnet"}
    assert passes["search"]["space"] == finalists[0]["space"]
    (compared,) = passes["search"]["successive_halving"]["rounds"]
    assert len(compared["top1"]) == 2
    assert passes["distill"]["teachers"] == passes["quantize"]["teachers"] == [0.5, 0.5]
    assert "students of repvgg and cifar-resnet" in (digits_student.folder / "report.html").read_text()
    assert passes["quantize"]["teacher_inferences"] == 0
    report = digits_student.report
    assert report["result"]["bytes"] < report["teacher"]["bytes"] / 4
    resolved = digits_student.folder / "resolved.toml"
    again = compress("run", TEACHER, "--profile", resolved, "-o", tmp_path / "again")
    assert again.code == 0, again.err
    assert (tmp_path / "again" / "bundle" / "model.onnx").read_bytes() == digits_student.model


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("distill.lr=0", "give a learning rate above 0"),
        ("distill.epochs=0", "distill.epochs = 0"),
        ("distill.mixup=-1", "distill.mixup = -1"),
        ("distill.cutmix=-1", "distill.cutmix = -1"),
        ('distill.cache="many"', "not a budget"),
        ('distill.losses=[{loss="kll"}]', "did you mean 'kl'?"),
        ('distill.losses=[{loss="kl", temperature=0}]', "kl.temperature"),
        ("quantize.distill.lr=0", "quantize.distill.lr = 0"),
        ('quantize.distill.losses=[{loss="hint"}]', "feature maps"),
    ],
)
def test_settings_that_cannot_be(compress: Any, tmp_path: Path, setting: str, says: str) -> None:
    model = str(TEACHER)
    said = (
        "--data",
        "builtin:digits",
        "--target",
        "host",
        "--profile",
        "balanced",
        "-o",
        str(tmp_path / "o"),
    )
    got = compress("run", model, *said, "--set", setting)
    assert got.code == 2
    assert says in " ".join(got.err.split())
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize("space", ["cifar-resnet", "mobilenetv2", "shufflenetv2"])
def test_the_runtime_computes_what_was_trained(space: str, tmp_path: Path) -> None:
    from compressor.lowering.save import save
    from compressor.quant.fake_quant import FakeQuantised

    encodings = {
        "cifar-resnet": {"depths": [1, 1, 1], "widths": [16, 16, 32]},
        "mobilenetv2": {"blocks": [[1, 16, 1, 1], [3, 24, 2, 2]], "last": 64},
        "shufflenetv2": {"out_channels": [32, 64, 96, 64], "num_blocks": [1, 1, 1]},
    }
    torch.manual_seed(0)
    input, batches = InputSpec(3, 16, 16), [torch.randn(64, 3, 16, 16) for _ in range(3)]
    student = catalog.find("models", space).decode(encodings[space], input, 10).build().train()
    for batch in batches:
        student(batch)
    target = catalog.find_target("x86-vnni")
    backend = catalog.find("backends", "onnxruntime")()
    fake = FakeQuantised(student.eval(), backend.rules(target), *image_signature(input), target.opset, batches)
    fake.recalibrate(batches)
    student.load_state_dict(fake.weights(student))
    exact, graph = fake.lowered(student)
    made = save(graph, tmp_path / "q.onnx", "int8", save(exact, tmp_path / "f.onnx", "fp32"))
    with torch.inference_mode():
        expected = fake.module(batches[0]).numpy()
    got = backend.open(made.path, threads=1, exact=True)({"input": batches[0].numpy()})["output"]
    # Rounding at a step's edge may fall to either side, and carries on from there.
    assert np.abs(got - expected).mean() < 0.03 * np.ptp(expected)
    assert (got.argmax(1) == expected.argmax(1)).mean() > 0.95
