from itertools import count

import numpy as np
import pytest

from eqnet.backend.machine.timing import in_turns, paired_ratio, summarize_samples
from eqnet.spec.errors import UsageError


def test_each_timed_call_follows_one_of_its_own_and_orders_change():
    calls: list[str] = []
    rounds: list[int] = []
    fns = [lambda: calls.append("a"), lambda: calls.append("b")]
    samples = in_turns(
        fns, repeats=20, warmup=2, clock=lambda: 0, after_round=lambda: rounds.append(len(calls))
    )
    each = ["".join(calls[start : start + 4]) for start in range(0, len(calls), 4)]
    assert set(each) == {"aabb", "bbaa"}
    assert len(each) == 22
    assert [len(kept) for kept in samples] == [20, 20]
    assert rounds == list(range(12, 89, 4))


def test_in_turns_times_each_call_alone_in_milliseconds():
    now = [0]

    def work(nanoseconds: int) -> None:
        now[0] += nanoseconds

    fns = [lambda: work(1_000_000), lambda: work(2_500_000)]
    samples = in_turns(fns, repeats=4, warmup=1, clock=lambda: now[0])
    assert samples == [[1.0] * 4, [2.5] * 4]


def test_in_turns_default_clock_moves_forward():
    (samples,) = in_turns([lambda: sum(range(1000))], repeats=5, warmup=0)
    assert all(sample > 0 for sample in samples)


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (-1, 0), (1, -1)])
def test_in_turns_refuses_nothing_to_time(repeats, warmup):
    with pytest.raises(UsageError, match="allowed: repeats >= 1"):
        in_turns([lambda: None], repeats, warmup, clock=count().__next__)


def test_summarize():
    latency = summarize_samples([3.0, 1.0, 2.0, 4.0, 10.0], batch=4)
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
