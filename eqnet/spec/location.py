"""Where a deployed network goes wrong: what `eqnet verify` finds tensor by tensor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eqnet.spec.scheme import Frozen

Run = Literal["semantics", "deployed"]


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
