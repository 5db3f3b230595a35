"""A short race before an export for which nothing was searched: int8 that is slower than float
is what users complain of first, and which layers are worth it depends on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.graph.reading import strip_qdq
from eqnet.backend.machine.float_twin import open_float_twins
from eqnet.backend.machine.isa import foreign_isa
from eqnet.backend.machine.timing import in_turns, paired_ratio
from eqnet.backend.protocol import Exporter, Runner, host_limit
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import ALL_FLOAT, DEFAULT, FLOAT, Race, Raced
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import groups_of
from eqnet.subnets.target import ACTIVATED, Target
from eqnet.supernet.graphs import Graphs
from eqnet.supernet.session import Session

CLEARLY = 0.97
"""Of the time of another, a time at which a model is faster by more than a moment's chance."""
WARM_UP, FEWEST, MOST = 2, 7, 40
MILLISECONDS = 4000.0
"""Of one leg, all models together; the fewest rounds may take longer."""


class Winner(NamedTuple):
    """The subnet that won, and how the race went."""

    spec: SubnetSpec
    race: Race


def can_race(exporter: Exporter, profile: HardwareProfile) -> bool:
    """Whether this machine's times are those that the profile is about."""
    if profile.cost.model != "measured" or exporter.unavailable(profile) is not None:
        return False
    limit = host_limit(exporter, profile)
    return foreign_isa(profile.isa) is None and (limit is None or limit.exact)


def race(
    session: Session,
    profile: HardwareProfile,
    exporter: Exporter,
    default: SubnetSpec,
    progress: Progress,
) -> Winner:
    """The default subnet, where it is clearly faster than the float model; else the fastest of
    those that leave a part of the network in float, or two, and if need be all of it.

    The float model runs in the precision that is fastest here, as bfloat16 in OpenVINO on a CPU
    that has it. What is left in float costs no accuracy, so nothing but time is measured.
    Statistics are left as they are.
    """
    target = Target.of(session.supernet.info, profile)
    progress.start("racing against float", 2)
    with scratch_folder() as scratch:
        track = _Track(session, profile, exporter, scratch)
        track.enter_float(default)
        track.enter(DEFAULT, default)
        track.run([FLOAT, DEFAULT])
        progress.advance()
        if not track.beats(DEFAULT, FLOAT):
            track.enter_all(_alternatives(target, default))
            track.run([FLOAT, *track.specs])
            _combine(track, target, default)
        progress.advance()
    progress.finish()
    chosen = track.fastest()
    return Winner(track.specs[chosen], track.told(chosen))


def _combine(track: _Track, target: Target, default: SubnetSpec) -> None:
    """Race the best part to leave in float together with each other that helps."""
    choices = _choices(target)
    ranked = [name for name in track.ranked() if name in choices and track.beats(name, DEFAULT)]
    pairs = {}
    for name in ranked[1:]:
        first, second = choices[ranked[0]], choices[name]
        if first.stem is None or second.stem is None:
            both = _Floats(first.groups | second.groups, first.stem or second.stem)
            pairs[f"{ranked[0]} and {name}"] = _subnet(target, default, both)
    if pairs:
        track.enter_all(pairs)
        track.run([FLOAT, DEFAULT, *ranked, *pairs])


class _Floats(NamedTuple):
    """What a subnet leaves in float: op groups, and all before a layer."""

    groups: frozenset[str]
    stem: str | None


def _choices(target: Target) -> dict[str, _Floats]:
    """Each part of the network that the profile's search may leave in float, by its label."""
    wanted = target.profile.search_groups
    present: list[str] = [*groups_of(target.info), "add"]
    if any(layer.activated for layer in target.info.layers):
        present.append(ACTIVATED)
    found = {
        f"float {group}": _Floats(frozenset({group}), None) for group in wanted if group in present
    }
    if "stem" in wanted:
        found |= {f"float before {cut}": _Floats(frozenset(), cut) for cut in target.cuts()}
    return found


def _alternatives(target: Target, default: SubnetSpec) -> dict[str, SubnetSpec]:
    """One more part in float each, and all of it."""
    found = {name: _subnet(target, default, floats) for name, floats in _choices(target).items()}
    return found | {ALL_FLOAT: target.all_float(default.supernet)}


