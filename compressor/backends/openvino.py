"""OpenVINO on the CPU: Intel's runtime."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import ClassVar

from compressor.backends._named_session import NamedSession
from compressor.backends.onnxruntime import OnnxRuntime
from compressor.core import Engine, Model, OnnxModel, QdqRules, Session, Target, Unavailable, VerificationFailed

__all__ = ["OpenVino"]


class OpenVino:
    """OpenVINO's CPU device, which reads ONNX itself."""

    name: ClassVar[str] = "openvino"

    def version(self) -> str:
        try:
            return importlib.metadata.version("openvino")
        except importlib.metadata.PackageNotFoundError as error:
            raise Unavailable("OpenVINO is not installed", hint="pip install openvino") from error

    def rules(self, target: Target) -> QdqRules:
        """Pairs at the inputs of what has weights; its low-precision passes carry them through the rest.

        Unsigned, asymmetric activations and symmetric weights of a scale a channel, as NNCF's own preset for CPU
        devices has them. A sum's skip branch is quantised, so that it is added inside the convolution's kernel.
        """
        return QdqRules(
            quantizable_ops=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "GlobalAveragePool", "AveragePool"}),
            quantize_outputs=frozenset(),
            passthrough_ops=frozenset(
                {"Slice", "Pad", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Split"}
            ),
            passthrough_in_integers=False,
            activation_dtype="uint8",
            symmetric_activations=False,
            weight_bits=8,
            per_channel=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            integer_bias=frozenset(),
            fold_activations=False,
            keep_float_outputs=True,
            skip_branch=frozenset({"Add"}),
            shared_scale_ops=frozenset({"Concat"}),
            folds_packed_weights=False,
            integer_tables=True,
        )

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        """OpenVINO compiles a graph as it loads it: the engine is the ONNX file, tried here."""
        from compressor.backends import _openvino_session

        try:
            self.open(onnx.path, threads=1)
        except Exception as error:  # the runtime raises its own C++ types, all of them meaning "no"
            raise VerificationFailed(
                f"OpenVINO {self.version()} refuses the graph: {str(error).strip().splitlines()[-1]}",
                hint=f"take a --target of another runtime, or export these operators otherwise: {onnx.path}",
            ) from error
        session = workdir / "session.py"
        session.write_bytes(Path(_openvino_session.__file__).read_bytes())
        return Engine(
            self.name, onnx.path, onnx.sha256, "ready", files=(session,), facts={"runtime_version": self.version()}
        )

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        if exact:
            return OnnxRuntime().open(path, threads=threads, exact=True)
        from compressor.backends._openvino_session import Session as Running

        return NamedSession(Running(path, threads), path)

    def memory(self, path: Path) -> int | None:
        return None
