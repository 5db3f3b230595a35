"""Parsing and building TensorRT engines: `tensorrt` where it can work, else `tensorrt_rtx`.

TensorRT for RTX builds for a named compute capability on a machine without a GPU. TensorRT
itself builds for the GPU that is present, and cannot build without one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eqnet.spec.errors import EqnetError, MissingExtraError, ProfileError, one_line
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet_exporters.trt.cuda import gpu_problem

MODULES = ("tensorrt", "tensorrt_rtx")
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120")
LARGEST_BATCH = 32
# What the builder says of a net with a Linear layer for SM75: "FP32 GEMM is not supported".
WITHOUT_FLOAT32 = {"SM75": "TensorRT compiles no float32 matrix products for it"}


class EngineBatches(NamedTuple):
    """The batches of an engine's optimization profile: least, fastest and most."""

    least: int = 1
    best: int = 1
    most: int = LARGEST_BATCH

    @classmethod
    def of(cls, profile: HardwareProfile) -> EngineBatches:
        """What a hardware profile asks for."""
        best, rules = profile.bench.batch, profile.engines
        return cls(rules.min_batch, best, rules.max_batch or max(best, LARGEST_BATCH))


@dataclass(frozen=True)
class Engine:
    """One built engine: the compute capability it is for, its bytes and what the builder said."""

    target: str
    plan: bytes
    log: str


def find_tensorrt() -> Any:
    """The TensorRT module that can build here. Raises MissingExtraError if there is none."""
    module = find_tensorrt_or_none()
    if module is None:
        raise MissingExtraError(
            "TensorRT is not installed (install one: pip install 'eqnet[tensorrt]' for data-centre "
            "GPUs, or pip install 'eqnet[tensorrt-rtx]', which builds without a GPU)"
        )
    return module


def find_tensorrt_or_none() -> Any | None:
    """`find_tensorrt`, with None in place of the error."""
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):
            continue  # absent, or the vendor's stub without its libraries
        if not hasattr(module, "Builder"):
            continue
        if builds_without_gpu(module) or gpu_problem() is None:
            return module
    return None


def builds_without_gpu(trt: Any) -> bool:
    """Whether this TensorRT can build for a compute capability that is not present."""
    return hasattr(trt, "ComputeCapability")


def version(trt: Any) -> str:
    """Name and version, such as ``tensorrt_rtx 1.7.1.116``."""
    return f"{trt.__name__} {trt.__version__}"


def left_out(remainder: str) -> dict[str, str]:
    """Compute capabilities that no engine with this remainder is built for, and why."""
    if remainder == "float32":
        return WITHOUT_FLOAT32
    return {}


def targets(trt: Any, wanted: Sequence[str] = (), remainder: str = "float16") -> tuple[str, ...]:
    """Compute capabilities to build for: those wanted, else TARGETS less those left out.

    TensorRT itself builds for the GPU that is present, whatever is wanted. Raises ProfileError
    for a capability that the builder does not offer.
    """
    if not builds_without_gpu(trt):
        return ("CURRENT",)
    offered = sorted(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
    for name in wanted:
        if name not in offered:
            raise ProfileError(
                f"engines.targets: {version(trt)} cannot build for {name} "
                f"(allowed: {', '.join(offered)})"
            )
    if wanted:
        return tuple(dict.fromkeys(wanted))
    unwanted = left_out(remainder)
    return tuple(target for target in TARGETS if target not in unwanted)


def build(
    trt: Any,
    onnx: bytes,
    *,
    target: str,
    batches: EngineBatches | None = None,
    optimize: bool = True,
) -> Engine:
    """Parse a QDQ model and build one strongly typed engine with dynamic batch.

    onnx: a serialized model whose one input is [N, C, H, W]. batches: the optimization profile.
    Raises EqnetError with TensorRT's first complaint.
    """
    logger, lines = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:
        raise EqnetError(f"{version(trt)} cannot start: {_first(lines, str(error))}") from error
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        said = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EqnetError(f"{version(trt)} cannot parse the model: {one_line(said)}")
    config = _config(trt, builder, network, batches or EngineBatches(), optimize)
    if target != "CURRENT" and builds_without_gpu(trt):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EqnetError(
            f"{version(trt)} cannot build for {target}: {_first(lines, 'no reason given')}"
        )
    return Engine(target, bytes(plan), "\n".join(lines))


def _strongly_typed(trt: Any) -> int:
    """The flag of a strongly typed network; a TensorRT without the flag has no other kind."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is None:
        return 0
    return 1 << int(flag)


def _config(trt: Any, builder: Any, network: Any, batches: EngineBatches, optimize: bool) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not optimize:
        config.builder_optimization_level = 0
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        image = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((size, *image) for size in batches))
    config.add_optimization_profile(profile)
    return config


def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger that keeps errors, warnings, the build's sums and the engine's layers."""
    lines: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]  # no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO or "LayerType: " in message:
                if "\n" not in message:
                    message = f"[{severity.name}] {message}"
                lines.append(message)

    return Logger(), lines


def _first(lines: list[str], otherwise: str) -> str:
    for line in lines:
        if line.startswith("[ERROR]"):
            return one_line(line[8:])
    return otherwise
