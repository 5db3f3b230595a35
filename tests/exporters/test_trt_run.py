"""The TensorRT runner against a GPU and an engine made of dictionaries."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np
import pytest
from eqnet_exporters import tensorrt
from eqnet_exporters.tensorrt import TensorRtExporter
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt.run import TensorRtRunner

from eqnet.spec.errors import ArtifactError, EqnetError


class FakeCuda:
    """GPU memory in a dictionary, to check what the runner copies and when."""

    stream = 7
    gpu = "SM89"

    def __init__(self) -> None:
        self.memory: dict[int, bytes] = {}
        self.freed: list[int] = []
        self.waits = 0

    def capability(self) -> str:
        return self.gpu

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

    __name__, __version__ = "fake_trt", "1.0"
    cuda: FakeCuda
    num_io_tensors = 2
    least = 1

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, plan):
        self.plan = plan
        return self if plan in (b"plan", b"new") else None

    def create_execution_context(self):
        self.address: dict[str, int] = {}
        return self

    def get_tensor_name(self, index):
        return ("input", "logits")[index]

    def get_tensor_profile_shape(self, name, index):
        assert (name, index) == ("input", 0)
        return [(size, 3, 2, 2) for size in (self.least, 2, 4)]

    def get_tensor_mode(self, name):
        return {"input": "in", "logits": "out"}[name]

    def set_input_shape(self, name, shape):
        assert self.least <= shape[0] <= 4, "beyond the engine's profile"
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
    trt: Any = FakeTrt()
    cuda: Any = FakeCuda()
    trt.cuda = cuda
    runner = TensorRtRunner(trt, b"plan", cuda)
    x = np.random.default_rng(0).normal(size=(10, 3, 2, 2)).astype(np.float32)
    sums = x.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(runner(x), np.stack([sums, -sums], 1), rtol=1e-5, atol=1e-5)
    assert cuda.waits == 3
    assert cuda.freed == [], "buffers of the largest batch are reused"
    with pytest.raises(EqnetError, match="another GPU"):
        TensorRtRunner(trt, b"other", cuda)


def test_a_batch_below_the_least_of_the_engine_is_filled_up():
    trt: Any = FakeTrt()
    cuda: Any = FakeCuda()
    trt.cuda, trt.least = cuda, 3
    x = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    sums = x.sum(axis=(1, 2, 3))
    found = TensorRtRunner(trt, b"plan", cuda)(x)
    np.testing.assert_allclose(found, np.stack([sums, -sums], 1), rtol=1e-5, atol=1e-5)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An artifact with an engine for SM89, and what `open` loads and builds from it."""
    trt, built = FakeTrt(), []

    def build(trt, onnx, *, target, optimize=True):
        built.append(onnx)
        return trt_build.Engine(target, b"new", "")

    monkeypatch.setattr(TensorRtExporter, "unavailable", lambda self: None)
    monkeypatch.setattr(trt_build, "find_tensorrt", lambda: trt)
    monkeypatch.setattr(trt_build, "build", build)
    monkeypatch.setattr(tensorrt, "Cuda", FakeCuda)
    (tmp_path / "model.onnx").write_bytes(b"full")
    (tmp_path / "model.fp16.onnx").write_bytes(b"half")
    (tmp_path / "model.sm89.engine").write_bytes(b"plan")
    record(tmp_path, "fake_trt 1.0", "SM89", "SM89")
    return tmp_path, trt, built


def record(folder, builder: str, capability: str, target: str) -> None:
    engines = [{"capability": capability, "target": target}]
    (folder / "build.json").write_text(json.dumps({"builder": builder, "engines": engines}))


def test_the_shipped_engine_of_this_gpu_is_what_runs(shipped, caplog):
    folder, trt, built = shipped
    TensorRtExporter().open(folder / "model.onnx")
    assert (trt.plan, built, caplog.messages) == (b"plan", [], [])


def test_an_engine_built_for_the_gpu_of_the_export_runs_on_its_like(shipped):
    folder, trt, built = shipped
    (folder / "model.sm89.engine").rename(folder / "model.engine")
    record(folder, "fake_trt 1.0", "SM89", "CURRENT")
    TensorRtExporter().open(folder / "model.onnx")
    assert (trt.plan, built) == (b"plan", [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gpu", "it has no engine for SM90 (engines: SM89)"),
        ("builder", "built by fake_trt 0.9, not fake_trt 1.0"),
        ("engine", "model.sm89.engine: TensorRT cannot load the engine"),
        ("absent", "it has no engine for SM89"),
    ],
)
def test_without_a_matching_engine_one_is_built_and_that_is_said(
    shipped, caplog, monkeypatch, change, said
):
    folder, trt, built = shipped
    if change == "gpu":
        monkeypatch.setattr(FakeCuda, "gpu", "SM90")
    elif change == "builder":
        record(folder, "fake_trt 0.9", "SM89", "SM89")
    elif change == "engine":
        (folder / "model.sm89.engine").write_bytes(b"of another driver")
    else:
        (folder / "model.sm89.engine").unlink()
    TensorRtExporter().open(folder / "model.onnx")
    assert (trt.plan, built) == (b"new", [b"half"])
    (message,) = caplog.messages
    assert "building a new engine for this GPU" in message
    assert said in message


def test_a_float_twin_and_the_unoptimized_run_are_built_without_a_word(shipped, caplog):
    folder, _, built = shipped
    (folder / "float.onnx").write_bytes(b"float")
    TensorRtExporter().open(folder / "float.onnx")
    TensorRtExporter().open(folder / "model.onnx", optimize=False)
    assert built == [b"float", b"half"]
    assert caplog.messages == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"builder": "x", "engines": [1]}'])
def test_a_damaged_record_of_engines_is_one_line(shipped, content):
    folder, _, _ = shipped
    (folder / "build.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"build\.json: not a record of engines") as error:
        TensorRtExporter().open(folder / "model.onnx")
    assert "\n" not in str(error.value)
