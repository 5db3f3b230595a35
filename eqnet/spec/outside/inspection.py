"""What `eqnet inspect` finds in an ONNX file: its layers' forms, and what backends make of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eqnet.spec.scheme import Frozen

BITS_OF_INT8 = 8

TensorGranularity = Literal["per_tensor", "per_channel", "per_block"]
LayerKind = Literal["conv", "depthwise", "transposed", "linear", "product"]
FormName = Literal[
    "float", "qdq", "qonnx", "qoperator", "dynamic", "weights only", "activations only"
]
Precision = Literal["int8", "float", "unknown"]
BackendVerdict = Literal["loaded", "checked", "refused", "failed", "skipped"]


class TensorForm(Frozen):
    """How the file quantizes one tensor."""

    type: str = Field(description="storage type, such as 'int8'")
    bits: int = Field(description="of the integers: fewer than stored where a Clip follows")
    granularity: TensorGranularity = "per_tensor"
    axis: int | None = Field(default=None, description="along which the scales lie")
    symmetric: bool | None = Field(
        default=None,
        description="zero-points in the middle of the range; None where they are computed",
    )
    zero_point: int | None = Field(
        default=None, description="where all are the same; None where they differ or are computed"
    )
    dynamic: bool = Field(default=False, description="its scale is computed from the tensor")
    stored: bool = Field(
        default=True, description="False for QONNX's Quant, whose integers are in no tensor"
    )

    @property
    def lowest(self) -> int:
        """The lowest integer of the storage type."""
        return 0 if self.type.startswith("u") else -(1 << (self.bits - 1))

    @property
    def is_8_bit_integer(self) -> bool:
        """Whether it is stored as int8 or uint8."""
        return self.type in ("int8", "uint8")


class LayerForm(Frozen):
    """A Conv, ConvTranspose, Gemm or MatMul (or its integer form), and what stands around it."""

    name: str = Field(description="of the node; of its output where the node has none")
    op: str = Field(description="op type, as stored")
    kind: LayerKind = Field(description="'product' multiplies two activations")
    form: FormName
    weight: TensorForm | None = None
    weight_type: str | None = Field(default=None, description="element type, None without weights")
    weights: int = Field(default=0, description="number of weights")
    weight_bytes: int = Field(default=0, description="in the file")
    input: TensorForm | None = Field(default=None, description="of the quantizer at its input")
    producer: str = Field(default="", description="op type that makes the input; '' for an input")
    input_via: tuple[str, ...] = Field(
        default=(), description="op types between the nearest quantizer and the input"
    )
    output: TensorForm | None = Field(default=None, description="of the quantizer at its output")
    output_via: tuple[str, ...] = Field(
        default=(), description="op types between the output and its quantizer or its readers"
    )
    readers: tuple[str, ...] = Field(
        default=(), description="op types that read the output in float, 'output' for the graph's"
    )
    bias: str | None = Field(default=None, description="'int32', a float type, or None without")
    macs: int | None = Field(
        default=None, description="multiplications of one image; None where shapes are unknown"
    )

    @property
    def is_quantized(self) -> bool:
        """Whether both operands are integers in the file."""
        return self.form in ("qdq", "qonnx", "qoperator", "dynamic")


class LayerFinding(Frozen):
    """What one backend makes of one layer; `reason` and `remedy` where it is not int8."""

    name: str
    precision: Precision
    reason: str = ""
    remedy: str = ""


class BackendFinding(Frozen):
    """What one backend makes of the file.

    verdict: loaded: the runtime ran its own optimizer and said so. checked: by rules, without the
    runtime. refused: it takes no such file. failed: it broke down. skipped: it is not here.
    """

    backend: str
    verdict: BackendVerdict
    runtime: str = ""
    reason: str = Field(default="", description="of a verdict other than loaded or checked")
    remedy: str = ""
    proof: str = Field(default="", description="what the layers' precisions were read from")
    layers: tuple[LayerFinding, ...] = ()
    quantizers_left: int | None = Field(
        default=None, description="quantizers that run as nodes of their own, fused with nothing"
    )
    notes: tuple[str, ...] = ()


class Coverage(Frozen):
    """How much of the layers is in integers. Shares are in [0, 1], None where not known."""

    layers: int
    of_layers: int
    macs: float | None = None
    weight_bytes: float | None = None


class TensorInfo(Frozen):
    """An input or output of the file; a dimension that is free has its name, or '?'."""

    name: str
    type: str
    shape: tuple[int | str, ...] | None


class ModelSurvey(Frozen):
    """What the file itself says."""

    path: str
    bytes: int = Field(description="of the file and of the external data it names")
    external_files: tuple[str, ...] = ()
    producer: str = ""
    opsets: dict[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerForm, ...]
    forms: dict[FormName, int] = Field(description="layers of each form")
    operators: dict[str, int] = Field(description="op type -> count, without the layers")
    macs: int | None = Field(default=None, description="of all layers, for one image")
    weight_bytes: int = Field(description="of the layers' weights, as stored")
    quantized: Coverage
    notes: tuple[str, ...] = ()


class InspectReport(Frozen):
    """The answer of `eqnet inspect`."""

    schema_version: Literal[1] = 1
    profile: str | None = Field(default=None, description="of an artifact of eqnet")
    model: ModelSurvey
    backends: tuple[BackendFinding, ...]
