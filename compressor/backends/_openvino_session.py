"""A model on OpenVINO's CPU device. It travels in bundles as session.py."""

import importlib
import sys
from pathlib import Path
from typing import Any, Union

__all__ = ["Session"]

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore  # OpenVINO reports its use over the network otherwise


class Session:
    """An ONNX file, compiled. Call it with N x C x H x W float32."""

    def __init__(self, path: Union[str, Path], threads: int = 1) -> None:
        openvino = importlib.import_module("openvino")
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        core = openvino.Core()
        self._request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()
        self._tensor = openvino.Tensor

    def __call__(self, batch: Any) -> Any:
        """Map a batch to the first output."""
        self._request.infer({0: self._tensor(batch)})
        return self._request.get_output_tensor(0).data.copy()
