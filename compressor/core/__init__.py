"""The types that flow through the compiler, and the errors. Standard library only; all types are frozen."""

from compressor.core.artifact import SLOTS, Artifact, Bundle, Engine, Record
from compressor.core.backend import Backend, QdqRules, Session
from compressor.core.data import Batch, Data, DataSource, ImageSplit, Split
from compressor.core.errors import (
    BudgetMissed,
    CompressError,
    Exit,
    Incomplete,
    Inconclusive,
    Unavailable,
    UnsafeInput,
    UsageError,
    VerificationFailed,
)
from compressor.core.given import GivenInput
from compressor.core.images import InputSpec, Normalization
from compressor.core.json import Json
from compressor.core.measures import Latency, Measurement, Measurements, Metric, Stage
from compressor.core.models import Model, OnnxModel, TorchSource
from compressor.core.passes import Context, Pass, PlanContext, Progress, Result
from compressor.core.profile import PassSpec, Profile
from compressor.core.signature import Signature, TensorSpec, axis_name, image_signature
from compressor.core.target import PRECISIONS, Chip, PowerMode, Target
from compressor.core.task import OutputParity, Task

__all__ = [
    "PRECISIONS",
    "SLOTS",
    "Artifact",
    "Backend",
    "Batch",
    "BudgetMissed",
    "Bundle",
    "Chip",
    "CompressError",
    "Context",
    "Data",
    "DataSource",
    "Engine",
    "Exit",
    "GivenInput",
    "ImageSplit",
    "Incomplete",
    "Inconclusive",
    "InputSpec",
    "Json",
    "Latency",
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
    "PowerMode",
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
    "axis_name",
    "image_signature",
]
