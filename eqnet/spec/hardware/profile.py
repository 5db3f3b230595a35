"""HardwareProfile: what a target can run, what costs there, and what parity it must keep."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from eqnet.spec.errors import unknown
from eqnet.spec.hardware.costs import CostModel
from eqnet.spec.hardware.limits import BATCH, MAX_SECONDS, PRECISION, REPEATS, THREADS
from eqnet.spec.scheme import (
    BITS,
    STORAGE_BITS,
    Form,
    Frozen,
    Granularity,
    Scales,
    Symmetry,
)

SCHEMA_VERSION = 1
Remainder = Literal["remainder"]
Budget = Literal["avg_weight_bits", "avg_activation_bits", "size_kib", "bitops", "cost"]
BUDGETS: tuple[Budget, ...] = (
    "avg_weight_bits",
    "avg_activation_bits",
    "size_kib",
    "bitops",
    "cost",
)
"""What a search can be held to: bits on average, KiB of weights, 10^9 bit-operations (multiply-adds
x weight bits x activation bits), and the profile's own cost."""
OpGroup = Literal["conv", "depthwise_conv", "conv_transpose", "linear"]
# A device of OpenVINO or the kind of one of another runtime, alone or in a list to choose from.
# Runtimes number GPUs and NPUs; the CPU is one.
_ONE = r"(CPU|(GPU|NPU)(\.\d+)?)"
DEVICE = rf"{_ONE}|AUTO|(AUTO|HETERO|MULTI):{_ONE}(,{_ONE})*"
DEVICE_FORMS = "CPU, GPU, GPU.0, NPU, AUTO, or AUTO:, HETERO: or MULTI: with a list such as GPU,CPU"
CarrierGroup = Literal["add", "concat", "pool", "mul", "activation", "other"]


# In the order in which the canonical form has them.
COST_DEFAULTS = {
    "model": None,
    "table": None,
    "rows": 16,
    "columns": 16,
    "tops": 100.0,
    "gbps": 300.0,
}


class WeightRules(Frozen):
    """How the target stores weights.

    scales: with ``power_of_two`` every scale is one after batch norm is absorbed.
    reduce_range: at most 7 of the 8 bits of storage, so that two products of an unsigned
    activation and a weight fit in the 16-bit sums of x86 CPUs without VNNI.
    """

    granularity: Granularity
    symmetry: Symmetry
    storage: Literal["int8"] = "int8"
    scales: Scales = Scales.FREE
    reduce_range: bool = False

    @property
    def storage_bits(self) -> Literal[7, 8]:
        """Bits of storage that weights may use: 8, or 7 with `reduce_range`."""
        return 7 if self.reduce_range else STORAGE_BITS


class ActivationRules(Frozen):
    """How the target stores activations, always with one scale for a tensor.

    storage ``by_sign``: symmetric tensors that go below zero in int8, all others in uint8; with
    ``symmetry: symmetric`` every zero-point then is 0.
    With ``zero_point: zero`` in signed storage a non-negative tensor of b bits is held as the
    unsigned form of b - 1 bits, because its negative half would stay empty. With ``unsigned:
    shifted`` it has all b bits where the layers around it can take an offset into their biases:
    where a layer makes it and only layers without padding read it.
    """

    symmetry: Symmetry
    storage: Literal["uint8", "int8", "by_sign"] = "uint8"
    zero_point: Literal["free", "zero"] = "free"
    unsigned: Literal["halved", "shifted"] = "halved"
    scales: Scales = Scales.FREE

    @model_validator(mode="after")
    def _consistent(self) -> ActivationRules:
        if self.zero_point == "zero" and self.symmetry is Symmetry.ASYMMETRIC:
            raise ValueError("zero_point 'zero' needs symmetry 'symmetric'")
        if self.zero_point == "zero" and self.storage != "int8":
            raise ValueError("zero_point 'zero' needs storage 'int8'")
        if self.unsigned == "shifted" and self.zero_point != "zero":
            raise ValueError("unsigned 'shifted' needs zero_point 'zero'")
        return self


class Placement(Frozen):
    """Where quantizers stand beside the inputs of Conv and Linear.

    residual_bits: what readers other than Conv and Linear see of a tensor that a quantized
    Conv reads too: an 8-bit carrier, the same narrow bits, or the float value.
    add: quantize both operands of a sum, only the one that no convolution can absorb, or none.
    carriers: other op groups whose operands are 8-bit: pool, concat, mul (both factors),
    activation (functions such as sigmoid and Hardswish that no quantizer can absorb), and other
    (whatever else reads a convolution's output).
    """

    quantize: tuple[OpGroup, ...] = ("conv", "depthwise_conv", "linear")
    residual_bits: Literal["same", "8", "float"] = "8"
    add: Literal["both", "skip", "none"] = "none"
    carriers: tuple[CarrierGroup, ...] = ()


