"""The machine that something runs on: what it is, the state it is in, and which targets it can speak for."""

from compressor.machine._judgement import Judgement, judgement, known_target, target_mismatch
from compressor.machine._machine import Machine, fingerprint, machine, machine_of

__all__ = [
    "Judgement", "Machine", "fingerprint", "judgement", "known_target", "machine", "machine_of", "target_mismatch",
]  # fmt: skip
