"""What subnets cost: timed in turns in the profile's runtime, or by its cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eqnet.backend.discovery import exporter_of
from eqnet.spec.hardware.costs import REMAINDER_BITS, CostSite
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.explain.candidates import Candidate, pinned_all
from eqnet.stages.explain.subject import Pin, Subject
from eqnet.supernet.latency import measure_latency
from eqnet.supernet.session import Session


@dataclass
class Costs:
    """Costs under one profile; those that are timed belong to the call in which they were.

    reason: why there are none, or None.
    """

    session: Session
    profile: HardwareProfile
    folder: Path
    wanted: bool
    progress: Progress
    reason: str | None = field(init=False)

    def __post_init__(self) -> None:
        """Ask the runtime whether it is there."""
        self.reason = None
        if not self.wanted:
            self.reason = "not asked for"
        elif self._timed():
            self.reason = exporter_of(self.profile).unavailable(self.profile)

    @property
    def unit(self) -> str:
        """Of every cost."""
        return self.profile.cost.unit

    def _timed(self) -> bool:
        return self.profile.cost.model == "measured"

    def of(self, specs: Sequence[SubnetSpec]) -> Sequence[float | None]:
        """The cost of each subnet, all timed in turns; None of each where `reason` says why."""
        if self.reason is not None:
            return [None for _ in specs]
        if self._timed():
            return measure_latency(
                self.session.supernet,
                exporter_of(self.profile),
                self.profile,
                specs,
                self.progress,
            )
        info = self.session.supernet.info
        wide, graphs = REMAINDER_BITS[self.profile.remainder], self.profile.graph_sha256()
        site = CostSite(info, wide, self.folder, graph_sha256=graphs)
        cost = self.profile.cost.of(site)
        return [cost(spec) for spec in specs]


@dataclass(frozen=True)
class Prices:
    """What the subnet costs, and what it costs with a candidate's pins, by layers and bits."""

    base: float | None
    pinned: Mapping[tuple[tuple[str, ...], Pin], float | None]

    def added(self, candidate: Candidate) -> float | None:
        """What a candidate's pins add to the cost."""
        return self.saved(candidate.layers, candidate.bits)

    def saved(self, layers: tuple[str, ...], bits: Pin = "remainder") -> float | None:
        """What these layers' quantization saves against `bits`; None where nothing is known."""
        cost = self.pinned.get((layers, bits))
        if cost is None or self.base is None:
            return None
        return cost - self.base


def price(costs: Costs, subject: Subject, wanted: Sequence[Candidate]) -> Prices:
    """The costs of the subnet and of each candidate on top of it, all timed in turns."""
    unlike = {(one.layers, one.bits): one for one in wanted}
    specs = [pinned_all(subject, [one]).spec() for one in unlike.values()]
    base, *others = costs.of([subject.spec(), *specs])
    return Prices(base, dict(zip(unlike, others, strict=True)))
