"""latency.json: subnets timed on one machine, and the model of all others fitted to them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from eqnet.spec.errors import ProfileError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.latency.features import Origin, features
from eqnet.spec.network import NetworkInfo
from eqnet.spec.scheme import Frozen
from eqnet.spec.subnet import SubnetSpec, WeightChoice
from eqnet.spec.texts import parse_json

KIND: Literal["eqnet.latency"] = "eqnet.latency"
# No prediction is below this share of the fastest subnet that was measured.
FLOOR = 0.5
Draw = Literal["uniform", "float", "scattered", "span", "groups"]
Milliseconds = Annotated[float, Field(gt=0)]


class Sample(Frozen):
    """One subnet, timed in turns with the fully quantized one.

    weights, activations, carriers: as in SubnetSpec. drawn: how it was chosen. held_out: whether
    it judges the model instead of making it. ratio: median of paired ratios to the reference's
    time. samples, reference: milliseconds, pair by pair.
    """

    drawn: Draw
    held_out: bool
    weights: dict[str, WeightChoice]
    activations: dict[str, int]
    carriers: dict[str, int]
    ratio: Annotated[float, Field(gt=0)]
    samples: tuple[Milliseconds, ...]
    reference: tuple[Milliseconds, ...]


class LayerTime(Frozen):
    """Milliseconds of one layer by the runtime's own profiler, in the fully quantized net and in
    the float one; 0 where the runtime does not tell."""

    name: str
    integer: Annotated[float, Field(ge=0)]
    floating: Annotated[float, Field(ge=0)]


class Quality(Frozen):
    """How well predictions agree with measurements of subnets that did not make them.

    mean_error, worst_error: of |predicted / measured - 1|. kendall_tau: rank correlation.
    """

    subnets: int
    mean_error: float
    worst_error: float
    kendall_tau: float


class Fit(Frozen):
    """The model: milliseconds are `constant` and the sum of the coefficients of what a subnet has.

    held_out: on subnets that were drawn for it. crossed: each fitted subnet, left out.
    """

    constant: float
    coefficients: dict[str, float]
    fastest: Milliseconds
    held_out: Quality | None
    crossed: Quality


class Setting(Frozen):
    """What a measurement is of, by which files can be told apart.

    network: sha256 of its layers and tensors, which other weights do not change. graph_sha256:
    of the profile, as far as it decides about graphs.
    """

    profile: str
    graph_sha256: str
    network: str
    supernet: str
    backend: str
    runtime: str
    threads: int
    batch: int
    seed: int


class LatencyFile(Frozen):
    """A file of measured latency. Without `fit` it is not complete yet.

    reference_ms: of the fully quantized subnet. host: as `eqnet bench` describes it, with all
    flags of the CPU.
    """

    schema_version: Literal[1] = 1
    kind: Literal["eqnet.latency"] = KIND
    setting: Setting
    host: dict[str, str]
    origins: dict[str, Origin]
    layers: tuple[LayerTime, ...]
    samples: tuple[Sample, ...] = ()
    reference_ms: float | None = None
    fit: Fit | None = None

    def milliseconds(self, info: NetworkInfo, spec: SubnetSpec) -> float:
        """The predicted time of a subnet, for a batch. The file must have a fit."""
        assert self.fit is not None
        known = self.fit.coefficients
        found = features(info, self.origins, spec)
        # Sums of floats depend on their order, and a set has none.
        total = self.fit.constant + sum(known.get(name, 0.0) for name in sorted(found))
        return max(total, FLOOR * self.fit.fastest)


def latency_name(profile: str) -> str:
    """The name of a profile's file beside a supernet."""
    return f"latency.{profile}.json"


def network_sha256(info: NetworkInfo) -> str:
    """A hash of all that capture learned of a network, by which equal ones are known."""
    text = json.dumps(asdict(info), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_latency(content: Any) -> bool:
    """Whether the value of a JSON file is to be read as a LatencyFile."""
    return isinstance(content, dict) and content.get("kind") == KIND


def read_latency(path: Path) -> LatencyFile:
    """Read a file. Raises ProfileError with one line if it cannot be read or is none."""
    try:
        return parse_latency(path, parse_json(path.read_bytes()))
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot read the latency file: {error.strerror} "
            "(allowed: a file of `eqnet profile-device`)"
        ) from error
    except ValueError as error:
        raise ProfileError(f"{path}: not a latency file: {one_line(error)}") from error


def parse_latency(path: Path, content: Any) -> LatencyFile:
    """The value of a JSON file. Raises ProfileError with one line if it is no LatencyFile."""
    try:
        return LatencyFile.model_validate(content)
    except ValidationError as error:
        raise ProfileError(f"{path}: not a latency file: {first_problem(error)}") from error


def require_of(path: Path, file: LatencyFile, info: NetworkInfo, graph_sha256: str) -> None:
    """Raise ProfileError unless a file predicts subnets of this network under this profile."""
    if file.fit is None:
        raise ProfileError(
            f"{path}: {len(file.samples)} subnets measured and no model yet (allowed: a complete "
            "file; `eqnet profile-device` goes on where it stopped)"
        )
    if file.setting.network != network_sha256(info):
        raise ProfileError(f"{path}: of another network (allowed: one measured with this one)")
    if file.setting.graph_sha256 != graph_sha256:
        raise ProfileError(
            f"{path}: measured under profile '{file.setting.profile}', which makes other graphs "
            "(allowed: one with the same backend, device, placement and storage)"
        )
