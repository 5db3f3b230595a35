"""What `eqnet compare` finds: several models side by side. What is None is not known."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.outside.inspection import Coverage, FormName
from eqnet.spec.reports import Latency
from eqnet.spec.scheme import Frozen

Interval = tuple[float, float]


class ComparedModel(Frozen):
    """One model; `reasons` say why something of it is not known."""

    name: str
    path: str
    profile: str | None = Field(default=None, description="of an artifact of eqnet")
    runtime: str = Field(description="name and version of what ran it, or the backend's name")
    bytes: int = Field(description="of the ONNX file and its external data")
    forms: dict[FormName, int] = Field(description="layers of each form, in the file")
    int8: Coverage | None = Field(default=None, description="what the backend runs in int8")
    latency: Latency | None = None
    ratio: float | None = Field(
        default=None, description="median of times paired with the first model's; below 1: faster"
    )
    ratio_interval: Interval | None = Field(default=None, description="95% bootstrap interval")
    against_reference: FloatComparison | None = None
    agreement_interval: Interval | None = Field(
        default=None, description="95% bootstrap interval of the agreement over images"
    )
    accuracy: float | None = Field(default=None, description="top-1 on labelled images, in [0, 1]")
    reasons: tuple[str, ...] = ()


class CompareReport(Frozen):
    """The answer of `eqnet compare`."""

    schema_version: Literal[1] = 1
    models: tuple[ComparedModel, ...]
    reference: str | None = Field(
        default=None, description="whose top-1 classes agreement is taken with"
    )
    images: int = 0
    source: str | None = Field(default=None, description="where the images are from")
    batch: int
    threads: int
    repeats: int
    host: dict[str, str]
