from itertools import count

import numpy as np
import pytest

from eqnet.backend.timing import interleave, paired_ratio, summarize
from eqnet.spec.errors import UsageError


def test_interleave_alternates_after_warmup():
    calls: list[str] = []
    fns = [lambda: calls.append("a"), lambda: calls.append("b")]
    samples = interleave(fns, repeats=3, warmup=2, clock=lambda: 0)
    assert calls == ["a", "b"] * 5
    assert [len(kept) for kept in samples] == [3, 3]


def test_interleave_times_each_call_alone_in_milliseconds():
    now = [0]

    def work(nanoseconds: int) -> None:
        now[0] += nanoseconds

    fns = [lambda: work(1_000_000), lambda: work(2_500_000)]
    samples = interleave(fns, repeats=4, warmup=1, clock=lambda: now[0])
    assert samples == [[1.0] * 4, [2.5] * 4]


def test_interleave_default_clock_moves_forward():
    (samples,) = interleave([lambda: sum(range(1000))], repeats=5, warmup=0)
    assert all(sample > 0 for sample in samples)


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (-1, 0), (1, -1)])
def test_interleave_refuses_nothing_to_time(repeats, warmup):
    with pytest.raises(UsageError, match="allowed: repeats >= 1"):
        interleave([lambda: None], repeats, warmup, clock=count().__next__)


def test_summarize():
    latency = summarize([3.0, 1.0, 2.0, 4.0, 10.0], batch=4)
    assert latency.median == 3.0
    assert latency.minimum == 1.0
    assert latency.mean == 4.0
    assert latency.p90 == pytest.approx(7.6)
    assert latency.p99 == pytest.approx(9.76)
    assert latency.throughput == pytest.approx(4 * 1000 / 3.0)
    assert latency.samples == (3.0, 1.0, 2.0, 4.0, 10.0)


def test_paired_ratio_cancels_a_drift_that_both_share():
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 200)
    a, b = 0.8 * drift * rng.normal(1, 0.01, 200), drift * rng.normal(1, 0.01, 200)
    ratio, (low, high) = paired_ratio(list(a), list(b), rng)
    assert low <= ratio <= high
    assert ratio == pytest.approx(0.8, abs=0.01)
    assert high - low < 0.01


def test_paired_ratio_interval_covers_one_for_equal_candidates_and_is_repeatable():
    rng = np.random.default_rng(1)
    a, b = list(rng.uniform(1, 2, 300)), list(rng.uniform(1, 2, 300))
    first = paired_ratio(a, b, np.random.default_rng(2))
    assert first == paired_ratio(a, b, np.random.default_rng(2))
    assert first[1][0] < 1 < first[1][1]


def test_paired_ratio_refuses_unpaired_samples():
    with pytest.raises(UsageError, match="2 and 1 samples are no pairs"):
        paired_ratio([1.0, 2.0], [1.0], np.random.default_rng(0))
