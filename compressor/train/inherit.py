"""Initial weights of a student, cut from its teacher's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressor.models.common.headed import body

__all__ = ["inherit"]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def inherit(student: nn.Module, teacher: nn.Module) -> float:
    """Give ``student`` the teacher's weights wherever names match or blocks of a chain can be paired.

    A chain with fewer blocks gets the teacher's first block and others at even distances. A narrower tensor gets
    the most important channels. They are the same for every tensor that is cut from one width to another, so that
    a layer reads the channels that the layer before it writes. (Across shortcuts that shift channels, and across
    channel shuffles, they do not match; the weights are a start all the same.) A channel's importance is the sum of
    |gamma| over the batch normalisations of that width (Liu et al. 2017, arXiv 1708.06519), each divided by its
    mean. Kernels are never cut. Where the heads differ only the body inherits. Returns the share of the student's
    parameters that were inherited.
    """
    student_state = body(student).state_dict()
    teacher_state = {name: tensor.cpu() for name, tensor in body(teacher).state_dict().items()}
    paired = ((name, _pair(name, student_state, teacher_state)) for name in student_state)
    kept_channels = _KeptChannels(teacher)
    inherited = 0
    parameters = {name for name, _ in body(student).named_parameters()}
    with torch.no_grad():
        for name, other in paired:
            if other is None:
                continue
            target, source = student_state[name], teacher_state[other]
            if target.shape[2:] != source.shape[2:] or target.ndim != source.ndim:
                continue
            if any(a > b for a, b in zip(target.shape[:2], source.shape[:2], strict=True)):
                continue
            for axis, (wanted, given) in enumerate(zip(target.shape[:2], source.shape[:2], strict=True)):
                if wanted < given:
                    source = source.index_select(axis, kept_channels(given, wanted))
            target.copy_(source)
            inherited += target.numel() if name in parameters else 0
    return inherited / max(1, sum(p.numel() for p in student.parameters()))


def _pair(name: str, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> str | None:
    """The name of the teacher's tensor for the student's ``name``; None where there is none."""
    match = _NUMBER.search(name)
    if match is None:
        return name if name in teacher else None
    prefix, rest = name[: match.start()], name[match.end() :]
    block, blocks, available = int(match.group()), _blocks(prefix, student), _blocks(prefix, teacher)
    # Evenly from the first to the last; where the student has more blocks, the surplus keeps its own weights.
    source = block if blocks >= available else round(block * (available - 1) / max(1, blocks - 1))
    found = f"{prefix}{source}{rest}"
    return found if found in teacher else None


def _blocks(prefix: str, state: Mapping[str, Tensor]) -> int:
    """The number of blocks in the chain whose tensors begin with ``prefix``."""
    numbers = (re.match(r"\d+", name[len(prefix) :]) for name in state if name.startswith(prefix))
    return 1 + max((int(number.group()) for number in numbers if number), default=-1)


class _KeptChannels:
    """The channels that are kept when a width is cut to a smaller one."""

    def __init__(self, teacher: nn.Module) -> None:
        self._importance: defaultdict[int, list[Tensor]] = defaultdict(list)
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
                gamma = module.weight.detach().cpu().abs().double()
                self._importance[len(gamma)].append(gamma / gamma.mean().clamp_min(1e-12))

    def __call__(self, given: int, wanted: int) -> Tensor:
        """``wanted`` of ``given`` indices, ascending; evenly spread where no batch normalisation has that width."""
        gammas = self._importance.get(given)
        if not gammas:
            return torch.linspace(0, given - 1, wanted).round().long()
        importance = torch.stack(gammas).sum(0)
        return importance.argsort(descending=True, stable=True)[:wanted].sort().values
