"""A student's first weights, cut from its teacher's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.models._headed import body

__all__ = ["inherit"]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def inherit(student: nn.Module, teacher: nn.Module) -> float:
    """Give ``student`` the teacher's weights wherever names match or blocks of a chain can be paired.

    Of a chain with fewer blocks the first is kept and the others are taken evenly. Where a tensor is
    narrower the most important channels are kept, the same ones for every tensor that is cut from one
    width to another: within a width, what one layer writes is what the next one reads. (Not so across
    shortcuts that shift channels, or shuffles: there it is a start, no more.) Importance is the sum of
    |gamma| of the batch normalisations of that width (Liu et al. 2017, arXiv 1708.06519), each over its own
    mean. Kernels are never cut. Of a network with another head the body inherits. Returns the share of the
    student's parameters that were inherited.
    """
    ours = body(student).state_dict()
    theirs = {name: tensor.cpu() for name, tensor in body(teacher).state_dict().items()}
    pairs = {name: other for name in ours if (other := _pair(name, ours, theirs)) is not None}
    chosen = _Channels(teacher)
    taken = 0
    learned = {name for name, _ in body(student).named_parameters()}
    with torch.no_grad():
        for name, other in pairs.items():
            target, source = ours[name], theirs[other]
            if target.shape[2:] != source.shape[2:] or target.ndim != source.ndim:
                continue
            if any(a > b for a, b in zip(target.shape[:2], source.shape[:2], strict=True)):
                continue
            for axis, (wanted, given) in enumerate(zip(target.shape[:2], source.shape[:2], strict=True)):
                if wanted < given:
                    source = source.index_select(axis, chosen(given, wanted))
            target.copy_(source)
            taken += target.numel() if name in learned else 0
    return taken / max(1, sum(p.numel() for p in student.parameters()))


def _pair(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """The teacher's tensor for the student's ``name``; None where there is none."""
    match = _NUMBER.search(name)
    if match is None:
        return name if name in theirs else None
    prefix, rest = name[: match.start()], name[match.end() :]
    block, mine, others = int(match.group()), _blocks(prefix, ours), _blocks(prefix, theirs)
    # Evenly from the first to the last; where the student has more, its surplus stays as it is.
    place = block if mine >= others else round(block * (others - 1) / max(1, mine - 1))
    found = f"{prefix}{place}{rest}"
    return found if found in theirs else None


def _blocks(prefix: str, state: Mapping[str, Tensor]) -> int:
    numbers = (re.match(r"\d+", name[len(prefix) :]) for name in state if name.startswith(prefix))
    return 1 + max((int(number.group()) for number in numbers if number), default=-1)


class _Channels:
    """Which channels are kept of a width."""

    def __init__(self, teacher: nn.Module) -> None:
        self._importance: defaultdict[int, list[Tensor]] = defaultdict(list)
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
                gamma = module.weight.detach().cpu().abs().double()
                self._importance[len(gamma)].append(gamma / gamma.mean().clamp_min(1e-12))

    def __call__(self, given: int, wanted: int) -> Tensor:
        """``wanted`` of ``given`` indices, in order; evenly spread where nothing tells their importance."""
        known = self._importance.get(given)
        if not known:
            return torch.linspace(0, given - 1, wanted).round().long()
        importance = torch.stack(known).sum(0)
        return importance.argsort(descending=True, stable=True)[:wanted].sort().values
