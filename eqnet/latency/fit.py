"""Fitting the latency model: linear in a subnet's features, drawn to what the profiler said.

A network has more features than one wants to time subnets, so each coefficient has an expected
value and a width (Bayesian linear regression with known prior; Bishop, Pattern Recognition and
Machine Learning, 3.3, in its dual form, 6.1): for a layer in float the profiler's difference, for
a pass over a tensor one share of its elements that all passes of a kind have in common. How wide
is what predicts each subnet best from all the others (Rasmussen and Williams, 5.4.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.ranks import kendall_tau
from eqnet.spec.errors import UsageError
from eqnet.spec.latency.features import LAYER, features, key
from eqnet.spec.latency.file import FLOOR, Fit, LatencyFile, LayerTime, Quality, Sample
from eqnet.spec.network import NetworkInfo
from eqnet.spec.subnet import SubnetSpec

Array = NDArray[np.float64]
LEAST = 8
"""Subnets without which no model is fitted."""
# What is tried: relative error of a measurement, width of a layer's deviation from the profiler's
# times as a share of them, width of a tensor's deviation from its kind as a share of that.
NOISES = (0.01, 0.02, 0.05)
LAYER_WIDTHS = (0.03, 0.1, 0.3, 1.0)
TENSOR_WIDTHS = (0.03, 0.1, 0.3, 1.0)
# The profiler's sum itself is off by overheads, and a pass costs this share of the fully
# quantized net for each share of its elements, give or take.
SCALE_WIDTH, PASS_SHARE = 0.5, 1.0


@dataclass(frozen=True)
class _Problem:
    """columns: names of features. design: [N, F]. expected, scale: [F], milliseconds.

    kinds: [F], which features share a part; times: [N] milliseconds; reference: its row's number.
    """

    columns: list[str]
    design: Array
    expected: Array
    scale: Array
    kinds: NDArray[np.int64]
    times: Array
    reference: int


def fit(file: LatencyFile, info: NetworkInfo, specs: Sequence[SubnetSpec]) -> LatencyFile:
    """The file with a model. specs: the subnets of its samples. Raises UsageError for too few."""
    reference = reference_ms(file.samples)
    rows = [
        (features(info, file.origins, spec), sample)
        for spec, sample in zip(specs, file.samples, strict=True)
    ]
    fitted = [row for row in rows if not row[1].held_out]
    if len(fitted) < LEAST:
        raise UsageError(f"{len(fitted)} subnets for a latency model (allowed: {LEAST} or more)")
    problem = _problem(info, file.layers, fitted, reference)
    constant, weights, crossed = _solve(problem)
    coefficients = dict(zip(problem.columns, weights.tolist(), strict=True))
    made = Fit(
        constant=constant,
        coefficients={name: value for name, value in coefficients.items() if value},
        fastest=float(problem.times.min()),
        held_out=None,
        crossed=_quality(crossed, problem.times),
    )
    done = file.model_copy(update={"fit": made, "reference_ms": reference})
    judged = [(spec, s) for spec, s in zip(specs, file.samples, strict=True) if s.held_out]
    if len(judged) > 1:
        truth = np.array([sample.ratio * reference for _, sample in judged])
        guess = np.array([done.milliseconds(info, spec) for spec, _ in judged])
        made = made.model_copy(update={"held_out": _quality(guess, truth)})
    return done.model_copy(update={"fit": made})


def reference_ms(samples: Sequence[Sample]) -> float:
    """Milliseconds of the fully quantized subnet: the median of all turns."""
    return float(np.median([np.median(sample.reference) for sample in samples]))


def _problem(
    info: NetworkInfo,
    layers: Sequence[LayerTime],
    rows: Sequence[tuple[set[str], Sample]],
    reference: float,
) -> _Problem:
    columns = sorted(set().union(*(found for found, _ in rows)))
    design = np.array([[name in found for name in columns] for found, _ in rows], np.float64)
    times = np.array([sample.ratio * reference for _, sample in rows])
    first = next(i for i, (_, sample) in enumerate(rows) if sample.drawn == "uniform")
    expected, scale = _layer_priors(info, layers, times.max() - reference)
    elements = {tensor.name: tensor.elements for tensor in info.tensors}
    a_pass = PASS_SHARE * reference / sum(elements.values())
    kinds = sorted({name.partition(": ")[0] for name in columns})
    means, scales = [], []
    for name in columns:
        kind, _, of = name.partition(": ")
        means.append(expected[of] if kind == LAYER else 0.0)
        scales.append(scale[of] if kind == LAYER else a_pass * elements[of])
    numbers = np.array([kinds.index(name.partition(": ")[0]) for name in columns])
    return _Problem(columns, design, np.array(means), np.array(scales), numbers, times, first)


def _layer_priors(
    info: NetworkInfo, layers: Sequence[LayerTime], difference: float
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What each layer takes longer in float, and how much it takes at all, in milliseconds.

    By multiply-adds where the runtime has no profiler.
    """
    if any(layer.floating for layer in layers):
        found = {layer.name: layer.floating - layer.integer for layer in layers}
        return found, {layer.name: layer.floating + layer.integer for layer in layers}
    total = sum(layer.macs for layer in info.layers)
    shares = {layer.name: difference * layer.macs / total for layer in info.layers}
    return shares, {name: 2 * abs(share) for name, share in shares.items()}


