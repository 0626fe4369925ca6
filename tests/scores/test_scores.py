"""Every score against a slow, literal implementation in float64, and what all of them promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressor import catalog
from compressor.core import InputSpec, UsageError
from compressor.models.common.cost import cost
from compressor.scores.common.probe import Batch, Probe, View, gaussian, untrained
from compressor.scores.effective_rank import effective_rank
from compressor.scores.semantic import gradient

INPUT = InputSpec(3, 16, 16)
CLASSES, SAMPLES = 5, 12
SEEDS = (3, 4)
STUDENTS = [
    ("cifar-resnet", {"depths": [1, 2, 1], "widths": [8, 8, 24]}),
    ("shufflenetv2", {"out_channels": [16, 24, 32, 40], "num_blocks": [1, 2, 1]}),
    ("mobilenetv2", {"blocks": [[1, 8, 1, 1], [3, 16, 2, 2], [2, 24, 1, 2]], "last": 40}),
    ("resnet", {"depths": [1, 1, 1, 1], "widths": [8, 8, 16, 16]}),
]


def student(space: str, encoding: dict) -> object:
    return catalog.find("models", space).decode(encoding, INPUT, CLASSES)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SAMPLES, *INPUT.shape, generator=generator)
    return Batch(images, torch.randint(CLASSES, (SAMPLES,), generator=generator))


def teacher(classes: int = CLASSES, depths: tuple[int, ...] = (2, 2, 2)) -> View:
    family = catalog.find("models", "cifar-resnet")
    network = family.decode({"depths": list(depths)}, INPUT, classes).build()
    return View.of(gaussian(network, 99), batch().images)


def probe(space: str, encoding: dict, view: View | None = None) -> Probe:
    return Probe(student(space, encoding), INPUT, batch(), view or teacher(), SEEDS)


def score(name: str, each: Probe) -> float:
    return catalog.find("scores", name)()(each)


def every_student(test):
    return pytest.mark.parametrize(("space", "encoding"), STUDENTS, ids=[space for space, _ in STUDENTS])(test)


def captured(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The input of the pooling, of the classifier and of every rectifier, and the logits, by hooks on the modules."""
    seen: dict[str, object] = {"rectified": []}
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
            module.register_forward_pre_hook(lambda m, i: seen["rectified"].append(i[0].clone()))
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            module.register_forward_pre_hook(lambda m, i: seen.update(last=i[0]))
        elif isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda m, i: seen.update(pooled=i[0]))
    with torch.no_grad():
        seen["logits"] = network(images)
    return seen


# -- DisWOT -----------------------------------------------------------------------------------


def literal_relation(teacher: torch.Tensor, student: torch.Tensor) -> float:
    def similarities(features: torch.Tensor) -> np.ndarray:
        z = features.double().numpy().reshape(len(features), -1)
        a = np.array([[sum(x * y) for y in z] for x in z])
        return np.array([row / math.sqrt(sum(row**2)) for row in a])

    difference = similarities(teacher) - similarities(student)
    return -sum(d**2 for row in difference for d in row) / len(teacher) ** 2


@every_student
def test_relation(space: str, encoding: dict) -> None:
    view, each = teacher(), probe(space, encoding)
    expected = [literal_relation(view.last, captured(each.network(seed), each.batch.images)["last"]) for seed in SEEDS]
    assert score("relation", each) == pytest.approx(np.mean(expected), rel=1e-9)


def literal_semantic(teacher: torch.Tensor, student: torch.Tensor) -> float:
    """The sum over classes of the C x C outer products' distance, each row normalised, over K C."""

    def outer(g: torch.Tensor) -> np.ndarray:
        product = np.outer(g.numpy(), g.numpy())
        return product / np.linalg.norm(product, axis=1, keepdims=True)

    classes, channels = teacher.shape
    total = sum(np.sum((outer(t) - outer(s)) ** 2) for t, s in zip(teacher, student, strict=True))
    return -total / (classes * channels)