def _subnet(target: Target, default: SubnetSpec, floats: _Floats) -> SubnetSpec:
    pair = max(target.profile.bits, key=lambda pair: (sum(pair), pair))
    pairs = dict.fromkeys(target.free_layers(), pair)
    return target.subnet(
        pairs, supernet=default.supernet, float_groups=floats.groups, stem=floats.stem
    )


class _Track:
    """The models of a race, and the last leg's times."""

    def __init__(
        self, session: Session, profile: HardwareProfile, exporter: Exporter, scratch: Path
    ) -> None:
        self.session, self.profile, self.exporter = session, profile, exporter
        self.scratch, self.graphs = scratch, Graphs(session.supernet)
        self.specs: dict[str, SubnetSpec] = {}
        self.runners: dict[str, Runner] = {}
        self.samples: dict[str, list[float]] = {}
        self.precision = "float32"

    def enter_float(self, default: SubnetSpec) -> None:
        """The float model, in the precision in which this runtime and CPU run it fastest."""
        path = self.scratch / "float.onnx"
        ir.save(strip_qdq(self.graphs.of(default)), path)
        threads = self.profile.bench.threads
        opened = open_float_twins(self.exporter, path, self.profile, threads)
        for precision, runner in opened.items():
            self.runners[precision] = runner
        if len(opened) > 1:
            self.run(list(opened))
        self.precision = min(opened, key=lambda name: float(np.median(self.samples.get(name, 0))))
        self.runners[FLOAT] = opened[self.precision]
        self.samples = {}

    def enter(self, name: str, spec: SubnetSpec) -> None:
        """A subnet, unless an equal one is there."""
        if any(_same(spec, other) for other in self.specs.values()):
            return
        path = self.scratch / f"{len(self.specs)}.onnx"
        ir.save(self.exporter.lower(self.graphs.of(spec), self.profile), path)
        threads = self.profile.bench.threads
        self.specs[name] = spec
        self.runners[name] = self.exporter.open(path, threads=threads, profile=self.profile)

    def enter_all(self, specs: Mapping[str, SubnetSpec]) -> None:
        """Several, in order."""
        for name, spec in specs.items():
            self.enter(name, spec)

    def run(self, names: list[str]) -> None:
        """Time these in turns; earlier legs' times of them are replaced."""
        shape = (self.profile.bench.batch, *self.session.header.input_shape)
        inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        known = [name for name in names if name in self.runners]
        runs = [partial(self.runners[name], inputs) for name in known]
        first = in_turns(runs, 1, WARM_UP)
        each = 2 * sum(times[0] for times in first)  # a timed call follows an untimed one
        rounds = int(np.clip(MILLISECONDS / max(each, 1e-3), FEWEST, MOST))
        self.samples |= dict(zip(known, in_turns(runs, rounds, 0), strict=True))

    def beats(self, name: str, other: str) -> bool:
        """Whether one model was clearly faster than another, side by side."""
        _, (_, high) = self._ratio(name, other)
        return high < CLEARLY

    def _ratio(self, name: str, other: str) -> tuple[float, tuple[float, float]]:
        a, b = self.samples[name], self.samples[other]
        common = min(len(a), len(b))
        return paired_ratio(a[-common:], b[-common:], np.random.default_rng(0))

    def ranked(self) -> list[str]:
        """The subnets of the last leg, fastest first."""
        medians = {name: float(np.median(self.samples[name])) for name in self.specs}
        return sorted(medians, key=medians.__getitem__)

    def fastest(self) -> str:
        """The subnet to take: the default one unless another is clearly faster."""
        best = self.ranked()[0]
        return best if best == DEFAULT or self.beats(best, DEFAULT) else DEFAULT

    def told(self, chosen: str) -> Race:
        """The race for the manifest: every model with its time, the fastest first."""
        entries = []
        for name, samples in self.samples.items():
            ratio, interval = self._ratio(name, FLOAT)
            entries.append(
                Raced(
                    name=name,
                    milliseconds=float(np.median(samples)),
                    to_float=ratio,
                    interval=interval,
                )
            )
        entries.sort(key=lambda entry: entry.milliseconds)
        return Race(chosen=chosen, entries=tuple(entries), float_precision=self.precision)


def _same(spec: SubnetSpec, other: SubnetSpec) -> bool:
    def key(one: SubnetSpec) -> tuple[object, ...]:
        return one.weights, one.activations, one.carriers

    return key(spec) == key(other)