class PinnedLayer(Frozen):
    """Layers with a fixed choice: `first`, `last`, or a glob over layer names."""

    layers: str
    bits: int | Remainder = 8

    @field_validator("bits")
    @classmethod
    def _known(cls, value: int | str) -> int | str:
        if value != "remainder" and value not in BITS:
            raise ValueError(f"{value} bits (allowed: {BITS[0]} to {BITS[-1]}, or 'remainder')")
        return value


class ParityRules(Frozen):
    """What verification demands.

    top1_agreement: share of images with the same top-1 class as PyTorch, optimizations on.
    semantics_agreement: the same with the runtime's optimizations off. Both pass over images
    whose two best logits in PyTorch lie within 2 steps of an 8-bit grid over the logits' range.
    logit_error_steps: largest 99th percentile of |logit - PyTorch logit|, in steps of an 8-bit
    grid over the range of the PyTorch logits.
    accuracy_drop: largest loss of accuracy against PyTorch, in percentage points.
    float_agreement: share of images with the same top-1 class as the float model.
    float_accuracy_drop: largest loss of accuracy against the float model, in percentage points.

    The first four ask whether the export is right, the last two whether the quantization is
    good; these two fail only where chance does not explain what is missing.
    """

    top1_agreement: Annotated[float, Field(ge=0, le=1)] = 0.995
    semantics_agreement: Annotated[float, Field(ge=0, le=1)] = 0.999
    logit_error_steps: Annotated[float, Field(ge=0)] = 8.0
    accuracy_drop: Annotated[float, Field(ge=0)] = 0.2
    float_agreement: Annotated[float, Field(ge=0, le=1)] = 0.9
    float_accuracy_drop: Annotated[float, Field(ge=0)] = 1.0


EARLIER_REPEATS = 200
"""What unset `repeats` were before a benchmark could end by itself; a profile's hash has it."""


class BenchRules(Frozen):
    """How latency is measured: batch size, threads, and when it is enough.

    repeats: so many rounds; unset: until the 95% intervals' half widths are at most `precision`
    of the medians, or `max_seconds` are spent.
    """

    batch: Annotated[int, Field(ge=BATCH[0], le=BATCH[1])] = 1
    threads: Annotated[int, Field(ge=THREADS[0], le=THREADS[1])] = 2
    repeats: Annotated[int, Field(ge=REPEATS[0], le=REPEATS[1])] | None = None
    precision: Annotated[float, Field(ge=PRECISION[0], le=PRECISION[1])] = 0.02
    max_seconds: Annotated[float, Field(ge=MAX_SECONDS[0], le=MAX_SECONDS[1])] = 10.0


class EngineRules(Frozen):
    """Engines that are built ahead of time, as TensorRT's are.

    targets: compute capabilities, such as SM89; empty: all that the builder offers by default.
    min_batch, max_batch: batches that an engine takes, of which it runs bench.batch fastest;
    unset, max_batch is 32, or bench.batch where that is more.
    """

    targets: tuple[Annotated[str, Field(pattern=r"^SM\d{2,3}$")], ...] = ()
    min_batch: Annotated[int, Field(ge=BATCH[0], le=BATCH[1])] = 1
    max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None


