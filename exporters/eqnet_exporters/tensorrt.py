"""TensorRT: engines for NVIDIA GPUs, built and checked without one.

Beside ``model.onnx`` (float32 remainder, the parity graph that ONNX Runtime can execute too) the
artifact holds ``model.fp16.onnx`` when the profile's remainder is float16, one engine for each
compute capability, ``build.log`` with what the builder said, and ``build.json`` with its sums and
with what became of each layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from eqnet.backend.artifact import Parity
from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.files import write_file
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.protocol import Capabilities, Runner
from eqnet.spec.errors import ArtifactError, EqnetError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MODEL, BuildReport
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet.spec.reports import Check, LoweringNote, Verdict
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet_exporters.passes.rewrite import apply, notes_of
from eqnet_exporters.passes.tidy import tidy
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt import float16 as trt_float16
from eqnet_exporters.trt import inspect as trt_inspect
from eqnet_exporters.trt import log as trt_log
from eqnet_exporters.trt import lower as trt_lower
from eqnet_exporters.trt import report as trt_report
from eqnet_exporters.trt import rules as trt_rules
from eqnet_exporters.trt.build import EngineBatches
from eqnet_exporters.trt.cuda import Cuda, gpu_problem
from eqnet_exporters.trt.report import WITHOUT_INT8_CONVOLUTION
from eqnet_exporters.trt.run import TensorRtRunner
from eqnet_exporters.trt.shift_unsigned import shift_unsigned
from eqnet_exporters.trt.shipped import BUILD_SUMS, engine_name, load_shipped, read_sums
from eqnet_exporters.trt.worker import build_all

FLOAT16_MODEL = "model.fp16.onnx"
REWRITES = (shift_unsigned, trt_lower.to_signed_zero, tidy)
BUILD_LOG = "build.log"
SECTION = "===== engine for "
# An int8 weight takes 1 byte, and 2 or more if it was expanded; scales and padding need the rest.
BYTES_PER_INT8_WEIGHT = 1.5
FIXED_BYTES = 16 * 1024


class TensorRtExporter:
    """NVIDIA GPUs through TensorRT (`tensorrt`) or TensorRT for RTX (`tensorrt_rtx`)."""

    name = "tensorrt"
    own_files = (FLOAT16_MODEL, "*.engine", BUILD_LOG, BUILD_SUMS)
    capabilities = Capabilities(
        weight_granularities=frozenset(Granularity),
        weight_symmetries=frozenset({Symmetry.SYMMETRIC}),
        activation_symmetries=frozenset({Symmetry.SYMMETRIC}),
        storages=frozenset({"int8"}),
        min_bits=8,
        remainders=frozenset({"float32", "float16"}),
        zero_points=frozenset({"zero"}),
        unsigned=frozenset({"halved", "shifted"}),
        devices=frozenset({"GPU"}),
        engines=True,
    )

    def unavailable(self, profile: HardwareProfile | None = None) -> str | None:
        """Why engines cannot run here: no NVIDIA GPU, or no TensorRT."""
        if (reason := gpu_problem()) is not None:
            return reason
        if trt_build.find_tensorrt_or_none() is None:
            return "TensorRT is not installed (pip install 'eqnet[tensorrt]')"
        return None

    def runtime_version(self) -> str:
        """Such as ``tensorrt_rtx 1.7.1.116``. Raises if not installed."""
        return trt_build.version(trt_build.find_tensorrt())

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """Demands that TensorRT cannot execute: anything but int8 with zero-point 0.

        TensorRT parses a transposed convolution with int8 weights and computes it in float16,
        which is not what the integers say.
        """
        refusals = capability_refusals(profile, self.capabilities)
        if "conv_transpose" in profile.placement.quantize:
            refusals.append(
                "placement.quantize: conv_transpose, for which TensorRT has no int8 kernels "
                "(allowed: conv, depthwise_conv, linear)"
            )
        unbuilt = trt_build.left_out(profile.remainder)
        for target in set(profile.engines.targets) & set(unbuilt):
            refusals.append(
                f"engines.targets: {target} with remainder {profile.remainder}: "
                f"{unbuilt[target]} (allowed: SM80 and later, or remainder: float16)"
            )
        return refusals

    def lower(self, reference: ir.Model, profile: HardwareProfile) -> ir.Model:
        """int8 with zero-point 0 throughout, float biases. Raises ProfileError if it cannot be."""
        model = reference.clone()
        apply(model, REWRITES)
        trt_rules.require(model)
        return model

    def explain(self, reference: ir.Model, profile: HardwareProfile) -> list[LoweringNote]:
        """What `lower` changes and leaves, node by node."""
        return notes_of(reference.clone(), REWRITES)

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """Build one engine for each compute capability and write them with their log.

        Raises ProfileError for a graph against TensorRT's rules, MissingExtraError without
        TensorRT, and EqnetError when the builder refuses or does not show that the weights
        stayed in int8.
        """
        model = ir.load(folder / MODEL)
        trt_rules.require(model)
        written = []
        source, built = MODEL, model
        if profile.remainder == "float16":
            source, built = FLOAT16_MODEL, trt_float16.to_float16(model)
            write_file(folder / source, _serialized(built))
            written.append(source)
        trt, batches = trt_build.find_tensorrt(), EngineBatches.of(profile)
        targets = trt_build.targets(trt, profile.engines.targets, profile.remainder)
        engines = build_all(trt, folder / source, targets, batches)
        limit = _weights_limit(built)
        for engine in engines:
            _require_int8_weights(engine, limit)
            write_file(folder / engine_name(engine.target), engine.plan)
            written.append(engine_name(engine.target))
        command = trtexec(model, source, batches)
        sums = _sums(trt_build.version(trt), engines, built, limit, command)
        sums["left_out"] = _left_out(profile, targets)
        write_file(folder / BUILD_LOG, _log(sums, engines))
        write_file(folder / BUILD_SUMS, json.dumps(sums, indent=2) + "\n")
        return [*written, BUILD_LOG, BUILD_SUMS]

    def build_report(self, folder: Path) -> BuildReport:
        """What the builder made of the layers, from ``build.json``. Raises ArtifactError."""
        return trt_report.build_report(read_sums(folder / BUILD_SUMS))

    def extra_checks(self, folder: Path, parity: Parity) -> list[Check]:
        """TensorRT's rules on the graph, which need no TensorRT and so hold on any machine."""
        broken = trt_rules.problems(load_graph(folder / MODEL))
        verdict: Verdict = "passed"
        reason = "checked on the graph, without TensorRT"
        if broken:
            verdict, reason = "failed", trt_rules.first_of(broken)
        return [
            Check(
                name="tensorrt_rules",
                verdict=verdict,
                value=len(broken),
                limit=0,
                unit="broken",
                reason=reason,
            )
        ]

    def inspect(self, model: Path, layers: Sequence[LayerForm]) -> BackendFinding:
        """TensorRT's rules on any ONNX file, which need no TensorRT."""
        return trt_inspect.inspect(model, layers)

    def open(
        self,
        model: Path,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Runner:
        """Load the engine for the GPU that is present; `threads` means nothing on a GPU.

        An artifact's ``model.onnx`` stands for its engines: the one that was built for this
        GPU's compute capability is what runs. Where there is none an engine is built from the
        float16 twin, or else from ``model.onnx``, and a logged warning says so. From another file
        it is built in the profile's remainder. optimize=False
        always builds, at optimization level 0; TensorRT has no run without any optimization.
        Raises EqnetError where there is no GPU.
        """
        if (reason := self.unavailable()) is not None:
            raise EqnetError(f"tensorrt: {reason}")
        trt, cuda = trt_build.find_tensorrt(), Cuda()
        if optimize and (shipped := load_shipped(trt, cuda, model)) is not None:
            return shipped
        half = optimize and profile is not None and profile.remainder == "float16"
        engine = trt_build.build(trt, _content(model, half), target="CURRENT", optimize=optimize)
        return TensorRtRunner(trt, engine.plan, cuda)

    def int8_layers(
        self, folder: Path, layers: Mapping[str, str], profile: HardwareProfile | None = None
    ) -> list[str]:
        """Layers whose kernels read int8 in every engine that can (SM80 and later).

        Proved by the engines' own layers, as the builder listed them in build.log. Raises
        ArtifactError without that log.
        """
        path = folder / BUILD_LOG
        try:
            log = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{path}: cannot read the build log: {error}") from error
        types = []
        for target, text in _sections(log).items():
            if target not in WITHOUT_INT8_CONVOLUTION:
                types.append(trt_log.compute_types(text, layers))
        proved = []
        for name in layers:
            kinds = {of_engine.get(name) for of_engine in types}
            if kinds == {"Int8"}:
                proved.append(name)
        return proved


def _content(model: Path, half: bool) -> bytes:
    """What an engine is built from: the float16 twin of an artifact's model, or the file itself,
    where it is no artifact's in float16 if `half`."""
    twin = model.with_name(FLOAT16_MODEL)
    if model.name == MODEL:
        return (twin if twin.is_file() else model).read_bytes()
    if half:
        return _serialized(trt_float16.to_float16(load_graph(model)))
    return model.read_bytes()


def trtexec(model: ir.Model, source: str, batches: EngineBatches) -> str:
    """The command of NVIDIA's own tool that builds and times the same engine."""
    value = model.graph.inputs[0]
    assert value.shape is not None
    image = "x".join(str(size) for size in list(value.shape)[1:])
    sizes = zip(("min", "opt", "max"), batches, strict=True)
    shapes = " ".join(f"--{key}Shapes={value.name}:{size}x{image}" for key, size in sizes)
    return f"trtexec --onnx={source} --stronglyTyped {shapes} --saveEngine=model.engine"


def _serialized(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def _weights_limit(model: ir.Model) -> int:
    """Most bytes of weights that still mean: every int8 weight stayed in int8.

    model: the graph that is built, in which a float weight has the width it keeps.
    """
    size = 0.0
    for layer in trt_report.layers(model):
        width = BYTES_PER_INT8_WEIGHT if layer.width == 1 else layer.width
        size += layer.amount * width
    return FIXED_BYTES + int(size)


def _require_int8_weights(engine: trt_build.Engine, limit: int) -> None:
    size = trt_log.weights_memory(engine.log)
    if size is None:
        raise EqnetError(
            f"the build log of the {engine.target} engine does not say how much memory its "
            "weights take (wanted: a line 'Total Weights Memory'): int8 is not proved"
        )
    if size > limit:
        raise EqnetError(
            f"the {engine.target} engine keeps {size} bytes of weights (allowed: {limit}, "
            f"{BYTES_PER_INT8_WEIGHT} bytes for each int8 weight): part of the net is not in int8"
        )


def _sums(
    builder: str, engines: list[trt_build.Engine], built: ir.Model, limit: int, command: str
) -> dict[str, Any]:
    rows = trt_report.layer_rows(built, engines)
    return {
        "builder": builder,
        "trtexec": command,
        "weights": sum(row["weights"] for row in rows),
        "weights_bytes_limit": limit,
        "engines": [_record(engine) for engine in engines],
        "layers": rows,
    }


def _record(engine: trt_build.Engine) -> dict[str, Any]:
    return {
        "target": engine.target,
        "capability": _capability(engine.target),
        "file": engine_name(engine.target),
        "weights_bytes": trt_log.weights_memory(engine.log),
    }


def _capability(target: str) -> str:
    if target == "CURRENT":
        return Cuda().capability()
    return target


def _left_out(profile: HardwareProfile, targets: Sequence[str]) -> dict[str, str]:
    """Capabilities that would have had an engine by default, and why they have none."""
    if profile.engines.targets or "CURRENT" in targets:
        return {}
    return trt_build.left_out(profile.remainder)


def _log(sums: Mapping[str, Any], engines: list[trt_build.Engine]) -> str:
    parts = [f"{sums['builder']}\nthe same with NVIDIA's tool: {sums['trtexec']}\n"]
    for name, reason in sums["left_out"].items():
        parts.append(f"no engine for {name}: {reason}\n")
    for engine in engines:
        parts.append(f"{SECTION}{engine.target} =====\n{engine.log}\n")
    return "\n".join(parts)


def _sections(log: str) -> dict[str, str]:
    sections = {}
    for part in log.split(SECTION)[1:]:
        head, _, body = part.partition("\n")
        sections[head.split(" ", 1)[0]] = body
    return sections
