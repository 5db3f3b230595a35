"""The one timing loop, of bench, search and benchmarks: in turns, after a warm-up.

Identical code differs by 10-30% between two moments of a shared machine, so the candidates run
in turns and are compared pair by pair; a drift of the machine then cancels out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import numpy as np

from eqnet.backend.machine.blocks import in_blocks, median_interval
from eqnet.spec.errors import UsageError
from eqnet.spec.reports import Latency

NS_PER_MS = 1e6


def turns(
    fns: Sequence[Callable[[], object]],
    clock: Callable[[], int] = time.perf_counter_ns,
    seed: int = 0,
) -> Iterator[list[float]]:
    """Rounds without end: the time of one call of every function, in ms.

    A timed call follows an untimed one of the same function: in service a model runs after
    itself, and right after another it would find caches full of the other's weights (ResNet-18
    in int8 then measured a tenth slower against float than it is). Each round has an order of
    its own, fixed by `seed`, so that none always follows the same neighbour; every second round
    turns the order before it round, so that each of two is as often the first.

    `clock` gives nanoseconds.
    """
    rng = np.random.default_rng(seed)
    order = list(range(len(fns)))
    for number in count():
        times = [0.0] * len(fns)
        order = order[::-1] if number % 2 else rng.permutation(len(fns)).tolist()
        for index in order:
            fns[index]()
            start = clock()
            fns[index]()
            times[index] = (clock() - start) / NS_PER_MS
        yield times


def in_turns(
    fns: Sequence[Callable[[], object]],
    repeats: int,
    warmup: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    after_round: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Call every function in `warmup` untimed and `repeats` timed rounds of `turns`, in ms.

    `after_round` is called after each timed round. Returns `repeats` samples for each function;
    samples with the same index were taken side by side. Raises UsageError when there is nothing
    to time.
    """
    if repeats < 1 or warmup < 0:
        raise UsageError(
            f"cannot time {repeats} repeats after {warmup} warm-up rounds "
            "(allowed: repeats >= 1, warm-up >= 0)"
        )
    samples: list[list[float]] = [[] for _ in fns]
    for number, times in enumerate(islice(turns(fns, clock), warmup + repeats)):
        if number < warmup:
            continue
        for kept, elapsed in zip(samples, times, strict=True):
            kept.append(elapsed)
        if after_round is not None:
            after_round()
    return samples


def summarize_samples(samples_ms: Sequence[float], batch: int, legs: Sequence[int] = ()) -> Latency:
    """Median first, then the tails; `batch` is the number of images of one call, legs as of
    `paired_ratio`."""
    values = np.asarray(samples_ms, dtype=np.float64)
    median, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    mean = float(values.mean())
    return Latency(
        median=median,
        median_interval=median_interval(in_blocks(values, legs), np.random.default_rng(0)),
        p90=p90,
        p99=p99,
        minimum=float(values.min()),
        mean=mean,
        throughput=batch * 1000.0 / median if median > 0 else 0.0,
        mean_throughput=batch * 1000.0 / mean if mean > 0 else 0.0,
        samples=tuple(values.tolist()),
    )


def paired_ratio(
    a: Sequence[float], b: Sequence[float], rng: np.random.Generator, legs: Sequence[int] = ()
) -> tuple[float, tuple[float, float]]:
    """Median of a[i] / b[i] with its 95% interval, by a bootstrap over blocks of pairs
    (`eqnet.backend.machine.blocks`). legs: how many pairs each set of sessions gave.

    Below 1 means that `a` is faster. Raises UsageError if the samples are no pairs.
    """
    if len(a) != len(b) or not a:
        raise UsageError(f"{len(a)} and {len(b)} samples are no pairs (allowed: equal, at least 1)")
    ratios = np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64)
    return float(np.median(ratios)), median_interval(in_blocks(ratios, legs), rng)
