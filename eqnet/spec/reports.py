"""Results of the commands: what is printed, saved as JSON and put in reports."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eqnet.spec.comparison import FloatComparison
from eqnet.spec.scheme import Form, Frozen, Scales
from eqnet.spec.subnet import SubnetSpec

Verdict = Literal["passed", "failed", "skipped"]
CheckGroup = Literal["export", "quantization"]
FloatPrecision = Literal["float32", "bfloat16"]


class Check(Frozen):
    """One demand on an artifact and how it came out; `reason` says why it failed or was skipped.

    group: the question that it helps to answer. export: does the runtime compute what PyTorch's
    subnet computes? quantization: does it still do what the float model does?
    """

    name: str
    group: CheckGroup = "export"
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    reason: str = ""


class LoweringNote(Frozen):
    """What an exporter did to one node of the neutral graph, or why it left it as it was."""

    rewrite: str
    node: str
    changed: bool
    text: str


class VerifyReport(Frozen):
    """verify.json of an artifact."""

    schema_version: Literal[1] = 1
    artifact: str
    digest: str | None = Field(
        default=None, description="of the manifest, by which the artifact is known"
    )
    profile: str
    backend: str
    runtime: str = Field(description="name and version of what executed the graph")
    verdict: Verdict = Field(description="failed if the export or the quantization failed")
    export_verdict: Verdict | None = Field(
        default=None, description="the runtime against PyTorch's subnet: is the export right?"
    )
    quantization_verdict: Verdict | None = Field(
        default=None, description="the runtime against the float model: is the quantization good?"
    )
    checks: tuple[Check, ...]
    images: int
    accuracy: float | None = Field(
        default=None, description="in the runtime, on the stored images, in [0, 1]"
    )
    test_images: int | None = Field(default=None, description="of the dataset given to verify")
    test_accuracy: float | None = Field(default=None, description="in the runtime, on those")
    top1_agreement: float | None = Field(
        default=None, description="share of images with the class of PyTorch's subnet"
    )
    against_float: FloatComparison | None = Field(
        default=None, description="the runtime against the float model; None: not in the artifact"
    )
    int8_layers: int | None = Field(default=None, description="layers proved to run in int8")
    layers: int = 0
    host: dict[str, str]


class Latency(Frozen):
    """Latency of one session, in milliseconds for a batch."""

    median: float
    p90: float
    p99: float
    minimum: float
    mean: float
    throughput: float = Field(description="images per second at the median")
    samples: tuple[float, ...]


class BenchReport(Frozen):
    """bench.json of an artifact: the artifact against the float model in the same runtime."""

    schema_version: Literal[1] = 1
    artifact: str
    model: str | None = Field(
        default=None, description="where the network comes from, as in the manifest"
    )
    input_shape: tuple[int, int, int] | None = Field(
        default=None, description="C, H, W of one image"
    )
    supernet: str | None = Field(
        default=None, description="sha256 of the supernet that the subnet is of"
    )
    profile: str
    backend: str
    verdict: Verdict
    reason: str = ""
    batch: int
    threads: int
    quantized: Latency | None = None
    float32: Latency | None = Field(
        default=None, description="the float model's, which ran in `float_precision`"
    )
    float_precision: FloatPrecision = "float32"
    ratio: float | None = Field(
        default=None, description="median of paired quantized / float times; below 1 is faster"
    )
    ratio_interval: tuple[float, float] | None = Field(
        default=None, description="95% bootstrap interval of the ratio"
    )
    host: dict[str, str]


Judge = Literal["labels", "float model"]


class EvalReport(Frozen):
    """Accuracy of one uniform subnet in PyTorch."""

    schema_version: Literal[1] = 1
    supernet: str = Field(description="path of the supernet, or 'bundled'")
    form: Form
    weight_bits: int
    activation_bits: int
    placement: str = Field(description="name of the profile whose quantizers were used, or 'paper'")
    scales: Scales = Field(default=Scales.FREE, description="of weights and of activations")
    dataset: str
    split: str
    images: int
    accuracy: float = Field(description="top-1, in [0, 1]")
    judge: Judge = Field(default="labels", description="what the accuracy is taken against")
    interval: tuple[float, float] = Field(description="95% bootstrap interval of the accuracy")

    @property
    def label(self) -> str:
        """A short name, such as ``w4a4 per_tensor:asymmetric/symmetric``."""
        scales = "" if self.scales is Scales.FREE else f" {self.scales}"
        return f"w{self.weight_bits}a{self.activation_bits} {self.form.label()}{scales}"


class FrontPoint(Frozen):
    """One subnet of a Pareto front; `accuracy_predicted` in [0, 1], `cost` in the report's unit."""

    accuracy_predicted: float
    cost: float
    avg_weight_bits: float
    avg_activation_bits: float
    sha256: str


class SearchReport(Frozen):
    """search.json: what a search tried, what it found and why it stopped."""

    schema_version: Literal[1] = 1
    profile: str
    supernet: str = Field(description="path of the supernet, or 'bundled'")
    budgets: dict[str, float]
    unit: str = Field(description="unit of every cost in this report, such as 'ms' or 'KiB'")
    estimated: bool = Field(
        default=False, description="whether costs are estimates and nothing was measured or counted"
    )
    cost_in_float: float | None = Field(
        default=None, description="of the network without quantization, where cost is a formula"
    )
    float_precision: str = Field(
        default="float32", description="what that would run in: the profile's remainder"
    )
    evaluations: int = Field(description="subnets whose accuracy was predicted")
    front: tuple[FrontPoint, ...]
    best: SubnetSpec
    seconds: float
    stop_reason: str = Field(description="what ended the search")
    judge: Judge = Field(default="labels", description="what accuracies are taken against")
    slow: tuple[str, ...] = Field(
        default=(), description="demands that the target runs slowly, accepted by the profile"
    )
    kendall_tau: float | None = Field(
        default=None, description="rank correlation of the predictor with measured accuracies"
    )
    pearson: float | None = None
