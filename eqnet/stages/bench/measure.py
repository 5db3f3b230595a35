"""The timed runs: quantized and float sessions in turns, each on warm caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from eqnet.backend.artifact import read_parity
from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.graph.reading import load_graph, strip_qdq
from eqnet.backend.judge import clear_agreement
from eqnet.backend.machine.timing import in_turns
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, Exporter
from eqnet.backend.running import CheckedRunner, runtime_errors
from eqnet.spec.hardware.profile import BenchRules, HardwareProfile
from eqnet.spec.manifest import MODEL, REFERENCE, Manifest
from eqnet.spec.progress import Progress
from eqnet.spec.reports import FloatPrecision

WARMUP = 5
AT_ONCE = 64


@dataclass(frozen=True)
class Setup:
    """What is measured, with what, and how."""

    folder: Path
    manifest: Manifest
    exporter: Exporter
    rules: BenchRules
    progress: Progress


def time_pairs(setup: Setup, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Milliseconds of the artifact's model and of its float twin, pair by pair.

    The twin runs on the artifact's device, in `float_precision`. New sessions are opened on
    every call. Both get the same batch of stored parity images.
    """
    images = batch_of(setup, rng)
    with scratch_folder() as scratch:
        twin = scratch / "float.onnx"
        ir.save(strip_qdq(load_graph(setup.folder / REFERENCE)), twin)
        threads, profile = setup.rules.threads, setup.manifest.profile
        quantized = setup.exporter.open(setup.folder / MODEL, threads=threads, profile=profile)
        plain = profile.model_copy(update={"remainder": float_precision(profile)})
        float32 = setup.exporter.open(twin, threads=threads, profile=plain)
        with runtime_errors(setup.folder / MODEL):
            return _paired([partial(quantized, images), partial(float32, images)], setup)


def float_precision(profile: HardwareProfile) -> FloatPrecision:
    """What the float twin runs in: bfloat16 where the artifact's remainder does, else float32.

    A target with bfloat16 runs the float model faster in it, so float32 would be no rival.
    """
    return "bfloat16" if profile.remainder == "bfloat16" else "float32"


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


def _paired(runs: Sequence[Callable[[], object]], setup: Setup) -> tuple[list[float], list[float]]:
    setup.progress.start("bench", setup.rules.repeats)
    quantized, plain = in_turns(
        runs, setup.rules.repeats, WARMUP, after_round=setup.progress.advance
    )
    setup.progress.finish()
    return quantized, plain
