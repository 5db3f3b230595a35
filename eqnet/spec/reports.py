"""Results of verification and benchmarks: what is printed, saved as JSON and put in reports."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eqnet.spec.scheme import Frozen

Verdict = Literal["passed", "failed", "skipped"]


class Check(Frozen):
    """One demand on an artifact and how it came out; `reason` says why it failed or was skipped."""

    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    reason: str = ""


class VerifyReport(Frozen):
    """verify.json of an artifact."""

    schema_version: Literal[1] = 1
    artifact: str
    profile: str
    backend: str
    runtime: str = Field(description="name and version of what executed the graph")
    verdict: Verdict
    checks: tuple[Check, ...]
    images: int
    accuracy: float | None = Field(default=None, description="in the runtime, in [0, 1]")
    top1_agreement: float | None = None
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
    profile: str
    backend: str
    verdict: Verdict
    reason: str = ""
    batch: int
    threads: int
    quantized: Latency | None = None
    float32: Latency | None = None
    ratio: float | None = Field(
        default=None, description="median of paired quantized / float32 times; below 1 is faster"
    )
    ratio_interval: tuple[float, float] | None = Field(
        default=None, description="95% bootstrap interval of the ratio"
    )
    host: dict[str, str]
