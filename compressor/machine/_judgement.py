"""How a target is judged on a machine: whose kernels tell its accuracy, and whether a time taken there counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor import catalog
from compressor.core import Backend, Session, Target, Unavailable
from compressor.machine._machine import Machine, machine

__all__ = ["Judgement", "judgement", "known_target", "target_mismatch"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Who judges accuracy on a machine, and, a question apart, whether a latency taken there is the target's."""

    backend: Backend
    """Whose session judges accuracy: the target's own, or ONNX Runtime's in its place."""
    exact: bool
    """Whether quantisation is evaluated in float, because the kernels here are not the target's."""
    reason: str | None
    """The target mismatch: why a latency taken here is not the target's. None where it is."""
    runs: bool
    """Whether the target's runtime runs here at all, on a CPU of whatever kind or on the target's GPU."""

    @property
    def times_count(self) -> bool:
        """Whether a latency taken here is one measured on the target."""
        return self.reason is None

    @property
    def words(self) -> str:
        """What accuracy is judged in, for reports."""
        return "float, on ONNX Runtime" if self.exact else f"{self.backend.name} kernels"

    def open(self, path: Path, *, threads: int) -> Session:
        """Load an ONNX file or the target's engine to judge its accuracy; ``exact`` takes the ONNX file alone."""
        return self.backend.open(path, threads=threads, exact=self.exact)


def judgement(target: Target, backend: Backend, found: Machine | None = None) -> Judgement:
    """Tell how ``target``, whose runtime is ``backend``, is judged on the machine ``found`` (None: this one).

    Accuracy is judged by the target's own kernels where its runtime is installed and the machine has what decides
    their results: the target's architecture, CPU features and GPU. Everywhere else ONNX Runtime judges in float.
    A latency counts only where the machine is the target in every respect.
    """
    found = found or machine()
    absent, alike = _absent(backend), _kernel_mismatch(target, found) is None
    exact = absent is not None or not alike
    return Judgement(
        backend=catalog.find("backends", "onnxruntime")() if exact else backend,
        exact=exact,
        reason=target_mismatch(target, found) or absent,
        runs=absent is None and (alike or not _runs_on_gpu(target)),
    )


def known_target(name: str) -> Target | None:
    """Return the target that a manifest names; None where it names none of those at hand."""
    return catalog.find_target(name) if name in catalog.toml_names("targets") else None


def target_mismatch(target: Target, machine: Machine) -> str | None:
    """Return None where a latency taken on ``machine`` is one measured on ``target``, else why it is not.

    A target that builds on its device is that device alone: its title must stand in the name that the board gives
    itself.
    """
    if mismatch := _kernel_mismatch(target, machine):
        return mismatch
    if target.builds == "on-device" and target.title not in (machine.board or ""):
        return f"{target.title} was not at hand: this machine is {machine.board or machine.cpu}."
    return None


def _kernel_mismatch(target: Target, machine: Machine) -> str | None:
    """Return why kernels compute other results on ``machine`` than on ``target``; None where they do not.

    Every one of ``requires`` must be there; ``avx512_vnni|avx_vnni`` is met by either, and ``!avx_vnni`` by its
    absence. A GPU's kernels are those of this GPU, or of the board that it is a part of.
    """
    if target.arch not in ("any", machine.arch):
        return f"{target.title} is {target.arch}, and this machine is {machine.arch}."
    beyond = [need[1:] for need in target.requires if need.startswith("!") and need[1:] in machine.features]
    if beyond:
        return f"{target.title} is without {' and '.join(beyond)}, which this CPU ({machine.cpu}) has."
    needed = [need for need in target.requires if not need.startswith("!")]
    missing = [need for need in needed if not set(need.split("|")) & set(machine.features)]
    if missing:
        needs = " and ".join(need.replace("|", " or ") for need in missing)
        return f"{target.title} has {needs}, which this CPU ({machine.cpu}) does not show."
    if target.gpu is not None and target.gpu != machine.gpu:
        return f"{target.title} was not at hand: this machine has {machine.gpu or 'no NVIDIA GPU'}."
    if _runs_on_gpu(target) and target.builds == "on-device" and target.title not in (machine.board or ""):
        return f"{target.title} was not at hand: this machine is {machine.board or machine.cpu}."
    return None


def _runs_on_gpu(target: Target) -> bool:
    return target.chip is not None and target.chip.compute_capability is not None


def _absent(backend: Backend) -> str | None:
    """Return why a runtime cannot be asked here; None where it is installed."""
    try:
        backend.version()
    except Unavailable as error:
        return f"{error.what} here"
    return None
