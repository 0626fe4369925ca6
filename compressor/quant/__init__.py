"""Quantisation: ranges, bits of weights, quantisation-aware layers, and what quantising costs."""

import sys

# NNCF numbers its users in a file of their home folder, through a package that it can do without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
