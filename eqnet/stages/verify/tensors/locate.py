"""Where a runtime goes wrong: its tensors against ``reference.onnx``, one by one.

The deployed graph runs whole, as it is, with its quantized tensors as further outputs. Each part
of the reference between two quantizers is fed with the runtime's own tensors and has to make the
runtime's next one: what differs beyond rounding was added by that part's layers alone, whatever
came to it. Against the reference's own run the same tensors show how the error grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.artifact import Parity
from eqnet.backend.discovery import find_exporter
from eqnet.backend.inside.matching import LOGITS, Part
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, Exporter, Probes
from eqnet.spec.judging.comparison import Location, Run, TensorError
from eqnet.spec.manifest import Manifest
from eqnet.stages.verify.execute import STAND_IN, Deployment
from eqnet.stages.verify.tensors.causes import Evidence, explain
from eqnet.stages.verify.tensors.errors import Errors, Tolerance
from eqnet.stages.verify.tensors.probing import TINY, Graphs, Inside

IMAGES = 8
# All tensors of so many values of input are held at once: two images of 224 x 224.
VALUES_AT_ONCE = 2 * 3 * 224 * 224


class Found(NamedTuple):
    """One run. errors: by point, in graph order, the logits' last. parts: of the reference. seen:
    point -> value of the deployed graph."""

    errors: dict[str, Errors]
    parts: Mapping[str, Part]
    seen: Mapping[str, str]
    disturbed: tuple[str, ...]

    @property
    def first(self) -> str | None:
        """The first tensor beyond its tolerance."""
        return next((name for name, one in self.errors.items() if one.beyond), None)


def locate(
    folder: Path,
    manifest: Manifest,
    parity: Parity,
    target: Deployment,
    deployed: Array,
    threads: int | None = None,
) -> Location:
    """The first tensor of the runtime that is wrong, on the 8 stored images of the worst logits.

    deployed: the runtime's logits of the stored images, float32 [N, classes]. A runtime that
    cannot run here or shows no tensors is stood in for by ONNX Runtime without optimizations, on
    the same graph. Raises ArtifactError where a graph cannot be read or run.
    """
    graphs = Graphs.read(folder, manifest)
    chosen = worst_images(deployed, parity.logits)
    batches = _batches(preprocess(parity.pixels[chosen], manifest.preprocessing))
    prober, runs, note = _prober(target)
    found = {run: _look_through(graphs, prober, run, batches, threads) for run in runs}
    run = next((name for name, one in found.items() if one.first is not None), runs[0])
    one = found[run]
    both = None if len(found) == 1 or one.first is None else found["semantics"].first is not None
    evidence = Evidence(
        graphs,
        one.first,
        one.parts,
        one.seen,
        wrong=sum(error.beyond for error in one.errors.values()),
        tensors=len(one.errors),
        exporter=target.exporter,
        both=both,
        own_runtime=prober is target.executor,
    )
    cause = explain(evidence)
    return Location(
        run=run,
        runtime=prober.runtime_version(),
        images=len(chosen),
        tensor=one.first,
        layer=cause.layer,
        cause=cause.text,
        grid=cause.grid,
        reference_grid=cause.reference_grid,
        both_runs=both,
        tensors=_rows(one),
        disturbed=one.disturbed,
        unseen=tuple(name for name in graphs.points if name not in one.seen),
        note=note,
    )


def worst_images(found: Array, truth: Array) -> NDArray[np.int64]:
    """Indices of the images whose logits [N, K] are farthest from the truth, worst first."""
    with np.errstate(invalid="ignore"):
        error = np.abs(found - truth).max(axis=1)
    order = np.argsort(-np.nan_to_num(error, nan=np.inf), kind="stable")
    return order[:IMAGES].astype(np.int64)


def _batches(inputs: Array) -> list[Array]:
    size = max(1, VALUES_AT_ONCE // max(1, math.prod(inputs.shape[1:])))
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def _prober(target: Deployment) -> tuple[Exporter, tuple[Run, ...], str]:
    """Whose tensors can be read, in which runs, and why not the backend's own."""
    if target.reason is not None:
        why = target.reason
    elif isinstance(target.executor, Probes):
        return target.executor, ("deployed", "semantics"), ""
    else:
        why = f"{target.runtime} shows no tensors"
    return find_exporter(STAND_IN), ("semantics",), f"{why}; {STAND_IN} ran the same graph"


def _look_through(
    graphs: Graphs, prober: Exporter, run: Run, batches: list[Array], threads: int | None
) -> Found:
    """Errors of every tensor in one run."""
    deployed = run == "deployed"
    inside = Inside(graphs, prober, optimize=deployed, threads=threads)
    remainder = graphs.manifest.profile.remainder if deployed else "float32"
    errors: dict[str, Errors] = {}
    parts: dict[str, Part] = {}
    for look in inside.looks(batches):
        for name in look.judged:
            step = _step(graphs, name)
            parts = parts or graphs.parts(inside.seen)
            coarse = remainder != "float32" or parts[name].inner > 0
            tolerance = Tolerance.of(logits=name == LOGITS, coarse=coarse)
            expected = look.expected[name] / step if name == LOGITS else look.expected[name]
            errors.setdefault(name, Errors(tolerance)).add(
                look.found[name] / step, look.whole[name] / step, expected
            )
    ordered = {name: errors[name] for name in [*graphs.points, LOGITS] if name in errors}
    return Found(ordered, parts, inside.seen, tuple(inside.disturbed))


def _step(graphs: Graphs, name: str) -> np.float32:
    """The reference's quantization step; of the logits, that of an 8-bit grid over their range."""
    if name == LOGITS:
        return np.float32(max(graphs.manifest.parity.logit_step, TINY))
    return np.float32(graphs.points[name].scale)


def _rows(found: Found) -> tuple[TensorError, ...]:
    rows = []
    for depth, (name, one) in enumerate(found.errors.items()):
        rows.append(
            TensorError(
                depth=depth,
                tensor=name,
                layers=found.parts[name].layers,
                error=_finite(one.rms),
                worst=_finite(one.worst),
                added=_finite(one.added),
                added_share=one.changed / max(one.values, 1),
                beyond=one.beyond,
            )
        )
    return tuple(rows)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