@pytest.mark.parametrize("seed", range(5))
def test_semantic_is_the_distance_of_outer_products(seed: int) -> None:
    # Students as wide as the teacher, as the paper has them.
    each = Probe(student("cifar-resnet", {"depths": [1, 1, 1]}), INPUT, batch(), teacher(), (seed,))
    wanted = gradient(each.teacher, each.batch.labels)
    own = gradient(each.views[0], each.batch.labels)
    assert score("semantic", each) == pytest.approx(literal_semantic(wanted, own), rel=1e-9)


@every_student
def test_the_gradient_of_the_classifier_is_that_of_autograd(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    network = each.network(SEEDS[0])
    classifier = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    pooled = captured(network, each.batch.images)["pooled"].double()
    weight = classifier.weight.detach().double().requires_grad_()
    F.cross_entropy(pooled @ weight.T + classifier.bias.double(), each.batch.labels).backward()
    torch.testing.assert_close(gradient(each.views[0], each.batch.labels), weight.grad, rtol=1e-4, atol=1e-6)


def test_semantic_pools_the_wider_gradient_to_the_narrower() -> None:
    narrow, wide = torch.randn(CLASSES, 8, dtype=torch.float64), torch.randn(CLASSES, 16, dtype=torch.float64)
    pooled = torch.stack([wide[:, 2 * i : 2 * i + 2].mean(1) for i in range(8)], dim=1)
    likeness = catalog.find("scores", "semantic").__call__.__globals__["_likeness"]
    assert float(likeness(wide, narrow)) == pytest.approx(literal_semantic(pooled, narrow), rel=1e-9)
    assert float(likeness(narrow, wide)) == pytest.approx(literal_semantic(narrow, pooled), rel=1e-9)


def test_semantic_wants_the_same_classes() -> None:
    with pytest.raises(UsageError, match="7 classes, the student 5"):
        score("semantic", probe(*STUDENTS[0], teacher(classes=7)))


@pytest.mark.parametrize("name", ["relation", "semantic"])
def test_a_student_that_is_the_teacher_scores_nought(name: str) -> None:
    family = catalog.find("models", "cifar-resnet").decode({"depths": [1, 1, 1]}, INPUT, CLASSES)
    view = View.of(gaussian(family.build(), 7), batch().images)
    assert score(name, Probe(family, INPUT, batch(), view, (7,))) == pytest.approx(0, abs=1e-12)
    assert score(name, Probe(family, INPUT, batch(), view, (8,))) < -1e-6


# -- rivals -----------------------------------------------------------------------------------


@every_student
def test_nwot(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    expected = []
    for seed in SEEDS:
        codes = [(r > 0).flatten(1).numpy() for r in captured(each.network(seed), each.batch.images)["rectified"]]
        code = np.concatenate(codes, axis=1)
        kernel = np.array([[code.shape[1] - np.sum(a != b) for b in code] for a in code], np.float64)
        expected.append(np.linalg.slogdet(kernel)[1])
    assert score("nwot", each) == pytest.approx(np.mean(expected), rel=1e-9)


@every_student
def test_synflow(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    expected = []
    for seed in SEEDS:
        network = untrained(each.architecture, seed)
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, nn.Identity())
        network = network.double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.abs())
        parameters = list(network.parameters())
        output = network.eval()(torch.ones(1, *INPUT.shape, dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(output, parameters)
        expected.append(math.log(sum((p * g).abs().sum().item() for p, g in zip(parameters, gradients, strict=True))))
    assert score("synflow", each) == pytest.approx(np.mean(expected), rel=1e-9)


@every_student
def test_gradnorm(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    expected = []
    for seed in SEEDS:
        network = each.network(seed)
        weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        loss = F.cross_entropy(network(each.batch.images), each.batch.labels)
        expected.append(sum(math.sqrt(float((g.double() ** 2).sum())) for g in torch.autograd.grad(loss, weights)))
    assert score("gradnorm", each) == pytest.approx(np.mean(expected), rel=1e-4)


@every_student
def test_zen(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    expected = []
    for seed in SEEDS:
        network = each.network(seed)
        variances = []
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(
                    lambda m, i, into=variances: into.append(i[0].double().var(dim=(0, 2, 3), unbiased=True).mean())
                )
        x, e = torch.randn(2, SAMPLES, *INPUT.shape, generator=torch.Generator().manual_seed(seed))
        before = captured(network, x)["last"].double()
        scales = sum(math.log(math.sqrt(v)) for v in variances)
        after = captured(network, x + 0.01 * e)["last"].double()
        distance = np.mean([math.sqrt(float(((a - b) ** 2).sum())) for a, b in zip(before, after, strict=True)])
        expected.append(math.log(distance) + scales)
    assert score("zen", each) == pytest.approx(np.mean(expected), rel=1e-4)


@every_student
def test_counts(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    network = each.architecture.build()
    counted = cost(network, INPUT)
    assert score("params", each) == sum(p.numel() for p in network.parameters()) == counted.params
    assert score("macs", each) == counted.macs
    assert score("depth", each) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())


# -- capacity ---------------------------------------------------------------------------------


@every_student
def test_width(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    network, widths = each.architecture.build().eval(), {}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            module.register_forward_hook(
                lambda m, i, o: widths.setdefault(tuple(o.shape[2:]), []).append(math.log(m.out_channels))
            )
    network(each.batch.images)
    assert score("width", each) == pytest.approx(sum(np.mean(logs) for logs in widths.values()))


def literal_rank(features: torch.Tensor) -> float:
    channels = features.double().permute(1, 0, 2, 3).reshape(features.shape[1], -1).numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(channels)).clip(0)
    share = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


@pytest.mark.parametrize("shape", [(4, 8, 5, 5), (3, 40, 2, 2), (6, 1, 4, 4)])
def test_effective_rank_of_a_map(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 3
    rows = features.movedim(1, -1).reshape(-1, shape[1])
    assert float(effective_rank(rows)) == pytest.approx(literal_rank(features) if shape[1] > 1 else 1, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_effective_rank_counts_directions(rank: int) -> None:
    # Orthogonal, equally strong channels, each repeated twice at another scale sign.
    wave = torch.fft.fft(torch.eye(64)).real[1 : rank + 1]
    assert float(effective_rank(torch.cat([wave, -wave]).T)) == pytest.approx(rank, rel=1e-5)


def test_effective_rank_of_constant_channels() -> None:
    assert math.isfinite(float(effective_rank(torch.ones(18, 4))))
    assert math.isfinite(float(effective_rank(torch.zeros(18, 4))))


def test_effective_rank_of_values_that_overflow() -> None:
    rows = torch.randn(18, 4, generator=torch.Generator().manual_seed(0))
    assert float(effective_rank(1e30 * rows)) == pytest.approx(float(effective_rank(rows)), rel=1e-4)
    rows[0, 0] = math.inf
    assert float(effective_rank(rows)) == 1


# -- what all promise -------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.names("scores"))
@every_student
def test_every_score_is_finite_and_repeats(name: str, space: str, encoding: dict) -> None:
    first = score(name, probe(space, encoding))
    torch.manual_seed(12345)  # scores draw from their own seeds
    assert math.isfinite(first)
    assert score(name, probe(space, encoding)) == first


@pytest.mark.parametrize("name", catalog.names("scores"))
def test_scores_touch_no_global_state(name: str) -> None:
    each = probe(*STUDENTS[0])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    score(name, each)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def literal_layers(network: nn.Module, images: torch.Tensor) -> list[tuple[nn.Module, torch.Tensor]]:
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, i, o: seen.append((m, o.clone())))
    with torch.no_grad():
        network(images)
    return seen


@every_student
def test_effective_rank(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    expected = []
    for seed in SEEDS:
        outputs = [
            o for m, o in literal_layers(each.network(seed), each.batch.images)
            if isinstance(m, nn.Conv2d) and m.groups == 1 and o.shape[2] * o.shape[3] > 4
        ]  # fmt: skip
        rows = [o.movedim(1, -1).reshape(-1, o.shape[1]) for o in outputs]
        taken = [r[np.linspace(0, len(r) - 1, 512).astype(int)] if len(r) > 512 else r for r in rows]
        expected.append(np.mean([math.log(literal_rank(t[:, :, None, None])) for t in taken]))
    assert score("effective-rank", each) == pytest.approx(np.mean(expected), rel=1e-3)


@every_student
def test_stage_macs(space: str, encoding: dict) -> None:
    each = probe(space, encoding)
    macs: dict[int, int] = {}
    for module, output in literal_layers(each.network(0).eval(), each.batch.images[:1]):
        size = 1 if isinstance(module, nn.Linear) else output.shape[2] * output.shape[3]
        macs[size] = macs.get(size, 0) + module.weight.numel() * size
    large = sorted(size for size in macs if size > 4)
    total = sum(0.85**i * math.log(macs[size]) for i, size in enumerate(large))
    assert score("stage-macs", each) == pytest.approx(total / sum(0.85**i for i in range(len(large))))


# -- any network ------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A small transformer: a patch embedding, attention, a classifier on the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.qkv = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24), nn.Linear(24, 72)
        self.mlp, self.head = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24)), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + (q @ k.transpose(1, 2)).softmax(-1) @ v
        return self.head((x + self.mlp(x)).mean(1))


class Dense(nn.Module):
    """A segmenter with an extra head that only training has; it returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.drop, self.head = nn.Dropout2d(0.5), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.drop(torch.relu(self.up(torch.relu(self.down(x)))))
        return {"out": self.head(y), **({"aux": y} if self.training else {})}


class Made:
    """A candidate of somebody's own."""

    def __init__(self, make: type[nn.Module]) -> None:
        self.make = make

    def build(self) -> nn.Module:
        with torch.device("cpu"):  # as the user's code is built
            return self.make()


class Flat(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, 20), nn.ReLU(), nn.Linear(20, CLASSES))


@pytest.mark.parametrize("name", ["gradnorm", "semantic"])
def test_labels_are_not_read_by_networks_of_other_classes(name: str) -> None:
    few = Batch(batch().images, batch().labels + 3)
    for make, images in ((Dense, batch()), (Tokens, few)):
        with pytest.raises(UsageError, match="each of the data's classes"):
            score(name, Probe(Made(make), INPUT, images, teacher(classes=8), SEEDS))


@pytest.mark.parametrize("make", [Tokens, Dense, Flat])
def test_the_default_score_takes_any_network(make: type[nn.Module]) -> None:
    each = Probe(Made(make), INPUT, batch(), None, SEEDS)
    for name in ("stage-macs", "effective-rank", "nwot", "params", "macs", "synflow"):
        first = score(name, each)
        assert math.isfinite(first), name
        assert score(name, Probe(Made(make), INPUT, batch(), None, SEEDS)) == first


def test_products_outside_of_layers_are_counted() -> None:
    each = Probe(Made(Tokens), INPUT, batch(), None, SEEDS)
    tokens, attention = 16, 2 * 16 * 16 * 24
    layers = tokens * (48 * 24 + 24 * 72 + 2 * 24 * 48) + 24 * CLASSES
    assert score("macs", each) == layers + attention
    assert [layer.output_size for layer in each.layers] == [(4, 4), *[(1, 16)] * 3, (1, 1)]


def test_the_last_map_of_a_network_that_answers_everywhere_is_its_heads_input() -> None:
    network = gaussian(Dense(), 0)
    view = View.of(network, batch().images)
    assert view.last.shape == (SAMPLES, 8, *INPUT.shape[1:])
    assert torch.equal(view.logits, network.head(view.last))


def test_what_has_no_map_is_refused_by_scores_that_read_one() -> None:
    flat = Flat()
    assert View.of(flat, batch().images) is None
    assert View.of(torch.jit.trace(flat, batch().images), batch().images) is None
    with pytest.raises(UsageError, match="last feature map"):
        score("relation", Probe(Made(Flat), INPUT, batch(), teacher(), SEEDS))
