"""Timing subnets one by one, each in turns with the fully quantized one, and keeping each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.files import write_file
from eqnet.backend.machine.host import describe_host, same_machine
from eqnet.backend.machine.isa import this_cpu
from eqnet.backend.machine.timing import in_turns
from eqnet.backend.protocol import Array, Exporter, Runner, TimesLayers
from eqnet.latency.draw import Drawn, drawn, floating, quantized
from eqnet.latency.fit import fit
from eqnet.latency.origins import origins
from eqnet.latency.whole_graph import cut
from eqnet.spec.errors import MissingExtraError, ProfileError, one_line
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.latency.file import (
    LatencyFile,
    LayerTime,
    Sample,
    Setting,
    network_sha256,
    read_latency,
)
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.target import Target

SUBNETS, HELD_OUT = 100, 30
WARM_UP, PROFILED = 2, 10
# Turns of a subnet with the fully quantized one: as many as take so long, within limits.
SECONDS, PAIRS = 1.0, (15, 61)
# Between two writings of the file, whose way to the disk takes time beside a busy neighbour.
SAVED_EVERY = 10.0
# Draws for each subnet that is wanted: in a small network many are equal.
TRIES = 20


@dataclass(frozen=True)
class Subject:
    """What is measured: a network under a profile. whole: see `eqnet.latency.whole_graph`.

    supernet: sha256 of the supernet's file.
    """

    whole: ir.Model
    info: NetworkInfo
    profile: HardwareProfile
    supernet: str

    @property
    def target(self) -> Target:
        """What may be chosen in it."""
        return Target.of(self.info, self.profile)


@dataclass(frozen=True)
class Plan:
    """How it is measured: numbers of subnets, and the runtime's threads and batch."""

    threads: int
    batch: int
    seed: int = 0
    subnets: int = SUBNETS
    held_out: int = HELD_OUT

    def order(self, target: Target) -> list[Drawn]:
        """The subnets as they are measured, first those to be fitted. No two are equal.

        Fewer than asked for in a network that has not so many.
        """
        found: dict[str, Drawn] = {}
        for held_out, count in ((False, self.subnets), (True, self.held_out)):
            last = len(found) + count
            for number in range(TRIES * count):
                if len(found) == last:
                    break
                one = drawn(target, number, held_out=held_out, seed=self.seed)
                found.setdefault(_choices(one.spec), one)
        return list(found.values())


def measure(
    subject: Subject, exporter: Exporter, plan: Plan, out: Path, progress: Progress
) -> LatencyFile:
    """Time what is missing in the file `out`, fit the model, and write it.

    The file is written every few subnets, so that a killed run goes on where it stopped. One
    that is of another setting is measured anew. Raises MissingExtraError where the runtime
    cannot execute, UsageError for fewer subnets than a model needs, ProfileError for a file
    there that is none or is of another machine.
    """
    reason = exporter.unavailable(subject.profile)
    if reason is not None:
        raise MissingExtraError(f"a latency model needs {exporter.name}: {reason}")
    setting = _setting(subject, exporter, plan)
    host = describe_host() | {"flags": " ".join(sorted(this_cpu().flags))}
    file = _known(out, setting, host)
    order = plan.order(subject.target)
    progress.start("measuring subnets", len(order))
    with scratch_folder() as scratch:
        bench = _Bench(subject, exporter, plan, scratch)
        if file is None:
            file = LatencyFile(
                setting=setting,
                host=host,
                origins=origins(subject.whole, subject.info),
                layers=bench.layer_times(),
            )
        known = {_choices(sample): sample for sample in file.samples}
        saved = time.monotonic()
        try:
            for one in _mixed(order):
                if _choices(one.spec) not in known:
                    known[_choices(one.spec)] = bench.sample(one)
                    if time.monotonic() - saved > SAVED_EVERY:
                        _save(out, file, known.values())
                        saved = time.monotonic()
                progress.advance()
        finally:
            if len(known) > len(file.samples):
                _save(out, file, known.values())
    progress.finish()
    # In this plan's order and role, without what a run of another plan may have left.
    kept = tuple(
        known[_choices(one.spec)].model_copy(update={"drawn": one.kind, "held_out": one.held_out})
        for one in order
    )
    file = fit(file.model_copy(update={"samples": kept}), subject.info, [o.spec for o in order])
    write_file(out, file.model_dump_json())
    return file


