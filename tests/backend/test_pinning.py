"""Threads that stay where they were put."""

from __future__ import annotations

import os
import threading

import pytest

from eqnet.backend.machine.host import governor
from eqnet.backend.machine.pinning import choose, pinned

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads"
)


def topology(folder, siblings: dict[int, str]):
    for cpu, text in siblings.items():
        path = folder / f"cpu{cpu}" / "topology"
        path.mkdir(parents=True)
        (path / "thread_siblings_list").write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("siblings", "allowed", "threads", "chosen"),
    [
        ({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, (0, 1, 4, 5), 2, [0, 1]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 1, 2, 3), 2, [0, 2]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 1, 2, 3), 3, [0, 2, 1]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (1, 2, 3), 2, [1, 2]),
        ({}, (3, 5), 1, [3]),
        ({}, (3, 5), 8, [3, 5]),
    ],
)
def test_cores_before_second_threads_of_them(tmp_path, siblings, allowed, threads, chosen):
    assert choose(allowed, threads, topology(tmp_path, siblings)) == chosen


@needs_affinity
def test_threads_that_begin_inside_are_kept_there_and_the_rest_comes_back():
    before = os.sched_getaffinity(0)
    seen = []
    with pinned(1) as where:
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        inside = os.sched_getaffinity(0)
    assert seen == [inside]
    assert len(inside) == 1
    assert where == f"CPUs {next(iter(inside))}"
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_a_failure_inside_unpins_too():
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), pinned(1):
        raise KeyError
    assert os.sched_getaffinity(0) == before


def test_whoever_does_not_want_it_is_told(monkeypatch):
    with pinned(1, wanted=False) as where:
        assert where == "not pinned: --no-pin"
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as where:
        assert where == "not pinned: this system cannot pin threads"


def test_governors_of_all_cpus(tmp_path):
    assert governor(tmp_path) == "unknown"
    for cpu, name in enumerate(("performance", "performance", "powersave")):
        path = tmp_path / f"cpu{cpu}" / "cpufreq"
        path.mkdir(parents=True)
        (path / "scaling_governor").write_text(f"{name}\n")
        assert governor(tmp_path) == ("performance" if cpu < 2 else "performance, powersave")
