"""The search as a whole on a small network: what wins, what is measured, what is refused."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from artifacts import profile
from latency_tools import ClockTarget
from nets import small_supernet
from search_tools import SMALL, lowbit, session_of, size_of, space_of

import eqnet.latency.measure
import eqnet.stages.search.costing as costing
import eqnet.stages.search.search as module
from eqnet.latency.measure import Plan
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.costs import Lookup
from eqnet.spec.latency.file import read_latency
from eqnet.spec.progress import Silent
from eqnet.spec.reports import SearchReport
from eqnet.spec.subnet import load_subnet
from eqnet.stages.search import modelled
from eqnet.stages.search.accuracy.cqap import fit, load_cqap, save_cqap
from eqnet.stages.search.accuracy.features import encode, feature_size
from eqnet.stages.search.accuracy.labels import MeasuredSubnets
from eqnet.stages.search.fronts.choosing import FINALISTS
from eqnet.subnets.target import Target
from eqnet.supernet.settling.settle import measure


def test_the_result_is_measured_and_written(world):
    report = world(budgets={"avg_weight_bits": 5, "avg_activation_bits": 6})
    best = report.best
    assert best.avg_weight_bits <= 5
    assert best.avg_activation_bits <= 6
    assert report.budgets == {"avg_weight_bits": 5, "avg_activation_bits": 6}
    assert best.measured.images == 40
    assert 0 <= best.measured.accuracy <= 1
    assert best.predicted.cost == best.measured.cost == pytest.approx(size_of(world.info, best))
    assert report.unit == best.measured.unit == "KiB"
    # Single changes of three genes, and twelve generations of 24; then points of the front again.
    assert 3 * 49 + 12 * 24 <= report.evaluations < world.predictor.subnets
    out = world.folder / "out"
    assert load_subnet(out / "subnet.json") == best
    assert SearchReport.model_validate_json((out / "search.json").read_bytes()) == report
    assert sorted(path.name for path in out.iterdir()) == ["search.json", "subnet.json"]


def test_the_measured_accuracy_is_that_of_the_deployed_integers(world):
    from eqnet.supernet.extract import extract
    from eqnet.supernet.measure import accuracy

    best = world(budgets={"avg_weight_bits": 5}).best
    session = session_of(world.folder)
    session.settle(best, session.calibration())
    images = session.batches(session.dataset.validation())
    assert best.measured.accuracy == accuracy(extract(session.supernet, best), images)


def test_with_budgets_the_most_accurate_wins_even_where_no_uniform_subnet_meets_them(world):
    world.predictor.weights[5:] = 0  # accuracy is predicted to grow with weight bits, as size does
    world.measure_as(lambda spec: 0.9 + spec.avg_weight_bits / 10_000)
    limits = {"avg_weight_bits": 7.9, "avg_activation_bits": 7}
    rules = lowbit(bits=[[2, 8], [8, 2]])
    target = Target.of(world.info, rules)
    assert target.uniform((2, 8)).avg_activation_bits > 7
    assert target.uniform((8, 2)).avg_weight_bits > 7.9
    report = world(rules, limits)
    assert len(world.measured) > 1
    assert report.best.measured.accuracy == max(
        0.9 + one.avg_weight_bits / 10_000 for one in world.measured
    )
    assert report.best.measured.cost > report.front[0].cost


def test_without_budgets_the_cheapest_within_the_slack_wins(world):
    world.predictor.weights = np.zeros(10)
    world.predictor.weights[0] = 1  # every subnet is predicted alike but for the pinned layer
    accuracy = {2: 0.80, 3: 0.893, 4: 0.897, 8: 0.9}
    world.measure_as(lambda spec: accuracy[spec.weights["conv1"]])

    def predict(features):
        bits = features[:, -80:].reshape(-1, 10, 8)[:, 1].argmax(1) + 1
        return np.array([accuracy[b] for b in bits], np.float32)

    world.predictor.predict = predict
    best = world(lowbit(bits=[[2, 8], [3, 8], [4, 8], [8, 8]])).best
    assert (best.weights["conv1"], best.weights["conv2"]) == (4, 2)
    assert best.measured.accuracy == 0.897


def test_the_cheapest_is_compared_with_the_most_accurate(world):
    """Many candidates lie close together: the top one is measured beside the cheap ones."""
    space = space_of(world.info, lowbit(bits=[[b, 8] for b in range(2, 9)]))
    world.predictor.predict = lambda features: np.float32(
        0.9 + 0.001 * (features[:, -80:].reshape(-1, 10, 8)[:, 1].argmax(1))
    )
    world.measure_as(lambda spec: {8: 0.95}.get(spec.weights["conv1"], 0.90))
    best = world(space.target.profile, generations=30).best
    assert len(world.measured) == FINALISTS
    assert best.weights["conv1"] == 8


def test_the_uniform_baseline_is_among_the_finalists_and_can_win(world):
    uniform = {4}
    world.measure_as(lambda spec: 0.9 if {spec.weights[n] for n in FREE} == uniform else 0.5)
    best = world(budgets={"avg_weight_bits": 5.2, "avg_activation_bits": 8}).best
    assert best.measured.accuracy == 0.9
    assert {best.weights[name] for name in FREE} == uniform
    assert len({one.sha256() for one in world.measured}) == len(world.measured)


FREE = ("conv1", "depthwise", "conv2")


def test_the_same_seed_gives_the_same_subnet(world):
    budgets = {"avg_weight_bits": 5}
    first = world(budgets=budgets, seed=7)
    text = (world.folder / "out/subnet.json").read_bytes()
    again = world(budgets=budgets, seed=7)
    assert (world.folder / "out/subnet.json").read_bytes() == text
    assert again.front == first.front


def test_the_front_holds_only_what_nothing_dominates(world):
    front = world().front
    costs = [point.cost for point in front]
    accuracies = [point.accuracy_predicted for point in front]
    assert len(front) > 3
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
    assert len(set(accuracies)) == len(front)


def test_a_small_space_is_tried_whole(world):
    report = world(lowbit(bits=[[2, 2], [8, 8]]))
    assert report.evaluations == 8
    assert report.stop_reason == "all 8 subnets of the space were tried"


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (profile("tensorrt"), "asymmetric"),
        (
            profile("openvino", weights={"granularity": "per_channel", "symmetry": "asymmetric"}),
            "weights.symmetry",
        ),
        (profile("onnxruntime", bits=[[4, 4], [8, 8]]), "bits"),
        (lowbit(remainder="float16"), "remainder"),
    ],
)
def test_a_profile_that_its_target_cannot_execute_is_refused(world, rules, told):
    world.patch.setattr(module, "open_session", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ProfileError, match=told) as caught:
        world(rules)
    assert rules.backend in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def clocked(world):
    """A search by measured cost in a space that counts as large, on a clock of its own."""
    clock: Any = ClockTarget()
    world.patch.setattr(costing, "EXHAUSTIVE", 1)
    world.patch.setattr(modelled, "exporter_of", lambda _: clock)
    world.patch.setattr(modelled, "Plan", partial(Plan, subnets=16, held_out=4))
    world.patch.setattr(eqnet.latency.measure, "in_turns", clock.in_turns)
    world.measure_as(lambda spec: 0.9)
    groups = ["conv", "depthwise_conv", "linear", "add"]
    return clock, profile(cost={"model": "measured"}, search_groups=groups)


def test_a_large_space_has_the_cost_of_a_model_that_is_made_once(world, clocked):
    clock, rules = clocked
    best = world(rules).best
    path = world.folder / "latency.by_hand.json"
    file = read_latency(path)
    assert clock.opened == 1 + 20
    assert len(file.samples) == 20
    assert best.measured.cost == file.milliseconds(world.info, best)
    assert best.measured.unit == "ms"
    content = path.read_bytes()
    assert world(rules).best == best
    assert (clock.opened, path.read_bytes()) == (21, content)
    looked_up = rules.model_copy(update={"cost": Lookup(model="lookup", table=path.name)})
    again = world(looked_up).best
    assert (again.weights, again.measured.cost) == (best.weights, best.measured.cost)


def test_a_model_of_another_machine_is_only_looked_up(world, clocked):
    _, rules = clocked
    world(rules)
    path = world.folder / "latency.by_hand.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"host": {"machine": "another", "cpu": "Cortex-A78"}}))
    with pytest.raises(ProfileError, match=r"another machine, Cortex-A78 .*'lookup'"):
        world(rules)
    looked_up = rules.model_copy(update={"cost": Lookup(model="lookup", table=path.name)})
    assert world(looked_up).best.measured.cost > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [({"fit": None}, "no model yet"), ({"samples": 1}, "not a latency file: samples")],
)
def test_a_latency_file_that_predicts_nothing_is_one_line(world, clocked, change, told):
    _, rules = clocked
    world(rules)
    path = world.folder / "latency.by_hand.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    looked_up = rules.model_copy(update={"cost": Lookup(model="lookup", table=path.name)})
    with pytest.raises(ProfileError, match=told) as caught:
        world(looked_up)
    assert "\n" not in str(caught.value)


def test_measured_cost_times_each_subnet_once(world):
    def times(supernet, exporter, rules, specs, progress):
        assert len({spec.sha256() for spec in specs}) == 4
        return [1.0 if spec.weights["head"] == 8 else 0.25 for spec in specs]

    world.patch.setattr(costing, "measure_latency", times)
    world.measure_as(lambda spec: 0.9)
    rules = profile(cost={"model": "measured"}, search_groups=["depthwise_conv", "linear"])
    best = world(rules, {"cost": 0.3}).best
    assert best.weights["head"] == "remainder"
    assert (best.measured.cost, best.measured.unit) == (0.25, "ms")


def test_the_predictor_beside_the_supernet_is_used(tmp_path, monkeypatch):
    supernet = small_supernet()
    session = session_of(tmp_path, supernet)
    monkeypatch.setattr(module, "open_session", lambda *_, **__: session)
    monkeypatch.setattr(module, "from_sensitivities", lambda *_, **__: pytest.fail("not needed"))
    monkeypatch.setattr(module, "MEASURED_SPACE", 0)
    space = space_of(supernet.info, lowbit())
    specs = [space.subnet(genome) for genome in space.uniform_genomes()]
    features = np.stack([encode(supernet.info, spec) for spec in specs])
    halves = np.repeat(np.linspace(0.5, 0.9, len(specs), dtype=np.float32)[:, None], 2, axis=1)
    known = MeasuredSubnets(features, 1 - halves, halves)
    how: dict[str, Any] = {"images": 1, "epochs": 1, "members": 1, "seed": 0, "progress": Silent()}
    save_cqap(tmp_path, fit(known, info=supernet.info, supernet=session.identity, **how))
    path = tmp_path / "p.yaml"
    path.write_text(lowbit(bits=[[2, 8], [4, 8], [8, 8]]).model_dump_json(exclude_none=True))
    report = module.search(profile=str(path), out=tmp_path / "out", **SMALL)
    header = load_cqap(tmp_path, session.identity, feature_size(supernet.info)).header
    assert report.kendall_tau == header.kendall_tau


def test_a_large_space_without_a_predictor_is_searched_by_sensitivities(tmp_path, monkeypatch):
    session = session_of(tmp_path)
    monkeypatch.setattr(module, "open_session", lambda *_, **__: session)
    monkeypatch.setattr(module, "MEASURED_SPACE", 0)
    path = tmp_path / "p.yaml"
    path.write_text(lowbit(bits=[[2, 8], [4, 8], [8, 8]]).model_dump_json(exclude_none=True))
    first, second = (
        module.search(profile=str(path), out=tmp_path / "out", **SMALL) for _ in range(2)
    )
    assert second.best == first.best
    assert (first.kendall_tau, first.pearson) == (None, None)
    assert [item.name for item in (tmp_path / "sensitivity").iterdir()]


def test_without_a_predictor_a_small_space_is_measured_whole(tmp_path, monkeypatch):
    supernet = small_supernet()
    session = session_of(tmp_path, supernet)
    monkeypatch.setattr(module, "open_session", lambda *_, **__: session)
    monkeypatch.setattr(module, "from_sensitivities", lambda *_, **__: pytest.fail("not needed"))
    rules = lowbit(bits=[[8, 8]])
    path = tmp_path / "p.yaml"
    path.write_text(rules.model_dump_json(exclude_none=True))
    report = module.search(profile=str(path), out=tmp_path / "out", **SMALL)
    spec = Target.of(supernet.info, rules).uniform((8, 8), supernet=session.identity)
    images = session.batches(session.dataset.validation())
    truth = measure(supernet, spec, session.calibration(), images)
    assert report.kendall_tau is None
    assert report.best.predicted.accuracy == pytest.approx(truth, abs=0.01)


def test_a_small_space_without_a_predictor_is_measured(tmp_path, monkeypatch):
    session = session_of(tmp_path)
    monkeypatch.setattr(module, "open_session", lambda *_, **__: session)
    monkeypatch.setattr(
        module, "from_sensitivities", lambda *_, **__: pytest.fail("predictor made")
    )
    path = tmp_path / "p.yaml"
    path.write_text(lowbit(bits=[[2, 8], [8, 8]]).model_dump_json(exclude_none=True))
    report = module.search(profile=str(path), out=tmp_path / "out", **SMALL)
    assert report.evaluations == 8
    assert (report.kendall_tau, report.pearson) == (None, None)
    # The same forty images, as fake quantization and as the deployed integers: two may differ.
    assert report.best.predicted.accuracy == pytest.approx(report.best.measured.accuracy, abs=0.05)
    # KL ranks the subnets, so what is predicted never rises with it.
    ranked = sorted(report.front, key=lambda point: -point.accuracy_predicted)
    kls = [point.measured.kl for point in ranked if point.measured is not None]
    assert len(kls) > 1
    assert kls == sorted(kls)