class HardwareProfile(Frozen):
    """One deployment target; the YAML files in hw_profiles/ are of this form."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=64)]
    description: str = ""
    backend: str = Field(description="name of an exporter: an entry point of 'eqnet.exporters'")
    opset: Annotated[int, Field(ge=21, le=25)] = 21
    isa: str | None = Field(
        default=None,
        description="instruction set of the target's CPUs: what its latency needs and, as 'vnni' "
        "with 8-bit weights, its integers too",
    )
    device: str | None = Field(
        default=None,
        description="the runtime's device, such as CPU, GPU.0, NPU, AUTO or HETERO:GPU,CPU; "
        "unset: the backend's own",
    )
    weights: WeightRules
    activations: ActivationRules
    bits: tuple[tuple[int, int], ...] = Field(
        default=((8, 8),),
        validate_default=True,
        description="allowed (weight bits, activation bits) pairs",
    )
    remainder: Literal["float32", "float16", "bfloat16"] = "float32"
    placement: Placement = Placement()
    search_groups: tuple[OpGroup | Literal["add", "activated", "stem"], ...] = Field(
        default=(),
        description="op groups that the search may leave in the remainder; activated: layers "
        "before a Swish, sigmoid or their like; stem: all layers before one of a few cuts",
    )
    pinned: tuple[PinnedLayer, ...] = ()
    accept_slow: tuple[str, ...] = Field(
        default=(),
        description="keys that the backend refuses as slow, to be executed exactly all the same",
    )
    cost: CostModel
    budgets: dict[Budget, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    parity: ParityRules = ParityRules()
    bench: BenchRules = BenchRules()
    engines: EngineRules = EngineRules()

    @field_validator("cost", mode="before")
    @classmethod
    def _own_parameters(cls, value: object) -> object:
        """Without what manifests of earlier versions hold of other cost models."""
        if not isinstance(value, dict) or not COST_DEFAULTS.keys() <= value.keys():
            return value
        return {key: item for key, item in value.items() if item != COST_DEFAULTS[key]}

    @field_validator("bits")
    @classmethod
    def _known_bits(
        cls, value: tuple[tuple[int, int], ...], info: ValidationInfo
    ) -> tuple[tuple[int, int], ...]:
        if not value:
            raise ValueError("no pair given (allowed: at least one [weight bits, activation bits])")
        for pair in value:
            if any(bits not in BITS for bits in pair):
                raise ValueError(
                    f"[{pair[0]}, {pair[1]}] (allowed: {BITS[0]} to {BITS[-1]} bits each)"
                )
        _require_room([pair[0] for pair in value], info)
        return value

    @field_validator("pinned")
    @classmethod
    def _fit_in_storage(
        cls, value: tuple[PinnedLayer, ...], info: ValidationInfo
    ) -> tuple[PinnedLayer, ...]:
        _require_room([pin.bits for pin in value if isinstance(pin.bits, int)], info)
        return value

    @field_validator("accept_slow")
    @classmethod
    def _known_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        keys = [*cls.model_fields]
        parts: dict[str, type[Frozen]] = {
            "weights": WeightRules,
            "activations": ActivationRules,
            "placement": Placement,
        }
        for name, part in parts.items():
            keys += [f"{name}.{key}" for key in part.model_fields]
        for key in value:
            if key not in keys:
                raise ValueError(unknown("key", key, keys))
        return value

    @field_validator("device")
    @classmethod
    def _well_formed(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(DEVICE, value):
            raise ValueError(f"{value!r} is no device name (allowed: {DEVICE_FORMS})")
        return value

    @field_validator("engines")
    @classmethod
    def _batches_in_order(cls, value: EngineRules, info: ValidationInfo) -> EngineRules:
        bench = info.data.get("bench")
        best = bench.batch if isinstance(bench, BenchRules) else value.min_batch
        if not value.min_batch <= best <= (value.max_batch or best):
            raise ValueError(
                f"batches {value.min_batch} to {value.max_batch or best} "
                f"(allowed: a range that holds bench.batch, {best})"
            )
        return value

    def device_kinds(self) -> tuple[str, ...]:
        """What `device` names, without numbers: ``HETERO:GPU.0,CPU`` is HETERO, GPU and CPU."""
        if self.device is None:
            return ()
        names = re.split("[:,]", self.device)
        return tuple(dict.fromkeys(name.partition(".")[0] for name in names))

    def form(self) -> Form:
        """The one form that every subnet of this profile has."""
        return Form(
            weight_granularity=self.weights.granularity,
            weight_symmetry=self.weights.symmetry,
            activation_symmetry=self.activations.symmetry,
        )

    def graph_sha256(self) -> str:
        """Hash of what decides which graph a subnet becomes, and what runs it.

        Another cost model, other budgets and another search change no latency.
        """
        keys = {"backend", "opset", "device", "weights", "activations", "remainder", "placement"}
        text = json.dumps(self.model_dump(mode="json", include=keys), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def sha256(self) -> str:
        """Hash of the canonical form of the resolved profile.

        It has the parameters of all cost models, and no key that came later where that has its
        default, so that what was searched with an earlier version is still known as this profile's.
        """
        content = self.model_dump(mode="json")
        content["cost"] = COST_DEFAULTS | content["cost"]
        if self.activations.unsigned == "halved":
            content["activations"].pop("unsigned")
        for key in ("precision", "max_seconds"):
            if content["bench"][key] == BenchRules.model_fields[key].default:
                content["bench"].pop(key)
        if self.bench.repeats is None:
            content["bench"]["repeats"] = EARLIER_REPEATS
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _require_room(bits: list[int], info: ValidationInfo) -> None:
    """Raise ValueError for weight bits that the rules for weights, already read, leave no room."""
    weights = info.data.get("weights")
    most = weights.storage_bits if isinstance(weights, WeightRules) else STORAGE_BITS
    if max(bits, default=0) > most:
        raise ValueError(
            f"{max(bits)}-bit weights with weights.reduce_range (allowed: {BITS[0]} to {most})"
        )
