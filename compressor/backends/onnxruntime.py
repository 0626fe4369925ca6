"""ONNX Runtime on the CPU: x86-64 and ARM."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.core import (
    Engine,
    Model,
    OnnxModel,
    QdqRules,
    Session,
    Signature,
    Target,
    TensorSpec,
    Unavailable,
    VerificationFailed,
)

if TYPE_CHECKING:
    from compressor.core.signature import Feeds, Outputs

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """ONNX Runtime's CPU execution provider."""

    name: ClassVar[str] = "onnxruntime"

    def version(self) -> str:
        try:
            return importlib.metadata.version("onnxruntime")
        except importlib.metadata.PackageNotFoundError as error:
            raise Unavailable("ONNX Runtime is not installed", hint="pip install onnxruntime") from error

    def rules(self, target: Target) -> QdqRules:
        """QLinear kernels everywhere: every tensor between two integer ops is an integer.

        Unsigned activations: ONNX Runtime drops a Relu into a kernel only where the zero point is the
        type's lowest value, and its U8S8 kernels are its fastest on x86. Those add pairs of 8-bit
        products in 16 bits, which saturates on CPUs without VNNI; 7-bit weights cannot saturate there.
        """
        integer = frozenset(
            {"Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat", "LeakyRelu"}
        )
        return QdqRules(
            quantizable_ops=integer,
            quantize_outputs=integer,
            passthrough_ops=frozenset(
                {"Slice", "Pad", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Split"}
            ),
            activation_dtype="uint8",
            symmetric_activations=False,
            weight_bits=7 if "u8s8-saturates" in target.quirks else 8,
            per_channel=frozenset({"Conv", "Gemm", "MatMul"}),
            # QLinearConv takes a float bias and rounds it as it loads; QGemm is not chosen without an int32 one.
            integer_bias=frozenset({"Gemm"}),
            fold_activations=True,
            keep_float_outputs=True,
            integer_tables=True,
            rounds_float_weights=frozenset({"Conv", "ConvTranspose", "Gemm"}),  # its WeightBiasQuantization
        )

    def build(self, onnx: OnnxModel, model: Model, target: Target, workdir: Path) -> Engine:
        """ONNX Runtime compiles a graph as it loads it: the engine is the ONNX file, tried here.

        A graph that was quantised for another runtime is refused: it would run slower than its floats.
        """
        self._check_placement(onnx.path, target)
        try:
            self.open(onnx.path, threads=1)
        except Exception as error:  # the runtime raises its own C++ types, all of them meaning "no"
            raise VerificationFailed(
                f"ONNX Runtime {self.version()} refuses the graph: {error}",
                hint=f"inspect {onnx.path}; the float profile may still work",
            ) from error
        if target.builds == "here":
            return Engine(self.name, onnx.path, onnx.sha256, "ready")
        return Engine(
            self.name,
            onnx.path,
            onnx.sha256,
            "pending",
            "copy the bundle to the board and there run: pip install onnxruntime numpy && python run.py --verify",
        )

    def _check_placement(self, path: Path, target: Target) -> None:
        import onnx

        from compressor.legality import placement_faults

        try:
            model = onnx.load(str(path), load_external_data=False)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the runtime says it better
            return
        pairs = sum(node.op_type == "Conv" for node in model.graph.node)
        faults = placement_faults(model, self.rules(target), "ONNX Runtime")
        if 2 * len(faults) > pairs:
            raise VerificationFailed(
                f"this graph was quantised for another runtime: of {pairs} convolutions {len(faults)} would run in "
                f"float here, first {faults[0].node}: {faults[0].what}",
                hint=faults[0].hint,
            )

    def open(self, path: Path, *, threads: int, exact: bool = False) -> Session:
        return _CpuSession(path, threads, exact)

    def memory(self, path: Path) -> int | None:
        """Count the bytes of the constants of the graph that ONNX Runtime rewrote for its kernels.

        What those repack while they run is not counted.
        """
        import onnx

        with TemporaryDirectory() as folder:
            rewritten = Path(folder) / "model.onnx"
            try:
                _CpuSession(path, 1, exact=False, rewritten=rewritten)
            except Exception as error:
                if shutil.disk_usage(folder).free < path.stat().st_size:  # which ONNX Runtime does not say
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(rewritten)) from error
                raise
            constants = onnx.load(str(rewritten)).graph.initializer
        return sum(int(onnx.numpy_helper.to_array(each).nbytes) for each in constants)


class _CpuSession:
    def __init__(self, path: Path, threads: int, exact: bool, rewritten: Path | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised
        if rewritten is not None:
            options.optimized_model_filepath = str(rewritten)
        if exact:
            # QuantizeLinear/DequantizeLinear stay as they are and the rest is computed in float, so that
            # the answer does not depend on which 8-bit instructions this CPU happens to have.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ends = (self._session.get_inputs(), self._session.get_outputs())
        self.signature = Signature(*(tuple(map(_spec, each)) for each in ends))
        self._names = [spec.name for spec in self.signature.outputs]

    def __call__(self, feeds: Feeds) -> Outputs:
        return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))


def _spec(end: Any) -> TensorSpec:
    """The spec of one of the session's ends. Axes that it has no name for get one of their own."""
    dtype = {"float": "float32", "double": "float64"}.get(kind := end.type[len("tensor(") : -1], kind)
    shape = (n if isinstance(n, int) and n >= 0 else n or f"{end.name}_axis{i}" for i, n in enumerate(end.shape))
    return TensorSpec(end.name, dtype, tuple(shape))