def _solve(problem: _Problem) -> tuple[float, Array, Array]:
    """(constant, coefficients [F], each subnet's time predicted from the others [N])."""
    choices = itertools.product(NOISES, LAYER_WIDTHS, TENSOR_WIDTHS)
    best = min(choices, key=lambda widths: _error(problem, widths))
    return _posterior(problem, best)


def _error(problem: _Problem, widths: tuple[float, float, float]) -> float:
    _, _, crossed = _posterior(problem, widths)
    return float(np.mean(np.abs(crossed / problem.times - 1)))


def _posterior(problem: _Problem, widths: tuple[float, float, float]) -> tuple[float, Array, Array]:
    noise, of_layers, of_tensors = widths
    base = problem.times[problem.reference]
    # Relative errors are what counts, so each row is divided by its time.
    rows = (problem.design - problem.design[problem.reference]) / problem.times[:, None]
    target = (problem.times - base) / problem.times
    own = problem.scale * np.where(_is_layer(problem), of_layers, of_tensors)
    shared = _shared(problem)
    prior = rows * own**2 @ rows.T + (rows @ shared.T) @ (rows @ shared.T).T
    inverse = np.linalg.inv(prior + noise**2 * np.eye(len(rows)))
    residual = target - rows @ problem.expected
    dual = inverse @ residual
    weights = problem.expected + own**2 * (rows.T @ dual) + shared.T @ (shared @ (rows.T @ dual))
    left_out = (target - dual / np.diag(inverse)) * problem.times + base
    constant = float(base - problem.design[problem.reference] @ weights)
    return constant, weights, np.maximum(left_out, FLOOR * problem.times.min())


def _is_layer(problem: _Problem) -> NDArray[np.bool_]:
    return np.array([name.startswith(key(LAYER, "")) for name in problem.columns])


def _shared(problem: _Problem) -> Array:
    """[K, F]: directions that the coefficients of one kind move in together."""
    layers = _is_layer(problem)
    rows = []
    for kind in range(problem.kinds.max() + 1):
        of_kind = problem.kinds == kind
        along = np.where(layers, SCALE_WIDTH * problem.expected, problem.scale)
        rows.append(np.where(of_kind, along, 0.0))
    return np.array(rows)


def _quality(predicted: Array, measured: Array) -> Quality:
    errors = np.abs(predicted / measured - 1)
    return Quality(
        subnets=len(measured),
        mean_error=float(errors.mean()),
        worst_error=float(errors.max()),
        kendall_tau=kendall_tau(predicted, measured),
    )
