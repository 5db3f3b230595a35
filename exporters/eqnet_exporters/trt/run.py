"""Running a TensorRT engine with numpy in and out."""

from __future__ import annotations

from typing import Any

import numpy as np

from eqnet.backend.protocol import Array
from eqnet.spec.errors import EqnetError
from eqnet_exporters.trt.cuda import Cuda


class TensorRtRunner:
    """A loaded engine with one float32 input [N, C, H, W] and one float32 output [N, classes].

    GPU buffers grow to the largest batch seen and are reused, so a timed call is two copies
    and one execution. Batches beyond the engine's optimization profile run in several calls,
    and smaller ones than its least are filled up with zeros.
    """

    def __init__(self, trt: Any, plan: bytes, cuda: Cuda) -> None:
        self._cuda = cuda
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EqnetError("TensorRT cannot load the engine: it was built for another GPU")
        self._context = self._engine.create_execution_context()
        inputs, outputs = [], []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                inputs.append(name)
            else:
                outputs.append(name)
        self._input, self._output = inputs[0], outputs[0]
        least, _, most = self._engine.get_tensor_profile_shape(self._input, 0)
        self._least, self._largest = int(least[0]), int(most[0])
        self._buffers: dict[str, tuple[int, int]] = {}

    def __call__(self, inputs: Array) -> Array:
        """float32 [N, C, H, W] -> float32 [N, classes]."""
        batches = range(0, len(inputs), self._largest)
        parts = [self._run(inputs[start : start + self._largest]) for start in batches]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, inputs: Array) -> Array:
        count = len(inputs)
        source = np.ascontiguousarray(inputs, dtype=np.float32)
        if count < self._least:
            empty = np.zeros((self._least - count, *source.shape[1:]), np.float32)
            source = np.concatenate([source, empty])
        self._context.set_input_shape(self._input, source.shape)
        result = np.empty(tuple(self._context.get_tensor_shape(self._output)), dtype=np.float32)
        device_in = self._buffer(self._input, source.nbytes)
        device_out = self._buffer(self._output, result.nbytes)
        self._cuda.upload(device_in, source.ctypes.data, source.nbytes)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EqnetError("TensorRT failed to execute the engine")
        self._cuda.download(result.ctypes.data, device_out, result.nbytes)
        self._cuda.synchronize()
        return result[:count]

    def _buffer(self, name: str, size: int) -> int:
        """GPU memory of at least `size` bytes, bound to the tensor `name`."""
        address, held = self._buffers.get(name, (0, 0))
        if held < size:
            if address:
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address
