"""A model on OpenVINO's CPU device. It travels in bundles as session.py."""

import importlib
import sys
from pathlib import Path
from typing import Any, Union

__all__ = ["Session"]

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore  # OpenVINO reports its use over the network otherwise


class Session:
    """An ONNX file, compiled. Call it with arrays by input name."""

    def __init__(self, path: Union[str, Path], threads: int = 1) -> None:
        openvino = importlib.import_module("openvino")
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        self._names = [each.get_any_name() for each in compiled.outputs]
        self._request = compiled.create_infer_request()
        self._tensor = openvino.Tensor

    def __call__(self, feeds: Any) -> Any:
        """Map arrays by input name to arrays by output name."""
        self._request.infer({name: self._tensor(array) for name, array in feeds.items()})
        return {name: self._request.get_output_tensor(i).data.copy() for i, name in enumerate(self._names)}
