"""Every loss: the contract, and the paper's formula in slow, literal arithmetic."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressor import catalog
from compressor.core import UsageError
from compressor.losses import NEEDS, Adapting, Learned, Loss, Objective, Outputs
from compressor.losses.attention_transfer import AttentionTransfer
from compressor.losses.correlation import Correlation
from compressor.losses.cross_entropy import CrossEntropy
from compressor.losses.decoupled import Decoupled
from compressor.losses.discriminator import Discriminator
from compressor.losses.dist import Dist
from compressor.losses.exits import Exits
from compressor.losses.hint import Hint
from compressor.losses.kl import KullbackLeibler
from compressor.losses.relational import Relational
from compressor.losses.similarity import Similarity
from compressor.losses.taid import Taid

# target-l1 takes images: tests/tasks/test_super_resolution.py
NAMES = [name for name in catalog.names("losses") if name != "target-l1"]
BATCH, CLASSES = 6, 5
SHAPES = ((3, 8, 6), (4, 4, 3), (5, 2, 2))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors this small only wait for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outputs(seed: int, shapes: Any = SHAPES, batch: int = BATCH, scale: float = 1.0) -> Outputs:
    """What a network might give: features as after a ReLU, all of it float64 and with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    features = tuple(draw(batch, *shape).relu().requires_grad_() for shape in shapes)
    return Outputs(draw(batch, CLASSES).requires_grad_(), features)


def labels(batch: int = BATCH) -> Tensor:
    return torch.arange(batch) % CLASSES


def leaves(given: Outputs) -> tuple[Tensor, ...]:
    return (given.logits, *given.features)


def gradients(loss: Loss, student: Outputs, teacher: Outputs) -> list[Tensor]:
    """Of each of the student's outputs that the loss reads."""
    value = loss(student, teacher, labels(len(student.logits)))
    found = torch.autograd.grad(value, leaves(student), allow_unused=True)
    return [g for g in found if g is not None]


def make(name: str) -> Loss:
    made: Loss | Learned = catalog.make(catalog.find("losses", name), {}, name)
    return computed(made) if isinstance(made, Learned) else made


def computed(loss: Learned, shapes: Any = SHAPES) -> Any:
    """The module of a loss that has one, in eval mode: it remembers nothing from call to call."""
    torch.manual_seed(0)
    module: Any = loss.module(shapes, CLASSES).double().eval()
    module.needs = loss.needs
    return module


