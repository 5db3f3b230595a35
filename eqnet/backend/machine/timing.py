"""The one timing loop, of bench, search and benchmarks: in turns, after a warm-up.

Identical code differs by 10-30% between two moments of a shared machine, so the candidates run
in turns and are compared pair by pair; a drift of the machine then cancels out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from eqnet.spec.errors import UsageError
from eqnet.spec.reports import Latency

NS_PER_MS = 1e6
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)


def in_turns(
    fns: Sequence[Callable[[], object]],
    repeats: int,
    warmup: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    after_round: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Call every function in `warmup` untimed and `repeats` timed rounds, in ms.

    A timed call follows an untimed one of the same function: in service a model runs after
    itself, and right after another it would find caches full of the other's weights (ResNet-18
    in int8 then measured a tenth slower against float than it is). Each round has an order of
    its own, the same on every call, so that none always follows the same neighbour.

    `clock` gives nanoseconds. `after_round` is called after each timed round. Returns `repeats`
    samples for each function; samples with the same index were taken side by side. Raises
    UsageError when there is nothing to time.
    """
    if repeats < 1 or warmup < 0:
        raise UsageError(
            f"cannot time {repeats} repeats after {warmup} warm-up rounds "
            "(allowed: repeats >= 1, warm-up >= 0)"
        )
    rng = np.random.default_rng(0)
    samples: list[list[float]] = [[] for _ in fns]
    for number in range(warmup + repeats):
        for index in rng.permutation(len(fns)):
            fns[index]()
            start = clock()
            fns[index]()
            elapsed = (clock() - start) / NS_PER_MS
            if number >= warmup:
                samples[index].append(elapsed)
        if number >= warmup and after_round is not None:
            after_round()
    return samples


def summarize_samples(samples_ms: Sequence[float], batch: int) -> Latency:
    """Median first, then the tails; `batch` is the number of images of one call."""
    values = np.asarray(samples_ms, dtype=np.float64)
    median, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    throughput = batch * 1000.0 / median if median > 0 else 0.0
    return Latency(
        median=median,
        p90=p90,
        p99=p99,
        minimum=float(values.min()),
        mean=float(values.mean()),
        throughput=throughput,
        samples=tuple(values.tolist()),
    )


def paired_ratio(
    a: Sequence[float], b: Sequence[float], rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    """Median of a[i] / b[i] with its 95% percentile-bootstrap interval over the pairs.

    Below 1 means that `a` is faster. Raises UsageError if the samples are no pairs.
    """
    if len(a) != len(b) or not a:
        raise UsageError(f"{len(a)} and {len(b)} samples are no pairs (allowed: equal, at least 1)")
    ratios = np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64)
    medians = [float(np.median(rng.choice(ratios, size=ratios.size))) for _ in range(RESAMPLES)]
    low, high = np.percentile(medians, INTERVAL).tolist()
    return float(np.median(ratios)), (low, high)
