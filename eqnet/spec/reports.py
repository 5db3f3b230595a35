"""Results of the commands: what is printed, saved as JSON and put in reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from eqnet.spec.judging.comparison import FloatComparison, Location, OutputComparison
from eqnet.spec.scheme import Form, Frozen, Scales
from eqnet.spec.subnet import SubnetSpec

Verdict = Literal["passed", "failed", "skipped"]
CheckGroup = Literal["export", "quantization"]
FloatPrecision = Literal["float32", "bfloat16", "float16"]


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
    outputs: tuple[OutputComparison, ...] = Field(
        default=(), description="semantics and deployment run, against the subnet and float"
    )
    location: Location | None = Field(
        default=None,
        description="the first wrong tensor, where the logits are wrong or it was asked for",
    )
    int8_layers: int | None = Field(default=None, description="layers proved to run in int8")
    layers: int = 0
    host: dict[str, str]


class Latency(Frozen):
    """Latency of one session, in milliseconds for a batch."""

    median: float
    median_interval: tuple[float, float] | None = Field(
        default=None, description="95% interval of the median, by a bootstrap over blocks"
    )
    p90: float
    p99: float
    minimum: float
    mean: float
    throughput: float = Field(description="images per second at the median")
    mean_throughput: float | None = Field(
        default=None, description="images per second over all samples"
    )
    samples: tuple[float, ...]


class FloatTwin(Frozen):
    """The float model in one more precision, timed in the same turns as the artifact."""

    precision: FloatPrecision
    latency: Latency
    ratio: float = Field(description="as of the report, against this precision")
    ratio_interval: tuple[float, float]


class Sampling(Frozen):
    """How samples were taken, and why no more."""

    rounds: int = Field(description="timed calls of each model, in turns")
    legs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        description="rounds of each opening of the sessions"
    )
    warmup: int = Field(description="rounds of all legs that were not kept")
    seconds: float = Field(description="that the calls took, warm-up included")
    stopped: str = Field(description="why sampling ended, and the widest 95% interval")
    pinned: str = Field(description="the CPUs that all threads were kept on, or why they were not")


class Growth(Frozen):
    """How much slower than a baseline, by one measurement."""

    ratio: float = Field(description="the time over the baseline's; above 1 is slower")
    interval: tuple[float, float] = Field(description="95%, by a bootstrap over blocks")
    chance: float = Field(
        description="share of the bootstrap's medians at 1 or below: no slower than the baseline"
    )
    p_value: float = Field(description="of a rank test (Mann-Whitney) for slower, one-sided")
    sampling: Sampling | None = Field(default=None, description="None: in the report's own samples")


class BaselineComparison(Frozen):
    """What `--baseline` came to. kind: an artifact that ran in turns with this one, or the report
    of an earlier run; confirming: the second measurement that an alarm needs."""

    kind: Literal["artifact", "report"]
    path: str
    digest: str | None = Field(default=None, description="of an artifact's manifest")
    max_regression: float
    first: Growth
    confirming: Growth | None = None


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
    float_precision: FloatPrecision = Field(
        default="float32", description="the one in which the float model was fastest here"
    )
    ratio: float | None = Field(
        default=None, description="median of paired quantized / float times; below 1 is faster"
    )
    ratio_interval: tuple[float, float] | None = Field(
        default=None, description="95% interval of the ratio, by a bootstrap over blocks"
    )
    other_floats: tuple[FloatTwin, ...] = Field(
        default=(), description="the float model in the runtime's other precisions"
    )
    sampling: Sampling | None = None
    baseline: BaselineComparison | None = None
    more: tuple[BenchReport, ...] = Field(default=(), description="at the further batch sizes")
    host: dict[str, str]

    @property
    def batches(self) -> tuple[BenchReport, ...]:
        """This report and those at further batch sizes."""
        return (self, *self.more)

    def float_samples(self, precision: str) -> tuple[float, ...] | None:
        """The float model's samples in one precision, None where it was not timed in it."""
        if self.float32 is not None and self.float_precision == precision:
            return self.float32.samples
        for twin in self.other_floats:
            if twin.precision == precision:
                return twin.latency.samples
        return None


class GateRow(Frozen):
    """One artifact of a gate. failure: why it does not pass, in one line, with the exit code that
    the command of its own would have; baseline: whether its latency was compared."""

    artifact: str
    verify: VerifyReport | None = None
    bench: BenchReport | None = None
    baseline: str = ""
    failure: str | None = None
    exit_code: int = 0

    @property
    def verdict(self) -> Verdict:
        """Failed, or skipped where the real runtime did not run it, or passed."""
        if self.failure is not None:
            return "failed"
        reports = (self.verify, self.bench)
        if any(report is None or report.verdict == "skipped" for report in reports):
            return "skipped"
        return "passed"

    @property
    def why(self) -> str:
        """The failure, or what the reports say of what was skipped."""
        if self.failure is not None:
            return self.failure
        told = [] if self.bench is None else [self.bench.reason]
        if self.verify is not None and self.verify.verdict == "skipped":
            told += [check.reason for check in self.verify.checks if check.verdict == "skipped"]
        return "; ".join(dict.fromkeys(text for text in told if text))


