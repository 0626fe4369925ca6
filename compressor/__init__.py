"""compressor: an edge model-compression compiler.

`compress` is ``compress run`` for a program, and `load_bundle` opens what it made. The other names are the types
that flow through a run, and its errors. Each is imported when it is first used.
"""

import os
from typing import TYPE_CHECKING

# ONNX Runtime reports its use over the network unless this variable is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compressor.api import LoadedBundle, compress, load_bundle
    from compressor.core import (
        Artifact,
        Backend,
        Batch,
        BudgetMissed,
        Bundle,
        CompressError,
        Context,
        Data,
        Engine,
        Exit,
        Inconclusive,
        InputSpec,
        Latency,
        Measurement,
        Measurements,
        Metric,
        Model,
        Normalization,
        OnnxModel,
        OutputParity,
        Pass,
        PassSpec,
        PlanContext,
        Profile,
        Progress,
        QdqRules,
        Record,
        Result,
        Session,
        Signature,
        Split,
        Stage,
        Target,
        Task,
        TensorSpec,
        TorchSource,
        Unavailable,
        UnsafeInput,
        UsageError,
        VerificationFailed,
    )
    from compressor.pipeline import Compressed
else:
    _HOMES = {"LoadedBundle": "api", "compress": "api", "load_bundle": "api", "Compressed": "pipeline"}
    """All other names live in ``core``."""

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"compressor.{_HOMES.get(name, 'core')}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Artifact",
    "Backend",
    "Batch",
    "BudgetMissed",
    "Bundle",
    "CompressError",
    "Compressed",
    "Context",
    "Data",
    "Engine",
    "Exit",
    "Inconclusive",
    "InputSpec",
    "Latency",
    "LoadedBundle",
    "Measurement",
    "Measurements",
    "Metric",
    "Model",
    "Normalization",
    "OnnxModel",
    "OutputParity",
    "Pass",
    "PassSpec",
    "PlanContext",
    "Profile",
    "Progress",
    "QdqRules",
    "Record",
    "Result",
    "Session",
    "Signature",
    "Split",
    "Stage",
    "Target",
    "Task",
    "TensorSpec",
    "TorchSource",
    "Unavailable",
    "UnsafeInput",
    "UsageError",
    "VerificationFailed",
    "__version__",
    "compress",
    "load_bundle",
]
