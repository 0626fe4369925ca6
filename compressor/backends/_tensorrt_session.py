"""An engine on this machine's GPU: TensorRT's own package, NumPy, and the CUDA runtime through ctypes.

It travels in bundles as session.py, so nothing newer than Python 3.6 stands here, and nothing of the compiler.
"""

import ctypes
import ctypes.util
import importlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

__all__ = ["Session"]

_TO_DEVICE, _TO_HOST = 1, 2
_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")


class Session:
    """A deserialised engine with buffers on the GPU. Call it with N x C x H x W float32, one batch at a time.

    ``path`` is a plan that was built for this very GPU, and whose hash the caller has checked: a plan is native
    code. Raises RuntimeError where there is no TensorRT, no GPU, or the plan is another's.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self._trt = _tensorrt()
        self._cuda = _Cuda()
        logger = self._trt.Logger(self._trt.Logger.ERROR)
        self._runtime = self._trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self._engine is None:
            raise RuntimeError("TensorRT cannot load this plan: it was built for another GPU or version")
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.stream()
        self._buffers: Dict[str, Tuple[int, int]] = {}
        self.input, self.output = _ends(self._trt, self._engine)

    def __call__(self, batch: Any) -> Any:
        """Map a batch to the first output."""
        batch = np.ascontiguousarray(batch, np.float32)
        source = self._buffer(self.input, batch.nbytes)
        self._cuda.copy(source, batch.ctypes.data, batch.nbytes, _TO_DEVICE, self._stream)
        shape = self._set_shape(batch.shape)
        result = np.empty(shape, np.float32)
        sink = self._buffer(self.output, result.nbytes)
        if not self._execute(source, sink):
            raise RuntimeError("TensorRT did not run the engine")
        self._cuda.copy(result.ctypes.data, sink, result.nbytes, _TO_HOST, self._stream)
        self._cuda.wait(self._stream)
        return result

    def _set_shape(self, shape: Tuple[int, ...]) -> Tuple[int, ...]:
        if hasattr(self._context, "set_input_shape"):
            self._context.set_input_shape(self.input, shape)
            return tuple(self._context.get_tensor_shape(self.output))
        self._context.set_binding_shape(self._engine.get_binding_index(self.input), shape)  # TensorRT 8.2
        return tuple(self._context.get_binding_shape(self._engine.get_binding_index(self.output)))

    def _execute(self, source: int, sink: int) -> bool:
        if hasattr(self._context, "execute_async_v3"):
            self._context.set_tensor_address(self.input, source)
            self._context.set_tensor_address(self.output, sink)
            return bool(self._context.execute_async_v3(self._stream))
        places = [0] * self._engine.num_bindings
        places[self._engine.get_binding_index(self.input)] = source
        places[self._engine.get_binding_index(self.output)] = sink
        return bool(self._context.execute_async_v2(places, self._stream))

    def _buffer(self, name: str, size: int) -> int:
        """Memory on the GPU for a tensor, kept from call to call."""
        place, held = self._buffers.get(name, (0, 0))
        if held < size:
            if place:
                self._cuda.free(place)
            place = self._cuda.allocate(size)
            self._buffers[name] = (place, size)
        return place


def _ends(trt: Any, engine: Any) -> Tuple[str, str]:
    """The names of the first input and the first output."""
    if hasattr(engine, "num_io_tensors"):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    else:
        names = [engine.get_binding_name(i) for i in range(engine.num_bindings)]
        inputs = [name for name in names if engine.binding_is_input(name)]
    return inputs[0], next(name for name in names if name not in inputs)


def _tensorrt() -> Any:
    problems: List[str] = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(str(error))
    raise RuntimeError("TensorRT is not installed for this Python: {}".format("; ".join(problems)))


class _Cuda:
    """The five functions of the CUDA runtime that running an engine takes."""

    def __init__(self) -> None:
        self._library: Optional[Any] = None
        for name in (*_LIBRARIES, ctypes.util.find_library("cudart")):
            try:
                self._library = ctypes.CDLL(name) if name else None
            except OSError:
                continue
            if self._library is not None:
                break
        if self._library is None:
            raise RuntimeError("the CUDA runtime (libcudart.so) is not on this machine")

    def stream(self) -> int:
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return int(stream.value or 0)

    def allocate(self, size: int) -> int:
        place = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(place), ctypes.c_size_t(size))
        return int(place.value or 0)

    def free(self, place: int) -> None:
        self._call("cudaFree", ctypes.c_void_p(place))

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        places = ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size)
        self._call("cudaMemcpyAsync", *places, ctypes.c_int(kind), ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError(f"CUDA: {name} ended with error {code}")