def like(given: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    return Outputs(change(given.logits), tuple(change(f) for f in given.features))


# -- the contract of every file ----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_a_frozen_dataclass_under_its_name(name: str) -> None:
    cls = catalog.find("losses", name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "it has the generated docstring only"
    assert cls.kind == name
    assert cls.needs
    assert cls.needs <= set(NEEDS)
    assert catalog.make(cls, {}, name) == cls()


def test_every_loss_is_light_to_import() -> None:
    code = (
        "import sys; from compressor import catalog\n"
        "for name in catalog.names('losses'): catalog.make(catalog.find('losses', name), {}, name)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 2, BATCH])
def test_every_loss_is_a_scalar_that_teaches(name: str, batch: int) -> None:
    loss, student, teacher = make(name), outputs(1, batch=batch), outputs(2, batch=batch)
    value = loss(student, teacher, labels(batch))
    assert value.shape == ()
    assert value.dtype == torch.float64
    assert value.isfinite()
    assert value >= 0
    found = gradients(loss, student, teacher)
    assert found
    assert all(g.isfinite().all() for g in found)
    if batch == BATCH:
        assert any(g.abs().max() > 0 for g in found)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_reads_what_it_needs_and_no_more(name: str) -> None:
    loss, student, teacher = make(name), outputs(1), outputs(2)
    broken = torch.full((BATCH, CLASSES), math.nan, dtype=torch.float64)

    def only(given: Outputs, features: set[str]) -> Outputs:
        return Outputs(
            given.logits if "logits" in loss.needs else broken, given.features if features & loss.needs else ()
        )

    given = labels() if "labels" in loss.needs else None
    seen = only(student, {"features", "student-features"}), only(teacher, {"features"})
    torch.testing.assert_close(loss(*seen, given), loss(student, teacher, labels()))


# TAID holds its own target fast, and a discriminator's gradient is reversed: they have tests of their own.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("taid", "discriminator")])
def test_the_gradient_is_the_values_own(name: str) -> None:
    small = ((2, 3, 2), (3, 2, 2), (2, 2, 1))
    made, generator = catalog.find("losses", name)(), torch.Generator().manual_seed(3)
    loss = computed(made, small) if isinstance(made, Learned) else made
    teacher = like(outputs(2, small, batch=4), Tensor.detach)

    def value(logits: Tensor, *features: Tensor) -> Tensor:
        return loss(Outputs(logits, features), teacher, labels(4))

    # Away from the kinks: Huber's, and samples that are the same, are hit by no random number.
    student = like(teacher, lambda t: torch.rand(t.shape, generator=generator, dtype=t.dtype).requires_grad_())
    assert torch.autograd.gradcheck(value, leaves(student))


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "labels" not in catalog.find("losses", n).needs and n != "discriminator"]
)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name: str) -> None:
    loss, student = make(name), outputs(1)
    assert loss(student, student, None).item() == pytest.approx(0, abs=1e-12)
    for gradient in gradients(loss, student, like(student, Tensor.detach)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("student_is", [0.0, 1.0, None])
@pytest.mark.parametrize("teacher_is", [0.0, 1.0, None])
def test_outputs_without_variance_have_finite_gradients(
    name: str, student_is: float | None, teacher_is: float | None
) -> None:
    def flat(given: Outputs, value: float | None) -> Outputs:
        if value is None:
            return given
        return like(given, lambda t: torch.full_like(t.detach(), value).requires_grad_())

    loss, student, teacher = make(name), flat(outputs(1), student_is), flat(outputs(2), teacher_is)
    assert loss(student, teacher, labels()).isfinite()
    for gradient in gradients(loss, student, teacher):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("name", NAMES)
def test_one_dead_sample_or_channel_has_a_bounded_gradient(name: str) -> None:
    def dead(tensor: Tensor) -> Tensor:
        changed = tensor.detach().clone()
        changed[1] = 0
        changed[:, 1] = 0
        changed[2] = changed[3]
        return changed.requires_grad_()

    for gradient in gradients(make(name), like(outputs(1), dead), outputs(2)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_batch_does_not_matter(name: str) -> None:
    loss, order = make(name), torch.tensor([3, 0, 5, 1, 4, 2])
    student, teacher = outputs(1), outputs(2)
    shuffled = loss(like(student, lambda t: t[order]), like(teacher, lambda t: t[order]), labels()[order])
    torch.testing.assert_close(shuffled, loss(student, teacher, labels()))


# -- the formulas, literally ---------------------------------------------------------------------


def arrays(given: Outputs) -> tuple[np.ndarray, list[np.ndarray]]:
    return given.logits.detach().numpy(), [f.detach().numpy() for f in given.features]


def softmax(scores: np.ndarray) -> list[float]:
    odds = [math.exp(s - max(scores)) for s in scores]
    return [o / sum(odds) for o in odds]


def length(vector: Any) -> float:
    return math.sqrt(sum(float(v) ** 2 for v in vector))


def at_length_one(vector: Any) -> list[float]:
    return [float(v) / (length(vector) or 1) for v in vector]


def inner(one: Any, other: Any) -> float:
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True))


