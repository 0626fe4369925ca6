"""Recipes of distillation by name: the settings that each changes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from compressor.core import Json

__all__ = ["METHODS"]

_LABELS = {"loss": "cross-entropy", "weight": 0.1}

METHODS: Mapping[str, Mapping[str, Json]] = MappingProxyType(
    {
        "kd": {"losses": ({"loss": "kl", "weight": 0.9, "temperature": 4.0}, _LABELS)},
        "standardised": {
            "losses": ({"loss": "kl", "weight": 0.9, "temperature": 2.0, "standardised": True}, _LABELS),
        },
        "dist": {"losses": ({"loss": "dist", "weight": 2.0}, {"loss": "cross-entropy", "weight": 1.0})},
        "decoupled": {"losses": ({"loss": "decoupled", "weight": 1.0}, {"loss": "cross-entropy", "weight": 1.0})},
        "taid": {"losses": ({"loss": "taid", "weight": 0.9}, _LABELS)},
        "exits": {"losses": ({"loss": "exits", "weight": 1.0}, {"loss": "kl", "weight": 0.9}, _LABELS)},
        "meal": {"losses": ({"loss": "kl"}, {"loss": "discriminator", "weight": 0.1}), "weight_decay": 0.0},
        "mixup": {"losses": ({"loss": "kl", "weight": 0.9}, _LABELS), "mixup": 0.2},
        "cutmix": {"losses": ({"loss": "kl", "weight": 0.9}, _LABELS), "cutmix": 1.0},
    }
)  # fmt: skip
"""What each method sets in `compressor.train.distill_config.DistillConfig`. Their papers stand in ``losses/``."""
