"""How a network that runs compares with the one that it should be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eqnet.spec.scheme import Frozen

Run = Literal["semantics", "deployed"]


class FloatComparison(Frozen):
    """A subnet or a runtime against the float model, on the stored images.

    What is None is not known; `reason` says why.
    """

    images: int
    agreement: float | None = Field(
        default=None, description="share of images with the float model's top-1 class"
    )
    snr_db: float | None = Field(
        default=None,
        description="10 log10 of the float logits' sum of squares over that of the differences; "
        "None too where the logits are equal",
    )
    labelled: int = Field(default=0, description="images whose label is known")
    float_accuracy: float | None = Field(default=None, description="on those, in [0, 1]")
    accuracy_drop: float | None = Field(default=None, description="float minus this, in points")
    accuracy_drop_interval: tuple[float, float] | None = Field(
        default=None, description="95% bootstrap interval of the drop, in points"
    )
    paired: bool = Field(
        default=False, description="whether the interval pairs both networks image by image"
    )
    reason: str = ""


class OutputComparison(Frozen):
    """The logits of one run of the runtime against another network's, on the same images.

    run: semantics, with the runtime's optimizations off, or as deployed. against: PyTorch's subnet
    (on other images than the stored ones ``reference.onnx``, which export held to it) or the float
    model. Errors are in steps of an 8-bit grid over the range of the other network's logits.
    """

    run: Run
    against: Literal["subnet", "float"]
    source: str = Field(description="which images")
    images: int
    agreement: float = Field(description="share of images with the same top-1 class")
    kl: float | None = Field(
        description="mean Kullback-Leibler divergence of the softmax outputs from the other's, in "
        "nats; of a single logit, of the sigmoid's. None: not finite"
    )
    error_mean: float | None = Field(description="of |logit - other|; None: not finite")
    error_p99: float | None = Field(description="its 99th percentile over all logits")
    error_max: float | None = Field(description="its largest value")
    labelled: int = Field(default=0, description="images whose label is known")
    top1: float | None = Field(default=None, description="accuracy on those, in [0, 1]")
    top5: float | None = Field(default=None, description="with more than 5 classes")
    other_top1: float | None = Field(default=None, description="the other network's")
    other_top5: float | None = None
    accuracy_drop: float | None = Field(default=None, description="other_top1 - top1, in points")
    accuracy_drop_interval: tuple[float, float] | None = Field(
        default=None, description="95% bootstrap interval of the drop, paired image by image"
    )


class Grid(Frozen):
    """A quantized tensor's integers: real values are (q - zero_point) * scale, q in [lo, hi]."""

    scale: float
    zero_point: int
    lo: int
    hi: int


class TensorError(Frozen):
    """One tensor of the runtime against ``reference.onnx``, in quantization steps of the latter.

    `error`, `worst`: against what the reference makes of the same images, so with all that
    earlier layers did. `added`, `added_share`: against what the reference makes of the runtime's
    own tensors before it, so by these layers alone.
    """

    depth: int = Field(description="place among the quantized tensors, from 0; the logits are last")
    tensor: str
    layers: tuple[str, ...] = Field(description="that compute it from quantized tensors")
    error: float | None = Field(description="root mean square; None: not finite")
    worst: float | None = Field(description="the largest; None: not finite")
    added: float | None = Field(description="the largest that these layers add; None: not finite")
    added_share: float = Field(description="share of values, in [0, 1], that they change")
    beyond: bool = Field(description="whether that is more than rounding explains")


class Location(Frozen):
    """The first tensor that is wrong, and how the error grows with depth.

    run: whose tensors these are. deployed: the runtime as deployed; semantics: with its
    optimizations off, reported where only that run is wrong or the runtime cannot run here.
    """

    run: Run
    runtime: str
    images: int
    tensor: str | None = Field(default=None, description="the first beyond its tolerance")
    layer: str | None = Field(default=None, description="that computes it, as the manifest says")
    cause: str = Field(default="", description="the likely one, where the constants tell it")
    grid: Grid | None = Field(default=None, description="of that tensor in the deployed model")
    reference_grid: Grid | None = None
    both_runs: bool | None = Field(
        default=None, description="whether it is wrong with optimizations off too; None: not known"
    )
    tensors: tuple[TensorError, ...] = Field(default=(), description="in the order of computation")
    disturbed: tuple[str, ...] = Field(
        default=(), description="tensors that cannot be read without changing the logits"
    )
    unseen: tuple[str, ...] = Field(
        default=(), description="tensors that the deployed graph no longer has"
    )
    note: str = Field(default="", description="what could not be looked at, and why")

    @property
    def beyond(self) -> tuple[TensorError, ...]:
        """Every tensor beyond its tolerance."""
        return tuple(one for one in self.tensors if one.beyond)
