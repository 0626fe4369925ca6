"""The precision that a training computes in."""

from __future__ import annotations

import torch

__all__ = ["autocast", "uses_bf16"]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which convolutions and matrix products run in bfloat16, if `uses_bf16` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: ``precision`` is ``bf16``, or ``auto`` on a device with native support."""
    return precision == "bf16" or (precision == "auto" and _has_native_bf16(device))


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.backends.mkldnn.is_available() and torch.cpu.get_capabilities().get("avx512_bf16"))