def _save(out: Path, file: LatencyFile, samples: Iterable[Sample]) -> None:
    """Write what there is so far; the model is of all."""
    unfinished = file.model_copy(update={"samples": tuple(samples), "fit": None})
    write_file(out, unfinished.model_dump_json())


def _mixed(order: Sequence[Drawn]) -> list[Drawn]:
    """Those that are held out evenly among the others: whatever changes on the machine meanwhile,
    such as a neighbour's load on its caches, then meets both alike."""
    places: dict[int, float] = {}
    for held_out in (False, True):
        numbers = [number for number, one in enumerate(order) if one.held_out == held_out]
        places |= {number: place / len(numbers) for place, number in enumerate(numbers)}
    return [order[number] for number in sorted(places, key=lambda number: places[number])]


def _choices(one: Sample | SubnetSpec) -> str:
    """What tells one subnet of a network and profile from the others."""
    parts = (one.weights, one.activations, one.carriers)
    return " ".join(str(sorted(part.items())) for part in parts)


def _setting(subject: Subject, exporter: Exporter, plan: Plan) -> Setting:
    return Setting(
        profile=subject.profile.name,
        graph_sha256=subject.profile.graph_sha256(),
        network=network_sha256(subject.info),
        supernet=subject.supernet,
        backend=exporter.name,
        runtime=exporter.runtime_version(),
        threads=plan.threads,
        batch=plan.batch,
        seed=plan.seed,
    )


def _known(out: Path, setting: Setting, host: dict[str, str]) -> LatencyFile | None:
    """What was measured already of the same. Raises ProfileError for what is not written over:
    a file that is none, or is of another machine, where it cannot be made again."""
    if not out.exists():
        return None
    file = read_latency(out)
    if not same_machine(file.host, host):
        raise ProfileError(
            f"{out}: measured on another machine, {one_line(file.host.get('cpu', 'unknown'), 60)} "
            "(allowed: cost 'lookup' with it, and another place for what is measured here)"
        )
    return file if file.setting == setting else None


class _Bench:
    """Opens graphs of subnets and times them."""

    def __init__(self, subject: Subject, exporter: Exporter, plan: Plan, scratch: Path) -> None:
        self._subject, self._exporter, self._plan = subject, exporter, plan
        self._path = scratch / "subnet.onnx"
        shape = (plan.batch, *subject.info.input_shape)
        self._inputs: Array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self._reference: Runner | None = None

    def _write(self, spec: SubnetSpec) -> None:
        graph = cut(self._subject.whole, self._subject.info, spec)
        ir.save(self._exporter.lower(graph, self._subject.profile), self._path)

    def _open(self, spec: SubnetSpec) -> Runner:
        self._write(spec)
        return self._exporter.open(
            self._path, threads=self._plan.threads, profile=self._subject.profile
        )

    def sample(self, one: Drawn) -> Sample:
        """Time one subnet."""
        if self._reference is None:
            self._reference = self._open(quantized(self._subject.target))
        runs = [partial(runner, self._inputs) for runner in (self._open(one.spec), self._reference)]
        samples, reference = in_turns(runs, self._pairs(runs), 0)
        return Sample(
            drawn=one.kind,
            held_out=one.held_out,
            weights=one.spec.weights,
            activations=one.spec.activations,
            carriers=one.spec.carriers,
            ratio=float(np.median(np.array(samples) / np.array(reference))),
            samples=tuple(samples),
            reference=tuple(reference),
        )

    def _pairs(self, runs: Sequence[Callable[[], object]]) -> int:
        """How often to time runs that are warm afterwards."""
        (subnet, reference) = in_turns(runs, 1, WARM_UP)
        turn = 2 * (subnet[0] + reference[0]) / 1e3  # each timed run follows one that is not
        return int(np.clip(SECONDS / turn, *PAIRS))

    def layer_times(self) -> tuple[LayerTime, ...]:
        """What the runtime's profiler says of the two ends of the space."""
        names = self._subject.info.layer_names()
        if not isinstance(self._exporter, TimesLayers):
            return tuple(LayerTime(name=name, integer=0, floating=0) for name in names)
        ends = []
        for spec in (quantized(self._subject.target), floating(self._subject.target)):
            self._write(spec)
            ends.append(
                self._exporter.layer_times(
                    self._path,
                    self._inputs,
                    names,
                    profile=self._subject.profile,
                    threads=self._plan.threads,
                    runs=PROFILED,
                )
            )
        integer, floating_times = ends
        return tuple(
            LayerTime(name=name, integer=integer[name], floating=floating_times[name])
            for name in names
        )
