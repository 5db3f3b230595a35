"""Searches that were killed go on to the very same end; states of other searches are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import killed_search
import pytest
from artifacts import profile
from killed_search import OPTIONS, RULES
from search_tools import World

import eqnet.stages.search.costing as costing
from eqnet.spec.errors import CheckpointError
from eqnet.stages.search.journal import STATE_FILE


def result(report):
    return report.model_dump(exclude={"seconds"})


@pytest.mark.parametrize(("task", "count"), [("genetic search", 27), ("measuring finalists", 2)])
def test_a_search_killed_by_sigkill_goes_on_to_the_same_end(world, tmp_path, task, count):
    whole = world(RULES, **OPTIONS)
    predicted = world.predictor.subnets
    killed = tmp_path / "killed"
    killed.mkdir()
    script = [sys.executable, killed_search.__file__, str(killed), task, str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(script, capture_output=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (killed / "out").iterdir()] == [STATE_FILE]
    state = json.loads((killed / "out" / STATE_FILE).read_text())
    assert state["generation"]["number"] == (20 if task == "genetic search" else 30)
    assert len(state["measured"]) == (0 if task == "genetic search" else 2)
    again = World(killed, world.session.supernet, world.patch)
    assert result(again(RULES, resume=True, **OPTIONS)) == result(whole)
    assert again.predictor.subnets < predicted
    assert sorted(path.name for path in (killed / "out").iterdir()) == [
        "search.json",
        "subnet.json",
    ]


class StopError(Exception):
    pass


def interrupted(world, **options):
    """A search that ends while its finalists are measured."""

    def measure(spec):
        raise StopError

    world.measure_as(measure)
    with pytest.raises(StopError):
        world(RULES, **{**OPTIONS, **options})
    world.measure_as(lambda spec: 0.9)
    return world.folder / "out" / STATE_FILE


def test_a_state_is_taken_up_by_the_same_search_alone(world):
    path = interrupted(world)
    before = path.read_bytes()
    for options, told in (
        ({"budgets": {"avg_weight_bits": 4}}, "another budget"),
        ({"seed": 5}, "another seed or population"),
        ({"objectives": []}, "another objective"),
        ({"generations": 20}, "30 generations are done .allowed: --generations 30 or more"),
    ):
        with pytest.raises(CheckpointError, match=told) as caught:
            world(RULES, resume=True, **{**OPTIONS, **options})
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
    longer = world(RULES, resume=True, **{**OPTIONS, "generations": 44})
    assert [one.generation for one in longer.history] == list(range(1, 45))
    assert not path.exists()


def test_without_resume_a_search_begins_anew(world):
    path = interrupted(world)
    before = world.predictor.subnets
    world(RULES, **{**OPTIONS, "seed": 9})
    assert world.predictor.subnets - before > 36 * 14
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: "not JSON",
        lambda state: json.dumps(state | {"extra": 1}),
        lambda state: json.dumps(state | {"generation": state["generation"] | {"genomes": [[99]]}}),
        lambda state: json.dumps(state | {"generation": state["generation"] | {"objectives": []}}),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(world, change):
    path = interrupted(world)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(CheckpointError, match=f"{STATE_FILE}: not the state of a search") as caught:
        world(RULES, resume=True, **OPTIONS)
    assert "\n" not in str(caught.value)


def test_what_was_timed_is_not_timed_again(world):
    rules = profile(cost={"model": "measured"}, search_groups=["depthwise_conv", "linear"])
    timed = []

    def times(supernet, exporter, rules, specs, progress):
        timed.append(len(specs))
        return [1.0 + place / 8 for place in range(len(specs))]

    world.patch.setattr(costing, "measure_latency", times)

    def measure(spec):
        raise StopError

    world.measure_as(measure)
    with pytest.raises(StopError):
        world(rules)
    world.measure_as(lambda spec: 0.9)
    costs = {point.cost for point in world(rules, resume=True).front}
    assert costs <= {1.0, 1.125, 1.25, 1.375}
    assert timed == [4]
