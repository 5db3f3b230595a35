"""What every exporter that executes with ONNX Runtime shares: sessions, and the int8 proof."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.graph.reading import reading_errors
from eqnet.backend.machine.isa import this_cpu
from eqnet.backend.protocol import Array, HostLimit
from eqnet.spec.errors import ArtifactError, MissingExtraError, one_line
from eqnet.spec.hardware.profile import HardwareProfile

INT8_OPS = (
    *("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger"),
    *("MatMulInteger", "DynamicQuantizeMatMul"),
)
X86 = ("x86_64", "AMD64", "i686", "i386")

# The session's entry that lets x86 fuse int8 activations as ARM does.
INT8_ALLOWED = "session.qdqisint8allowed"
# A protobuf message holds no more than twice this; what is larger is written beside it.
LARGE = 1 << 30
# Layout transformation renames `conv1` to `conv1_token_7`.
TOKEN = re.compile(r"_token_\d+$")


def unavailable() -> str | None:
    """Why ONNX Runtime cannot execute here, or None."""
    try:
        import onnxruntime  # noqa: F401  (the import is the test)
    except ImportError as error:
        return f"onnxruntime cannot be imported: {error}"
    return None


def version() -> str:
    """Name and version of the runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "the package 'onnxruntime' is not installed (install it: pip install onnxruntime)"
        ) from error
    return f"onnxruntime {onnxruntime.__version__}"


@dataclass(frozen=True)
class OrtRunner:
    """A session with one input and one output."""

    session: Any
    input: str

    def __call__(self, inputs: Array) -> Array:
        """Run float32 inputs [N, C, H, W] and return float32 logits [N, classes]."""
        logits: Array = self.session.run(None, {self.input: inputs})[0]
        return logits.astype(np.float32, copy=False)


def on_x86() -> bool:
    """Whether this machine's processor is an x86."""
    return platform.machine() in X86


def default_options(threads: int = 1) -> Any:
    """What a user's session has who sets the number of threads alone, without its warnings."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return options


def session_options(optimize: bool, threads: int | None, int8_activations: bool) -> Any:
    """Options under which the integers are those that the graph says, on every CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    # Threads that spin after a run slow down whatever runs next, such as the model compared with.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if int8_activations:
        # ONNX Runtime's default on ARM; on x86 this lets the same graph fuse as it does there.
        options.add_session_config_entry(INT8_ALLOWED, "1")
    elif on_x86() and this_cpu().missing("vnni") is not None:
        # Without VNNI the uint8 x int8 kernels saturate 16-bit sums; this takes uint8 x uint8.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def host_limit(profile: HardwareProfile) -> HostLimit | None:
    """Without VNNI, uint8 activations with 8-bit weights need the exact kernels, which are slow.

    int8 activations with int8 weights have exact kernels on every CPU.
    """
    wide = not profile.weights.reduce_range and profile.activations.storage == "uint8"
    if not wide or not this_cpu().adds_in_16_bits():
        return None
    return HostLimit(
        f"{this_cpu().missing('vnni')}: eqnet runs ONNX Runtime with session.x64quantprecision=1, "
        "exact but slow, without which weights in 8 bits overflow sums of 16 bits "
        "(remedy: profile onnxruntime_avx2, or weights.reduce_range)",
        exact=True,
    )


def has_int8_activations(model: onnx.ModelProto) -> bool:
    """Whether any QuantizeLinear of the graph stores int8."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3:
            continue
        if types.get(node.input[2]) == onnx.TensorProto.INT8:
            return True
    return False


def _read(path: Path) -> onnx.ModelProto:
    with reading_errors(path):
        return onnx.load(path)


def options_of(path: Path, *, optimize: bool, threads: int | None) -> Any:
    """The options of a session of an ONNX file. Raises ArtifactError if it is none."""
    return session_options(optimize, threads, has_int8_activations(_read(path)))


def open_model(
    path: Path, *, optimize: bool, threads: int | None, save_optimized: Path | None = None
) -> OrtRunner:
    """Load an ONNX file. Raises ArtifactError with one line if it is none or will not load."""
    options = options_of(path, optimize=optimize, threads=threads)
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
    return runner_of(path, options)


def runner_of(path: Path, options: Any) -> OrtRunner:
    """Load an ONNX file with these options. Raises ArtifactError if it will not load."""
    session = _session(path, options)
    return OrtRunner(session, session.get_inputs()[0].name)


def open_plain(path: Path, threads: int) -> OrtRunner:
    """Load an ONNX file with default options. Raises ArtifactError if it will not load."""
    options = default_options(threads)
    # Threads that spin after a run slow down the model that runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = _session(path, options)
    return OrtRunner(session, session.get_inputs()[0].name)


def _session(path: Path, options: Any) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ArtifactError(
            f"{path}: ONNX Runtime cannot load the graph: {one_line(error)}"
        ) from error


def optimized_nodes(path: Path, options: Any, scratch: Path) -> list[onnx.NodeProto]:
    """The graph as ONNX Runtime writes it after all optimizations, where a fused layer keeps its
    node's name. scratch: an empty folder. Raises ArtifactError if the graph does not load."""
    optimized = scratch / "optimized.onnx"
    options.optimized_model_filepath = str(optimized)
    if _bytes_of(path) > LARGE:
        entry = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{entry}file_name", "optimized.bin")
        options.add_session_config_entry(f"{entry}min_size_in_bytes", "1024")
    _session(path, options)
    return list(onnx.load(optimized, load_external_data=False).graph.node)


def _bytes_of(path: Path) -> int:
    """Of a model's tensors and what lies around them."""
    proto = onnx.load(path, load_external_data=False)
    size = path.stat().st_size
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            size += math.prod(tensor.dims) * 8
    return size


def int8_names(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of the layers that an optimized graph computes with integer kernels."""
    return {TOKEN.sub("", node.name) for node in nodes if node.op_type in INT8_OPS}


def int8_layers(path: Path, layers: Iterable[str]) -> list[str]:
    """Those of `layers` that ONNX Runtime's own optimized graph runs with integer kernels.

    Raises ArtifactError if the graph does not load.
    """
    options = session_options(True, 1, has_int8_activations(_read(path)))
    with scratch_folder() as folder:
        proved = int8_names(optimized_nodes(path, options, folder))
    return [layer for layer in layers if layer in proved]
