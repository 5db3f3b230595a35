"""The TensorRT runner against a GPU and an engine made of dictionaries."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from eqnet_exporters.trt_run import TensorRtRunner

from eqnet.spec.errors import EqnetError


class FakeCuda:
    """GPU memory in a dictionary, to check what the runner copies and when."""

    stream = 7

    def __init__(self) -> None:
        self.memory: dict[int, bytes] = {}
        self.freed: list[int] = []
        self.waits = 0

    def allocate(self, size: int) -> int:
        address = 1000 * (len(self.memory) + 1)
        self.memory[address] = bytes(size)
        return address

    def free(self, address: int) -> None:
        self.freed.append(address)

    def upload(self, address: int, host: int, size: int) -> None:
        self.memory[address] = ctypes.string_at(host, size)

    def download(self, host: int, address: int, size: int) -> None:
        ctypes.memmove(host, self.memory[address], size)

    def synchronize(self) -> None:
        self.waits += 1


class FakeTrt:
    """An engine that sums each image into two logits: the sum and its negative."""

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            self.level = level

    class TensorIOMode:
        INPUT, OUTPUT = "in", "out"

    cuda: FakeCuda
    num_io_tensors = 2

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, plan):
        return self if plan == b"plan" else None

    def create_execution_context(self):
        self.address: dict[str, int] = {}
        return self

    def get_tensor_name(self, index):
        return ("input", "logits")[index]

    def get_tensor_mode(self, name):
        return {"input": "in", "logits": "out"}[name]

    def set_input_shape(self, name, shape):
        assert shape[0] <= 4, "beyond the engine's profile"
        self.shape = shape

    def get_tensor_shape(self, name):
        return (self.shape[0], 2)

    def set_tensor_address(self, name, address):
        self.address[name] = address

    def execute_async_v3(self, stream):
        assert stream == FakeCuda.stream
        size = int(np.prod(self.shape)) * 4
        x = np.frombuffer(self.cuda.memory[self.address["input"]][:size], np.float32)
        sums = x.reshape(self.shape).sum(axis=(1, 2, 3))
        self.cuda.memory[self.address["logits"]] = np.stack([sums, -sums], 1).tobytes()
        return True


def test_runner_copies_runs_and_splits_large_batches():
    trt, cuda = FakeTrt(), FakeCuda()
    trt.cuda = cuda
    runner = TensorRtRunner(trt, b"plan", cuda, largest=4)
    x = np.random.default_rng(0).normal(size=(10, 3, 2, 2)).astype(np.float32)
    sums = x.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(runner(x), np.stack([sums, -sums], 1), rtol=1e-5, atol=1e-5)
    assert cuda.waits == 3
    assert cuda.freed == [], "buffers of the largest batch are reused"
    with pytest.raises(EqnetError, match="another GPU"):
        TensorRtRunner(trt, b"other", cuda)
