"""What the OpenVINO exporter runs: compiled models, devices, and the int8 proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eqnet.backend.graph.reading import load_graph
from eqnet.backend.machine.isa import onednn_cpu
from eqnet.backend.protocol import Array
from eqnet.spec.errors import ArtifactError, EqnetError, MissingExtraError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet_exporters.ov.layer_names import LayerNames, node_info

CPU = "CPU"
PLUGINS = ("AUTO", "HETERO", "MULTI")  # they choose among devices and are none themselves
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# Integer weights of depthwise and transposed convolutions are of these runtime types too.
LAYER_TYPES = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected"})
LAYER_TYPES |= {"MatMul"}
# The CPU plugin's own switch for its low-precision transformations: with it off, quantizers
# stay in the graph as they are and every layer multiplies in float32.
LOW_PRECISION = "LP_TRANSFORMS_MODE"
# Left on, the plugin rounds the float inputs of a fully connected layer with int8 weights to
# int8 by scales of its own: logits were off by 44 steps of 8 bits in a 3-bit classifier.
DYNAMIC_QUANTIZATION = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


@dataclass(frozen=True)
class Setting:
    """How a model is compiled.

    device: OpenVINO's name. precision: of everything that is not int8, a key of HINTS.
    optimize: False leaves every quantizer in the graph, in float32 on the CPU.
    """

    device: str = CPU
    precision: str = "float32"
    optimize: bool = True
    threads: int | None = None

    @classmethod
    def of(
        cls, profile: HardwareProfile | None, *, optimize: bool = True, threads: int | None = None
    ) -> Setting:
        """What a profile asks for; None is float32 on the CPU.

        Without optimizations the graph's meaning is what counts, and no device has another.
        """
        if profile is None or not optimize:
            return cls(optimize=optimize, threads=threads)
        return cls(profile.device or CPU, profile.remainder, threads=threads)

    def config(self) -> dict[str, Any]:
        """Properties for ``compile_model``."""
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[self._executed_precision()],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.device == CPU:
            properties |= self._of_the_cpu()
        elif may_use_cpu(self.device):
            properties["DEVICE_PROPERTIES"] = {CPU: self._of_the_cpu()}
        if not self.optimize:
            properties[LOW_PRECISION] = "NO"
        return properties

    def _executed_precision(self) -> str:
        """float32 where the CPU has no bfloat16.

        OpenVINO falls back by itself, but not where `ONEDNN_MAX_CPU_ISA` alone takes bfloat16
        away: a float convolution then gave no images at all.
        """
        lacks = may_use_cpu(self.device) and onednn_cpu().lacks("bf16")
        if lacks and self.precision == "bfloat16":
            return "float32"
        return self.precision

    def _of_the_cpu(self) -> dict[str, Any]:
        """Properties for the CPU alone, also where it is one of several devices."""
        properties: dict[str, Any] = {DYNAMIC_QUANTIZATION: 0}
        if self.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = self.threads
        return properties


class OpenVinoRunner:
    """A compiled model with one input and one output."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Array) -> Array:
        """float32 [N, C, H, W] -> float32 [N, classes], a copy that stays valid."""
        source = np.ascontiguousarray(inputs, dtype=np.float32)
        result = self._request.infer({0: source}, share_inputs=True, share_outputs=True)
        return np.array(result[0], dtype=np.float32)


def openvino() -> Any:
    """The package. Raises MissingExtraError if it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "OpenVINO is not installed (install it: pip install 'eqnet[openvino]')"
        ) from error
    return openvino


def version() -> str:
    """Such as ``openvino 2026.4.1``. Raises MissingExtraError if not installed."""
    return f"openvino {openvino().__version__.split('-', 1)[0]}"


def _named(device: str) -> list[str]:
    """What a device's name consists of: HETERO, GPU and CPU for ``HETERO:GPU,CPU``."""
    return device.replace(":", ",").split(",")


def may_use_cpu(device: str) -> bool:
    """Whether a device is the CPU, a list with it, or a plugin that chooses among all."""
    names = _named(device)
    return CPU in names or set(names) <= set(PLUGINS)


def absent_device(device: str) -> str | None:
    """Why this machine cannot run on `device`, or None; a list needs all that it names.

    A single GPU is ``GPU`` to OpenVINO and takes ``GPU.0`` too; the CPU takes no number.
    """
    present = [str(name) for name in openvino().Core().available_devices]
    for name in _named(device):
        if name in PLUGINS or name in present or f"{name}.0" in present:
            continue
        alone = name.removesuffix(".0")
        if alone in present and alone != CPU:
            continue
        return f"OpenVINO finds no device '{name}' here (available: {', '.join(present)})"
    return None


def read(ov: Any, core: Any, path: Path) -> Any:
    """A model file, ONNX or IR. Raises ArtifactError if there is none that OpenVINO can read."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file (allowed: an ONNX or OpenVINO model)")
    try:
        return core.read_model(str(path))
    except (RuntimeError, ValueError) as error:  # of a name that is no text, for one
        raise ArtifactError(
            f"{path}: OpenVINO {ov.__version__} cannot read it: {last_line(error)}"
        ) from error


def compile_model(path: Path, setting: Setting, properties: Mapping[str, Any] | None = None) -> Any:
    """Compile a model file. properties: beside those of the setting.

    Raises ArtifactError for a file that OpenVINO cannot read, and EqnetError for a device that
    is not here or does not take the model.
    """
    ov = openvino()
    core = ov.Core()
    model = read(ov, core, path)
    try:
        return core.compile_model(model, setting.device, setting.config() | dict(properties or {}))
    except (RuntimeError, ValueError) as error:
        reason = absent_device(setting.device) or f"OpenVINO cannot compile it: {last_line(error)}"
        raise EqnetError(f"{path}: {reason}") from error


def int8_layers(path: Path, onnx: Path, layers: Mapping[str, str], setting: Setting) -> list[str]:
    """Layers whose primitive is an int8 one in the compiled model's runtime graph.

    path: what is compiled. onnx: the graph with the layers' names. Raises EqnetError where the
    device keeps its runtime graph to itself.
    """
    runtime, names = runtime_graph(path, setting), LayerNames(load_graph(onnx))
    proved = {names.of(node) for node in int8_nodes(runtime)}
    return [name for name in layers if name in proved]


def runtime_graph(path: Path, setting: Setting) -> Any:
    """What the plugin made of a model file. Raises as `int8_layers`."""
    compiled = compile_model(path, setting)
    try:
        return compiled.get_runtime_model()
    except RuntimeError as error:
        raise EqnetError(
            f"{path}: device '{setting.device}' shows no runtime graph: {last_line(error)}"
        ) from error


def int8_nodes(runtime: Any) -> Iterator[Any]:
    """The layers of a runtime graph with an int8 primitive."""
    for node in runtime.get_ordered_ops():
        info = node_info(node)
        primitive = info.get("primitiveType", "").lower()
        if info.get("layerType") in LAYER_TYPES and primitive.endswith(("_i8", "_int8")):
            yield node


def last_line(error: BaseException) -> str:
    """The last line of OpenVINO's message that says something; the first ones name C++ files."""
    last = type(error).__name__
    for line in str(error).splitlines():
        if line.strip():
            last = line.strip()
    return last[:300]
