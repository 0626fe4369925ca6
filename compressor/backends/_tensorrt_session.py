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
    """A deserialised engine with buffers on the GPU. Call it with arrays by input name, one run at a time.

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
        self.inputs, self.outputs = _ends(self._trt, self._engine)

    def __call__(self, feeds: Dict[str, Any]) -> Dict[str, Any]:
        """Map arrays by input name to arrays by output name."""
        places: Dict[str, int] = {}
        given = {name: np.ascontiguousarray(feeds[name], self._dtype(name)) for name in self.inputs}
        for name, array in given.items():
            places[name] = self._buffer(name, array.nbytes)
            self._cuda.copy(places[name], array.ctypes.data, array.nbytes, _TO_DEVICE, self._stream)
            self._set_shape(name, array.shape)
        results = {name: np.empty(self._shape(name), self._dtype(name)) for name in self.outputs}
        for name, array in results.items():
            places[name] = self._buffer(name, array.nbytes)
        if not self._execute(places):
            raise RuntimeError("TensorRT did not run the engine")
        for name, array in results.items():
            self._cuda.copy(array.ctypes.data, places[name], array.nbytes, _TO_HOST, self._stream)
        self._cuda.wait(self._stream)
        return results

    def _dtype(self, name: str) -> Any:
        if hasattr(self._engine, "get_tensor_dtype"):
            return self._trt.nptype(self._engine.get_tensor_dtype(name))
        return self._trt.nptype(self._engine.get_binding_dtype(self._engine.get_binding_index(name)))  # TensorRT 8.2

    def _set_shape(self, name: str, shape: Tuple[int, ...]) -> None:
        if hasattr(self._context, "set_input_shape"):
            self._context.set_input_shape(name, shape)
        else:
            self._context.set_binding_shape(self._engine.get_binding_index(name), shape)

    def _shape(self, name: str) -> Tuple[int, ...]:
        if hasattr(self._context, "get_tensor_shape"):
            return tuple(self._context.get_tensor_shape(name))
        return tuple(self._context.get_binding_shape(self._engine.get_binding_index(name)))

    def _execute(self, places: Dict[str, int]) -> bool:
        if hasattr(self._context, "execute_async_v3"):
            for name, place in places.items():
                self._context.set_tensor_address(name, place)
            return bool(self._context.execute_async_v3(self._stream))
        bound = [0] * self._engine.num_bindings
        for name, place in places.items():
            bound[self._engine.get_binding_index(name)] = place
        return bool(self._context.execute_async_v2(bound, self._stream))

    def _buffer(self, name: str, size: int) -> int:
        """Memory on the GPU for a tensor, kept from call to call."""
        place, held = self._buffers.get(name, (0, 0))
        if held < size:
            if place:
                self._cuda.free(place)
            place = self._cuda.allocate(size)
            self._buffers[name] = (place, size)
        return place


def _ends(trt: Any, engine: Any) -> Tuple[List[str], List[str]]:
    """The names of the inputs and of the outputs."""
    if hasattr(engine, "num_io_tensors"):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    else:
        names = [engine.get_binding_name(i) for i in range(engine.num_bindings)]
        inputs = [name for name in names if engine.binding_is_input(name)]
    return inputs, [name for name in names if name not in inputs]


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
