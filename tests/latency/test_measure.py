"""Measuring and fitting on a clock that only operators move."""

from __future__ import annotations

import json
from typing import Any

import pytest
from latency_tools import ClockTarget, duration, small_subject

import eqnet.latency.measure as module
from eqnet.latency.draw import drawn, floating, quantized
from eqnet.latency.measure import Plan, measure
from eqnet.latency.whole_graph import cut
from eqnet.spec.errors import MissingExtraError, ProfileError, UsageError
from eqnet.spec.latency.file import network_sha256, read_latency, require_of
from eqnet.spec.progress import Silent

PLAN = Plan(threads=3, batch=2, subnets=24, held_out=10)


@pytest.fixture(scope="module")
def subject():
    return small_subject()


@pytest.fixture
def run(subject, tmp_path, monkeypatch):
    def measured(clock: Any, plan: Plan = PLAN, out=tmp_path / "l.json"):
        monkeypatch.setattr(module, "in_turns", clock.in_turns)
        return measure(subject, clock, plan, out, Silent())

    return measured


def test_the_model_finds_what_each_operator_costs(subject, run, tmp_path):
    import onnx_ir as ir

    clock = ClockTarget()
    file = run(clock)
    assert file.fit.held_out.subnets == 10
    assert file.fit.held_out.mean_error < 0.03
    assert file.fit.held_out.kendall_tau > 0.9
    assert file.fit.crossed.mean_error < 0.03
    ends = quantized(subject.target), floating(subject.target)
    for spec in ends:
        ir.save(cut(subject.whole, subject.info, spec), tmp_path / "g.onnx")
        truth = duration(tmp_path / "g.onnx")
        assert file.milliseconds(subject.info, spec) == pytest.approx(truth, rel=0.03)
    assert file.reference_ms == pytest.approx(file.milliseconds(subject.info, ends[0]), rel=0.03)
    # The profiler told half of the difference of 3 - 1 ms.
    times = {layer.name: layer for layer in file.layers}
    assert (times["conv1"].integer, times["conv1"].floating) == (0.5, 1.5)
    assert 1.1 < file.fit.coefficients["layer: conv1"] < 2.5
    assert clock.shapes == {(2, 3, 12, 12)}
    assert (file.setting.threads, file.setting.batch, file.setting.runtime) == (3, 2, "fake 1.0")
    assert file.setting.network == network_sha256(subject.info)


def test_a_stopped_run_goes_on_and_gives_the_same_file(run, tmp_path):
    whole = run(ClockTarget(), out=tmp_path / "whole.json")
    stopped = ClockTarget(fails_at=9)
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    half = read_latency(tmp_path / "l.json")
    assert (len(half.samples), half.fit) == (8, None)
    again = ClockTarget()
    assert run(again) == whole
    assert again.opened == 1 + 34 - 8  # the reference, and what was missing
    assert read_latency(tmp_path / "l.json") == whole
    third = ClockTarget()
    assert run(third) == whole
    assert third.opened == 0


def test_another_plan_keeps_what_it_can(run):
    run(ClockTarget())
    more = ClockTarget()
    file = run(more, Plan(threads=3, batch=2, subnets=26, held_out=8))
    assert more.opened <= 1 + 2 + 2  # two new ones; one may have been held out before
    assert [s.held_out for s in file.samples] == [False] * 26 + [True] * 8
    assert file == run(ClockTarget(), Plan(threads=3, batch=2, subnets=26, held_out=8))


@pytest.mark.parametrize("change", [{"threads": 2}, {"batch": 1}, {"seed": 1}])
def test_a_file_of_another_setting_is_measured_anew(run, change):
    run(ClockTarget())
    clock = ClockTarget()
    run(clock, Plan(**{**PLAN.__dict__, **change}))
    assert clock.opened == 35


def test_a_file_of_another_machine_is_kept(run, tmp_path):
    run(ClockTarget())
    path = tmp_path / "l.json"
    content = json.loads(path.read_text())
    content["host"] |= {"machine": "another", "cpu": "Cortex-A78"}
    path.write_text(json.dumps(content))
    with pytest.raises(ProfileError, match="another machine, Cortex-A78"):
        run(ClockTarget())
    assert json.loads(path.read_text()) == content


def test_what_is_held_out_is_measured_among_the_others(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(ClockTarget(fails_at=20))
    half = read_latency(tmp_path / "l.json")
    assert [s.drawn for s in half.samples[:1]] == ["uniform"]
    assert 4 <= sum(sample.held_out for sample in half.samples) <= 7


def test_subnets_are_drawn_by_number_and_no_two_are_equal(subject):
    target = subject.target
    order = PLAN.order(target)
    assert [one.kind for one in order[:2]] == ["uniform", "float"]
    assert len({one.spec.choices_json() for one in order}) == 34
    assert {one.kind for one in order} == {"uniform", "float", "scattered", "span", "groups"}
    assert order == PLAN.order(target)
    assert drawn(target, 5, held_out=True, seed=1) != drawn(target, 5, held_out=True, seed=2)
    assert order[24:] == Plan(threads=1, batch=1, subnets=24, held_out=20).order(target)[24:34]


class NoProfiler(ClockTarget):
    layer_times = None  # type: ignore[assignment]  # as if it had none


def test_without_a_profiler_the_model_begins_from_multiply_adds(run):
    file = run(NoProfiler())
    assert {(layer.integer, layer.floating) for layer in file.layers} == {(0.0, 0.0)}
    assert file.fit.held_out.mean_error < 0.05


def test_what_cannot_be_measured_is_one_line(run, tmp_path):
    with pytest.raises(MissingExtraError, match="needs fake: no such chip"):
        run(ClockTarget("no such chip"))
    with pytest.raises(UsageError, match=r"4 subnets .* \(allowed: 8 or more\)"):
        run(ClockTarget(), Plan(threads=1, batch=1, subnets=4, held_out=2))


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "eqnet.latency"}', "[" * 100_000])
def test_a_file_that_is_none_is_not_written_over(run, tmp_path, text):
    path = tmp_path / "l.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match="not a latency file") as caught:
        run(ClockTarget())
    assert "\n" not in str(caught.value)
    assert path.read_text() == text


def test_a_file_predicts_its_own_network_and_profile_alone(subject, run, tmp_path):
    path = tmp_path / "l.json"
    file = run(ClockTarget())
    ours = subject.profile.graph_sha256()
    require_of(path, file, subject.info, ours)
    other = file.setting.model_copy(update={"network": "0" * 64})
    with pytest.raises(ProfileError, match="another network"):
        require_of(path, file.model_copy(update={"setting": other}), subject.info, ours)
    with pytest.raises(ProfileError, match="under profile 'by_hand'"):
        require_of(path, file, subject.info, "0" * 64)
    with pytest.raises(ProfileError, match="34 subnets measured and no model yet"):
        require_of(path, file.model_copy(update={"fit": None}), subject.info, ours)