class GateReport(Frozen):
    """`eqnet gate`: several artifacts, one verdict."""

    schema_version: Literal[1] = 1
    rows: tuple[GateRow, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed if any failed, else skipped if none was run, else passed."""
        verdicts = {row.verdict for row in self.rows}
        if "failed" in verdicts:
            return "failed"
        return "passed" if "passed" in verdicts else "skipped"


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


PICKS = ("knee", "fastest", "most-accurate")
"""What can be picked from a front by name: where the least is given up for a cheaper subnet (the
point farthest from the line between both ends), the cheapest, and the most accurate."""


class MeasuredScore(Frozen):
    """A subnet on validation images, as the integers that would be deployed.

    accuracy: top-1 in [0, 1], against the labels or the float model's classes (the report's
    `judge`); float_agreement: share of images with the float model's class, where it was asked for;
    kl: to the float model, or where that is not kept the 8-bit subnet, in nats, the mean over the
    images.
    """

    accuracy: float
    images: int
    float_agreement: float | None = None
    kl: float | None = None


class FrontPoint(Frozen):
    """One subnet of a Pareto front; `accuracy_predicted` in [0, 1], `cost` in the report's unit.

    size_kib: of all weights; bitops: 10^9 multiply-adds x weight bits x activation bits.
    label: of a baseline, its bits. None: not known, as in files of earlier versions.
    """

    accuracy_predicted: float
    cost: float
    avg_weight_bits: float
    avg_activation_bits: float
    size_kib: float | None = None
    bitops: float | None = None
    sha256: str
    label: str | None = None
    measured: MeasuredScore | None = None
    subnet: SubnetSpec | None = Field(default=None, description="the whole subnet, to be picked")


class GenerationRecord(Frozen):
    """A population of the genetic search: its best feasible accuracy, and its hypervolume.

    hypervolume: share of the box between no error at no cost and the worst uniform subnet that
    the population's front dominates, by error and cost; 0 while nothing is feasible.
    """

    generation: int
    accuracy: float | None
    hypervolume: float


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
    float_precision: str = Field(
        default="float32", description="of `float_network`: the profile's remainder"
    )
    objectives: tuple[str, ...] = Field(
        default=("cost",), description="what was minimised beside the predicted error"
    )
    evaluations: int = Field(description="predictions of a subnet's accuracy")
    front: tuple[FrontPoint, ...] = Field(description="cheapest first, as --pick counts, from 0")
    best: SubnetSpec
    choice: str = Field(default="", description="the rule by which `best` was chosen")
    baselines: tuple[FrontPoint, ...] = Field(
        default=(), description="uniform subnets, within the budgets or not"
    )
    float_network: dict[str, float] = Field(
        default_factory=dict, description="the float network's quantities, as far as known"
    )
    history: tuple[GenerationRecord, ...] = Field(
        default=(), description="of a genetic search, generation by generation"
    )
    sensitivities: dict[str, float] = Field(
        default_factory=dict,
        description="by layer: predicted accuracy lost when it alone has the profile's fewest "
        "bits, against the most accurate uniform subnet",
    )
    seconds: float
    stop_reason: str = Field(description="what ended the search")
    judge: Judge = Field(default="labels", description="what accuracies are taken against")
    slow: tuple[str, ...] = Field(
        default=(), description="demands that the target runs slowly, accepted by the profile"
    )
    kendall_tau: float | None = Field(
        default=None, description="of the predictor, with the measured KL of subnets held out"
    )
    pearson: float | None = None


class PlaceReport(Frozen):
    """What it costs to quantize one place while everything else is float, and what it saves."""

    kind: Literal["weights", "input", "carrier", "tensor", "group"] = Field(
        description="a layer's weights; a tensor as layers read it, as all others do, or both; "
        "an op group with what its layers read"
    )
    name: str
    bits: int = Field(description="0 for a group")
    layers: tuple[str, ...] = Field(description="whose weights, or that read the tensor")
    images: int = Field(description="that kl and lost are of")
    kl: float = Field(description="to the float network, in nats, the mean over the images")
    kl_error: float = Field(description="standard error of kl")
    lost: float = Field(description="share of images, in [0, 1], whose top-1 class is another")
    cost_saved: float | None = Field(
        default=None,
        description="cost of the subnet with these layers in float, less that of the subnet, in "
        "the report's unit; below 0 quantizing them costs more",
    )


class SuspectReport(Frozen):
    """A layer with a channel that loses more to quantization than its bits explain."""

    layer: str
    channel: int | None = Field(description="None where one scale serves the whole layer")
    snr_db: float = Field(description="signal-to-noise ratio of the channel's weights")
    expected_db: float = Field(description="of weights like a bell curve at these bits")


class Quality(Frozen):
    """How far a subnet is from the float network, and what it costs."""

    kl: float = Field(description="to the float network, in nats, the mean over the images")
    agreement: float = Field(description="share of images with the float network's top-1 class")
    cost: float | None = Field(default=None, description="in the report's unit")


class Remedy(Frozen):
    """Pins that bring a subnet nearer to the float network. after: with those before it too."""

    name: str
    layers: tuple[str, ...]
    bits: int | Literal["remainder"] = Field(description="what the layers are pinned to")
    before: Quality
    after: Quality


class Applied(Frozen):
    """A profile that holds the remedies, measured on images that they were not chosen by."""

    profile: str = Field(description="path of the file")
    images: int
    before: Quality
    after: Quality


class ExplainReport(Frozen):
    """What `eqnet explain` finds: every place, worst first, and remedies."""

    schema_version: Literal[1] = 1
    profile: str
    supernet: str = Field(description="path of the supernet, or 'bundled'")
    subnet: str = Field(description="sha256 of the subnet that is explained")
    images: int = Field(description="that the subnet was measured on")
    unit: str = Field(description="of every cost, such as 'ms' or 'KiB'")
    whole: Quality = Field(description="of the subnet itself")
    places: tuple[PlaceReport, ...]
    groups: tuple[PlaceReport, ...]
    suspects: tuple[SuspectReport, ...] = Field(
        default=(), description="worst first; none for a supernet that learned its scales"
    )
    remedies: tuple[Remedy, ...] = Field(description="each on top of those before it")
    no_cost: str | None = Field(default=None, description="why there are no costs")
    applied: Applied | None = None
    seconds: float
