"""How a quantized network compares with the float model that it began as."""

from __future__ import annotations

from pydantic import Field

from eqnet.spec.scheme import Frozen


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
