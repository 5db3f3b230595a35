"""The timed runs: the artifact, its float twins and a baseline in turns, each on warm caches."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import onnx_ir as ir

from eqnet.backend.artifact import read_parity
from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.graph.reading import load_graph, strip_qdq
from eqnet.backend.judge import clear_agreement
from eqnet.backend.machine.float_twin import open_float_twins
from eqnet.backend.machine.pinning import pinned
from eqnet.backend.machine.sampling import Enough, Runs, sample
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, Exporter, Runner
from eqnet.backend.running import CheckedRunner, runtime_errors
from eqnet.spec.hardware.profile import BenchRules
from eqnet.spec.manifest import MODEL, REFERENCE, Manifest
from eqnet.spec.progress import Progress
from eqnet.spec.reports import FloatPrecision, Sampling

AT_ONCE = 64
OURS, THEIRS = "quantized", "baseline"


class Setup(NamedTuple):
    """What is measured, with what, and how. pin: whether threads are kept on CPUs."""

    folder: Path
    manifest: Manifest
    exporter: Exporter
    rules: BenchRules
    pin: bool
    progress: Progress


class Rival(NamedTuple):
    """An artifact to compare with."""

    folder: Path
    manifest: Manifest


class Timed(NamedTuple):
    """Milliseconds of each model, those with one index taken side by side: `OURS`, `THEIRS`, and
    the float model by its precision."""

    times: dict[str, list[float]]
    sampling: Sampling

    def floats(self) -> list[FloatPrecision]:
        """The precisions of the float model that were timed."""
        known: tuple[FloatPrecision, ...] = get_args(FloatPrecision)
        return [precision for precision in known if precision in self.times]


def time_models(
    setup: Setup, rng: np.random.Generator, rival: Rival | None = None, *, floats: bool = True
) -> Timed:
    """Time the artifact in turns with a rival, and with its float model in every precision in
    which a user would run it here, on the artifact's device.

    All get the same batch of stored parity images. The artifact and its rival are opened anew
    for each leg, in changing order: of two sessions of one model the one that was opened first
    was about 1% slower. The float model is opened once, since building an engine takes minutes.
    """
    images = batch_of(setup, rng)
    ours = Rival(setup.folder, setup.manifest)
    raced = {OURS: ours} if rival is None else {OURS: ours, THEIRS: rival}
    with scratch_folder() as scratch, pinned(setup.rules.threads, setup.pin) as where:
        plain = _open_floats(setup, scratch) if floats else {}
        names = [*raced, *plain]

        def open_sessions(leg: int) -> Runs:
            opened = dict(plain)
            for name in list(raced)[:: -1 if leg % 2 else 1]:
                opened[name] = _open(setup, raced[name])
            return [partial(opened[name], images) for name in names]

        progress = _Ticks(setup)
        with runtime_errors(setup.folder / MODEL):
            sampled = sample(open_sessions, enough(setup.rules), after_round=progress.advance)
        progress.finish()
    sampling = Sampling(
        rounds=sum(sampled.legs),
        legs=sampled.legs,
        warmup=sampled.warmup,
        seconds=round(sampled.seconds, 3),
        stopped=sampled.stopped,
        pinned=where,
    )
    return Timed(dict(zip(names, sampled.times, strict=True)), sampling)


def enough(rules: BenchRules) -> Enough:
    """When a profile, or the caller, has enough."""
    return Enough(rules.repeats, rules.precision, rules.max_seconds)


def _open(setup: Setup, one: Rival) -> Runner:
    profile, threads = one.manifest.profile, setup.rules.threads
    return setup.exporter.open(one.folder / MODEL, threads=threads, profile=profile)


def _open_floats(setup: Setup, scratch: Path) -> dict[str, Runner]:
    twin = scratch / "float.onnx"
    ir.save(strip_qdq(load_graph(setup.folder / REFERENCE)), twin)
    profile, threads = setup.manifest.profile, setup.rules.threads
    opened = open_float_twins(setup.exporter, twin, profile, threads)
    return {str(precision): runner for precision, runner in opened.items()}


class _Ticks:
    """Progress by rounds, or by per cent of the time where their number is open."""

    def __init__(self, setup: Setup) -> None:
        rules, self._progress = setup.rules, setup.progress
        self._seconds = rules.max_seconds if rules.repeats is None else None
        self._begun, self._shown = time.monotonic(), 0
        self._progress.start("bench", 100 if rules.repeats is None else rules.repeats)

    def advance(self) -> None:
        """A round is over."""
        if self._seconds is None:
            self._progress.advance()
            return
        now = min(100, int(100 * (time.monotonic() - self._begun) / self._seconds))
        if now > self._shown:
            self._progress.advance(now - self._shown)
            self._shown = now

    def finish(self) -> None:
        """Sampling is over."""
        self._progress.finish()


def deployed_agreement(setup: Setup) -> float:
    """Share of the stored images with PyTorch's class in the artifact as deployed, as `verify`
    counts them: what a rounding tie may turn is passed over."""
    parity = read_parity(setup.folder, setup.manifest)
    path, classes = setup.folder / MODEL, setup.manifest.model.classes
    opened = setup.exporter.open(path, threads=setup.rules.threads, profile=setup.manifest.profile)
    run = CheckedRunner(path, opened, classes)
    logits = []
    for start in range(0, len(parity.pixels), AT_ONCE):
        pixels = parity.pixels[start : start + AT_ONCE]
        logits.append(run(preprocess(pixels, setup.manifest.preprocessing)))
    step = setup.manifest.parity.logit_step
    return clear_agreement(np.concatenate(logits), parity.logits, step)


def batch_of(setup: Setup, rng: np.random.Generator) -> Array:
    """A batch of real images, float32 [batch, C, H, W]; drawn with repetition if there are few."""
    parity = read_parity(setup.folder, setup.manifest)
    count, wanted = len(parity.pixels), setup.rules.batch
    chosen = rng.choice(count, size=wanted, replace=wanted > count)
    return preprocess(parity.pixels[chosen], setup.manifest.preprocessing)