def pool(features: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages over equal blocks."""
    n, c, h, w = features.shape
    out = np.zeros((n, c, height, width))
    for y, x in itertools.product(range(height), range(width)):
        block = features[:, :, y * h // height : (y + 1) * h // height, x * w // width : (x + 1) * w // width]
        out[:, :, y, x] = block.mean((2, 3))
    return out


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kl(temperature: float) -> None:
    student, teacher = outputs(1, scale=3), outputs(2, scale=3)
    total = 0.0
    for ours, theirs in zip(arrays(student)[0], arrays(teacher)[0], strict=True):
        p, q = softmax(ours / temperature), softmax(theirs / temperature)
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    wanted = temperature**2 * total / BATCH
    assert KullbackLeibler(temperature)(student, teacher, None).item() == pytest.approx(wanted, rel=1e-10)


def test_kl_does_not_see_what_softmax_does_not() -> None:
    student, teacher = outputs(1), outputs(2)
    moved = Outputs(student.logits + torch.arange(BATCH, dtype=torch.float64)[:, None])
    torch.testing.assert_close(KullbackLeibler()(moved, teacher, None), KullbackLeibler()(student, teacher, None))


def test_t_squared_keeps_the_gradients_size() -> None:
    student, teacher = outputs(1), outputs(2)
    sizes = [gradients(KullbackLeibler(t), student, teacher)[0].norm().item() for t in (20.0, 40.0, 80.0)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert sizes[1] == pytest.approx(sizes[2], rel=0.05)


def test_kl_holds_out_where_scores_are_far_apart() -> None:
    student = Outputs(torch.tensor([[1e4, -1e4]], requires_grad=True))
    teacher = Outputs(torch.tensor([[-1e4, 1e4]]))
    value = KullbackLeibler(1.0)(student, teacher, None)
    assert value.item() == pytest.approx(2e4)
    (gradient,) = torch.autograd.grad(value, student.logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy(smoothing: float) -> None:
    student, total = outputs(1), 0.0
    for scores, label in zip(arrays(student)[0], labels().tolist(), strict=True):
        for k, p in enumerate(softmax(scores)):
            total -= math.log(p) * ((1 - smoothing) * (k == label) + smoothing / CLASSES)
    got = CrossEntropy(smoothing)(student, outputs(2), labels())
    assert got.item() == pytest.approx(total / BATCH, rel=1e-10)


def test_hint() -> None:
    student, teacher = outputs(1), outputs(2)
    for index in (0, 1, -1):
        ours, theirs = arrays(student)[1][index], arrays(teacher)[1][index]
        squares = [float(a - b) ** 2 for a, b in zip(ours.ravel(), theirs.ravel(), strict=True)]
        wanted = 0.5 * sum(squares) / len(squares)
        assert Hint(index)(student, teacher, None).item() == pytest.approx(wanted, rel=1e-10)


def test_hint_through_its_regressor() -> None:
    student, teacher = outputs(1), outputs(2, ((3, 8, 6), (7, 2, 1), (5, 2, 2)))
    loss = Hint()
    regressor = loss.adapter(student.shapes, teacher.shapes)
    assert regressor is not None
    regressor.double()
    weight, bias = (p.detach().numpy() for p in regressor.parameters())
    assert weight.shape == (7, 4, 1, 1)
    ours, theirs = arrays(student)[1][1], arrays(teacher)[1][1]
    projected = np.zeros((BATCH, 7, *ours.shape[2:]))
    for n, c, y, x in itertools.product(*map(range, projected.shape)):
        projected[n, c, y, x] = inner(weight[c, :, 0, 0], ours[n, :, y, x]) + bias[c]
    wanted = 0.5 * float(np.mean((pool(projected, 2, 1) - theirs) ** 2))
    assert loss(regressor(student), teacher, None).item() == pytest.approx(wanted, rel=1e-10)
    other = regressor(student)
    assert other.features[0] is student.features[0]
    assert other.logits is student.logits
    assert len(student.features) == 3
    assert student.features[1].shape[1] == 4


@pytest.mark.parametrize("stages", [None, (0,), (-1, -2)])
def test_attention_transfer(stages: tuple[int, ...] | None) -> None:
    student, teacher = outputs(1), outputs(2, ((2, 4, 3), (9, 4, 3), (5, 4, 2)))
    total = 0.0
    for index in range(3) if stages is None else stages:
        ours, theirs = arrays(student)[1][index], arrays(teacher)[1][index]
        size = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
        for a, b in zip(pool(ours, *size), pool(theirs, *size), strict=True):
            maps = [[sum(float(v) ** 2 for v in m[:, y, x]) for y in range(size[0]) for x in range(size[1])]
                    for m in (a, b)]  # fmt: skip
            one, other = map(at_length_one, maps)
            total += sum((p - q) ** 2 for p, q in zip(one, other, strict=True)) / BATCH
    assert AttentionTransfer(stages)(student, teacher, None).item() == pytest.approx(total, rel=1e-10)


def test_similarity() -> None:
    student, teacher = outputs(1), outputs(2, ((2, 4, 3), (9, 4, 3), (7, 3, 1)))

    def rows(features: np.ndarray) -> list[list[float]]:
        flat = features.reshape(BATCH, -1)
        similar = [[inner(a, b) for b in flat] for a in flat]
        return [at_length_one(row) for row in similar]

    ours, theirs = rows(arrays(student)[1][-1]), rows(arrays(teacher)[1][-1])
    total = sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(BATCH) for j in range(BATCH))
    assert Similarity()(student, teacher, None).item() == pytest.approx(total / BATCH**2, rel=1e-10)


def test_correlation() -> None:
    student, teacher = outputs(1), outputs(2, ((3, 8, 6), (4, 4, 3), (5, 3, 3)))

    def rows(features: np.ndarray) -> list[list[float]]:
        flat = features.reshape(len(features), -1)
        together = [[inner(a, b) for b in flat] for a in flat]
        return [at_length_one(row) for row in together]

    total = 0.0
    for one, other in zip(arrays(student)[1][-1], arrays(teacher)[1][-1], strict=True):
        ours, theirs = rows(one), rows(other)
        total += sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(5) for j in range(5)) / 5
    assert Correlation()(student, teacher, None).item() == pytest.approx(total / BATCH, rel=1e-10)


def test_correlation_through_its_regressor() -> None:
    student, teacher = outputs(1), outputs(2, ((3, 8, 6), (4, 4, 3), (6, 2, 2)))
    regressor = Correlation().adapter(student.shapes, teacher.shapes)
    assert regressor is not None
    value = Correlation()(regressor.double()(student), teacher, None)
    assert len(torch.autograd.grad(value, list(regressor.parameters()))) == 2
    assert Correlation(-2).adapter(student.shapes, teacher.shapes) is None


def huber(a: float, b: float) -> float:
    d = abs(a - b)
    return 0.5 * d * d if d <= 1 else d - 0.5


@pytest.mark.parametrize(("distance", "angle"), [(1.0, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_relational(distance: float, angle: float) -> None:
    student, teacher = outputs(1), outputs(2, ((3, 8, 6), (4, 4, 3), (7, 3, 1)), scale=30)
    ours, theirs = (arrays(o)[1][-1].mean((2, 3)) for o in (student, teacher))
    pairs = list(itertools.permutations(range(BATCH), 2))
    triples = list(itertools.permutations(range(BATCH), 3))

    def distances(x: np.ndarray) -> list[float]:
        found = [length(x[i] - x[j]) for i, j in pairs]
        return [d * len(found) / sum(found) for d in found]

    def cosines(x: np.ndarray) -> list[float]:
        return [inner(x[i] - x[j], x[k] - x[j]) / length(x[i] - x[j]) / length(x[k] - x[j]) for i, j, k in triples]

    wanted = distance * sum(map(huber, distances(ours), distances(theirs))) / len(pairs)
    wanted += angle * sum(map(huber, cosines(ours), cosines(theirs))) / len(triples)
    got = Relational(distance, angle)(student, teacher, None)
    assert got.item() == pytest.approx(wanted, rel=1e-10)


# -- what they do not see --------------------------------------------------------------------------

SCALE_FREE = [AttentionTransfer(), Similarity(), Correlation(), Relational()]


@pytest.mark.parametrize("loss", SCALE_FREE, ids=lambda loss: loss.kind)
def test_the_scale_of_the_features_does_not_matter(loss: Loss) -> None:
    student, teacher = outputs(1), outputs(2)
    larger = Outputs(student.logits, tuple(7 * f for f in student.features))
    torch.testing.assert_close(loss(larger, teacher, None), loss(student, teacher, None))


@pytest.mark.parametrize("loss", [AttentionTransfer(), Similarity(), Relational()], ids=lambda loss: loss.kind)
def test_the_order_of_the_students_channels_does_not_matter(loss: Loss) -> None:
    student, teacher = outputs(1), outputs(2)
    turned = Outputs(student.logits, tuple(f.flip(1) for f in student.features))
    torch.testing.assert_close(loss(turned, teacher, None), loss(student, teacher, None))


def test_correlation_wants_the_channels_in_one_order() -> None:
    student, teacher = outputs(1), outputs(2)
    turned = [Outputs(o.logits, tuple(f.flip(1) for f in o.features)) for o in (student, teacher)]
    loss = Correlation()
    torch.testing.assert_close(loss(turned[0], turned[1], None), loss(student, teacher, None))
    assert loss(turned[0], teacher, None).item() != pytest.approx(loss(student, teacher, None).item(), rel=1e-3)


def test_relational_does_not_see_where_the_samples_lie() -> None:
    student, teacher = outputs(1), outputs(2)
    moved = Outputs(student.logits, tuple(f + 3 for f in student.features))
    torch.testing.assert_close(Relational()(moved, teacher, None), Relational()(student, teacher, None))


def test_similarity_is_the_relation_score_of_the_search() -> None:
    # M_r of DisWOT, from its formula: -||A_T - A_S||²_F / N², A the row-normalised Gram matrix.
    student, teacher = outputs(1), outputs(2)
    grams = [f @ f.T for f in (o.features[-1].flatten(1) for o in (student, teacher))]
    ours, theirs = (F.normalize(g, dim=1) for g in grams)
    score = -(((theirs - ours) ** 2).sum() / BATCH**2)
    torch.testing.assert_close(Similarity()(student, teacher, None), -score)


def standardised(scores: Any) -> list[float]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
    return [(s - mean) / deviation for s in scores]


def pearson(one: Any, other: Any) -> float:
    a, b = ([x - sum(each) / len(each) for x in each] for each in (one, other))
    return inner(a, b) / length(a) / length(b)


def divergence(target: Any, given: Any) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, given, strict=True))


def test_standardised_scores_before_softmax() -> None:
    student, teacher = outputs(1), outputs(2)
    (ours, _), (theirs, _) = arrays(student), arrays(teacher)
    expected = sum(
        divergence(softmax([s / 2 for s in standardised(t)]), softmax([s / 2 for s in standardised(o)]))
        for o, t in zip(ours, theirs, strict=True)
    )
    value = KullbackLeibler(2.0, standardised=True)(student, teacher, None)
    assert value.item() == pytest.approx(4 * expected / BATCH, rel=1e-6)
    far = like(student, lambda x: 7 * x + 3)
    torch.testing.assert_close(KullbackLeibler(2.0, standardised=True)(far, teacher, None), value, rtol=1e-6, atol=0)


def test_dist() -> None:
    student, teacher = outputs(1), outputs(2)
    (ours, _), (theirs, _) = arrays(student), arrays(teacher)
    ours, theirs = (np.array([softmax(row / 3) for row in each]) for each in (ours, theirs))
    inter = sum(1 - pearson(ours[n], theirs[n]) for n in range(BATCH)) / BATCH
    intra = sum(1 - pearson(ours[:, k], theirs[:, k]) for k in range(CLASSES)) / CLASSES
    value = Dist(inter=2.0, intra=0.5, temperature=3.0)(student, teacher, None)
    assert value.item() == pytest.approx(9 * (2 * inter + 0.5 * intra), rel=1e-9)


@pytest.mark.parametrize("mixed", [False, True])
def test_decoupled(mixed: bool) -> None:
    student, teacher, temperature = outputs(1), outputs(2), 2.5
    (ours, _), (theirs, _) = arrays(student), arrays(teacher)
    binary = others = 0.0
    for n, label in enumerate(labels().tolist()):
        p, q = softmax(theirs[n] / temperature), softmax(ours[n] / temperature)
        binary += divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = [k for k in range(CLASSES) if k != label]
        others += divergence([p[k] / (1 - p[label]) for k in rest], [q[k] / (1 - q[label]) for k in rest])
    given = F.one_hot(labels(), CLASSES) * 0.7 + 0.3 / CLASSES if mixed else labels()
    value = Decoupled(target=0.5, others=3.0, temperature=temperature)(student, teacher, given)
    assert value.item() == pytest.approx(temperature**2 * (0.5 * binary + 3 * others) / BATCH, rel=1e-9)
    # Equation 7: with the teacher's own weights it is plain KL.
    true, sure = F.one_hot(labels(), CLASSES).bool(), F.softmax(teacher.logits / temperature, 1).detach()
    one = Outputs(student.logits[:1]), Outputs(teacher.logits[:1])
    plain = Decoupled(target=1.0, others=1 - sure[true][0].item(), temperature=temperature)(*one, labels()[:1])
    torch.testing.assert_close(plain, KullbackLeibler(temperature)(*one, None))


def test_taid_moves_from_the_student_to_the_teacher() -> None:
    student, teacher = outputs(1), outputs(2)
    (ours, _), (theirs, _) = arrays(student), arrays(teacher)
    module: Any = Taid(start=0.2, pace=0.05, momentum=0.9, temperature=2.0).module((), CLASSES).double().train()
    share, trend, before = 0.2, 0.0, None
    for progress in (0.0, 0.01, 0.02, 0.5, 0.51):
        share = max(share, 0.2 + 0.8 * progress)
        targets = [
            softmax([((1 - share) * o + share * t) / 2 for o, t in zip(*rows, strict=True)])
            for rows in zip(ours, theirs, strict=True)
        ]
        answers = [softmax(row / 2) for row in ours]
        expected = 4 * sum(map(divergence, targets, answers)) / BATCH
        value = module(dataclasses.replace(student, progress=progress), teacher, None)
        assert value.item() == pytest.approx(expected, rel=1e-9)
        if before is not None:
            trend = 0.9 * trend + 0.1 * (before - expected) / before
        share, before = share + 0.05 / (1 + math.exp(-trend)) * (1 - share), expected
        assert module.share.item() == pytest.approx(share, rel=1e-9)
    # The gradient is that of KL with the target held fast: softmax(student) - target, by T.
    module.eval()
    (gradient,) = torch.autograd.grad(module(student, teacher, None), student.logits)
    target = torch.softmax(torch.lerp(student.logits, teacher.logits, module.share.clamp_min(1.0)) / 2, 1)
    torch.testing.assert_close(gradient, 2 * (torch.softmax(student.logits / 2, 1) - target) / BATCH)


def test_exits() -> None:
    student, teacher = outputs(1), outputs(2)
    module: Any = computed(Exits(power=1.5, temperature=2.0))
    (ours, features), (theirs, _) = arrays(student), arrays(teacher)
    assert [sum(isinstance(m, torch.nn.Conv2d) for m in exit) for exit in module.exits] == [4, 2, 0]
    answers = [
        ours,
        *(exit(torch.from_numpy(f)).detach().numpy() for exit, f in zip(module.exits, features, strict=True)),
    ]
    expected = 0.0
    for answer in answers:
        for n, label in enumerate(labels().tolist()):
            p, q = softmax(answer[n] / 2), softmax(theirs[n] / 2)
            true = [float(k == label) for k in range(CLASSES)]
            expected -= sum(((q[k] + true[k]) ** 1.5 - true[k]) * math.log(p[k]) for k in range(CLASSES)) / BATCH
    assert module(student, teacher, labels()).item() == pytest.approx(expected / 4, rel=1e-9)
    with pytest.raises(UsageError, match="no stages"):
        Exits().module((), CLASSES)


def test_a_discriminator_learns_what_its_student_unlearns() -> None:
    student, teacher = outputs(1), outputs(2)
    module: Any = computed(Discriminator((8,)))
    guesses = [
        1 / (1 + math.exp(-module.layers(torch.tensor([softmax(row)], dtype=torch.float64)).item()))
        for given in (student, teacher)
        for row in arrays(given)[0]
    ]
    expected = -sum(math.log(1 - g) for g in guesses[:BATCH]) - sum(math.log(g) for g in guesses[BATCH:])
    value = module(student, teacher, None)
    assert value.item() == pytest.approx(expected / 2 / BATCH, rel=1e-9)
    value.backward()
    given = student.logits.detach().requires_grad_()
    guess = module.layers(torch.softmax(given, 1))[:, 0]
    plain = F.binary_cross_entropy_with_logits(guess, torch.zeros(BATCH, dtype=torch.float64)) / 2
    (forward,) = torch.autograd.grad(plain, given)
    torch.testing.assert_close(student.logits.grad, -forward)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


# -- what cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("kl", {"temperature": 0.0}),
        ("kl", {"temperature": -1.0}),
        ("cross-entropy", {"smoothing": 1.0}),
        ("cross-entropy", {"smoothing": -0.1}),
        ("relational", {"distance": 0.0, "angle": 0.0}),
        ("relational", {"distance": -1.0}),
        ("attention-transfer", {"stages": []}),
        ("dist", {"temperature": 0.0}),
        ("dist", {"inter": 0.0, "intra": 0.0}),
        ("decoupled", {"temperature": math.inf}),
        ("decoupled", {"others": -1.0}),
        ("taid", {"start": 1.5}),
        ("taid", {"temperature": 0.0}),
        ("exits", {"power": 0.0}),
        ("discriminator", {"widths": []}),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.make(catalog.find("losses", name), settings, name)
    assert name in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(
    "loss", [Hint(3), Similarity(-4), Correlation(7), Relational(stage=3), AttentionTransfer((9,))]
)
def test_a_stage_that_is_not_there_is_named(loss: Loss) -> None:
    with pytest.raises(UsageError, match="has 3 stages") as caught:
        loss(outputs(1), outputs(2), None)
    assert caught.value.hint
    if isinstance(loss, Adapting):
        with pytest.raises(UsageError, match="has 3 stages"):
            loss.adapter(SHAPES, SHAPES)


@pytest.mark.parametrize("loss", [Hint(-1), Correlation()], ids=lambda loss: loss.kind)
def test_other_channels_need_the_adapter(loss: Loss) -> None:
    with pytest.raises(UsageError, match="5 channels, the teacher 1"):
        loss(outputs(1), outputs(2, ((3, 8, 6), (4, 4, 3), (1, 2, 2))), None)


def test_attention_transfer_does_not_guess_which_stages_match() -> None:
    with pytest.raises(UsageError, match="the student has 3 stages, the teacher 2"):
        AttentionTransfer()(outputs(1), outputs(2, SHAPES[1:]), None)
    assert AttentionTransfer((-2, -1))(outputs(1), outputs(2, SHAPES[1:]), None) > 0


def test_an_unknown_loss_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown loss: 'simularity'") as caught:
        catalog.find("losses", "simularity")
    assert "did you mean 'similarity'?" in (caught.value.hint or "")


# -- the sum -------------------------------------------------------------------------------------------


def test_hintons_recipe_is_a_sum_of_two() -> None:
    student, teacher = outputs(1), outputs(2)
    optimizer_config = Objective(((CrossEntropy(), 0.1), (KullbackLeibler(4.0), 0.9)))
    adapters = optimizer_config.adapters(student.shapes, teacher.shapes, CLASSES)
    total, parts = optimizer_config(adapters, student, teacher, labels())
    soft = F.kl_div(
        F.log_softmax(student.logits / 4, 1), F.softmax(teacher.logits / 4, 1), reduction="batchmean"
    )  # fmt: skip
    torch.testing.assert_close(total, 0.1 * F.cross_entropy(student.logits, labels()) + 0.9 * 16 * soft)
    assert total.requires_grad
    assert not any(part.requires_grad for part in parts)
    torch.testing.assert_close(0.1 * parts[0] + 0.9 * parts[1], total.detach())
    assert optimizer_config.needs == {"logits", "labels"}
    assert not list(adapters.parameters())


def test_the_learned_parts_are_trained_beside_the_student() -> None:
    student, teacher = outputs(1), outputs(2, ((3, 8, 6), (8, 4, 3), (6, 2, 2)))
    objective = Objective(((Hint(), 1.0), (Similarity(), 2.0), (Correlation(), 3.0)))
    adapters = objective.adapters(student.shapes, teacher.shapes, CLASSES).double()
    assert [tuple(p.shape) for p in adapters.parameters()] == [(8, 4, 1, 1), (8,), (6, 5, 1, 1), (6,)]
    total, (hint, similarity, correlation) = objective(adapters, student, teacher, None)
    torch.testing.assert_close(total.detach(), hint + 2 * similarity + 3 * correlation)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapters.parameters())
    assert student.features[1].grad is not None


def test_learning_lowers_the_sum() -> None:
    torch.manual_seed(0)
    teacher = like(outputs(2, ((3, 8, 6), (8, 4, 3), (5, 2, 2))), Tensor.detach)
    student = outputs(1)
    # A discriminator's gain is the student's loss.
    names = [name for name in NAMES if name != "discriminator"]
    objective = Objective(tuple((catalog.find("losses", name)(), 1.0) for name in names))
    adapters = objective.adapters(student.shapes, teacher.shapes, CLASSES).double()
    optimizer = torch.optim.Adam([*leaves(student), *adapters.parameters()], 0.05)
    values = []
    for _ in range(40):
        total, _ = objective(adapters, student, teacher, labels())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize(
    "terms", [[], [(Similarity(), 0.0)], [(Similarity(), -1.0)], [(Similarity(), math.nan)], [(Similarity(), math.inf)]]
)
def test_a_sum_of_nothing_is_refused(terms: list[tuple[Loss, float]]) -> None:
    with pytest.raises(UsageError, match="not a sum of losses"):
        Objective(tuple(terms))
