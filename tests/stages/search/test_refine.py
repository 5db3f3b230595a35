"""Correcting an accuracy model by measured subnets, and searching again with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_tools import ALL_PAIRS, SMALL, lowbit

import eqnet.stages.search.search as module
from eqnet.backend.ranks import kendall_tau
from eqnet.spec.errors import CheckpointError
from eqnet.stages.search.accuracy.features import CODES, feature_size
from eqnet.stages.search.accuracy.points import Points
from eqnet.stages.search.accuracy.refined import Point, Refined
from eqnet.stages.search.accuracy.sensitive import Additive
from eqnet.stages.search.evolution.refining import EACH
from eqnet.stages.search.journal import STATE_FILE
from eqnet.subnets.build import groups_of

PLACES, CHOICES = 12, 7


def random_features(rng, count):
    """One-hot choices of `PLACES` places."""
    chosen = rng.integers(0, CHOICES, (count, PLACES))
    return np.eye(CHOICES, dtype=np.float32)[chosen].reshape(count, -1)


def points_of(features, costs):
    """What measuring subnets would give where the places' true costs simply add."""
    return [Point(row, float(row @ costs), 0.9) for row in features]


@pytest.mark.parametrize("seed", range(5))
def test_points_correct_wrong_costs_of_subnets_that_were_never_measured(seed):
    rng = np.random.default_rng(seed)
    truth = rng.lognormal(-4, 1.5, PLACES * CHOICES).astype(np.float32)
    wrong = (truth * rng.lognormal(0.5, 0.7, truth.shape)).astype(np.float32)
    train, held = random_features(rng, 24), random_features(rng, 200)
    base = Refined(Additive(wrong))
    refined = base.with_points(points_of(train, truth))
    logs = np.log(held @ truth)
    wrong_by, left = (np.abs(one.log_kl(held) - logs).mean() for one in (base, refined))
    assert left < 0.6 * wrong_by
    assert kendall_tau(refined.log_kl(held), logs) > kendall_tau(base.log_kl(held), logs)
    # Where it was measured it is right to about the noise that it expects.
    assert np.abs(refined.log_kl(train) - np.log(train @ truth)).max() < 0.15


def test_a_right_model_is_left_as_it_is():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(-4, 1.5, PLACES * CHOICES).astype(np.float32)
    base = Refined(Additive(truth))
    refined = base.with_points(points_of(random_features(rng, 16), truth))
    held = random_features(rng, 50)
    assert refined.log_kl(held) == pytest.approx(base.log_kl(held), abs=1e-4)


def test_without_points_it_is_its_base_and_points_add_up():
    rng = np.random.default_rng(0)
    costs = rng.lognormal(-4, 1.5, PLACES * CHOICES).astype(np.float32)
    features = random_features(rng, 8)
    base = Additive(costs)
    assert (Refined(base).log_kl(features) == base.log_kl(features)).all()
    points = points_of(features, 2 * costs)
    one_by_one = Refined(base)
    for point in points:
        one_by_one = one_by_one.with_points([point])
    at_once = Refined(base).with_points(points)
    assert one_by_one.log_kl(features) == pytest.approx(at_once.log_kl(features))
    # Twice the KL everywhere is an offset of all subnets.
    unseen = random_features(rng, 50)
    assert at_once.log_kl(unseen) - base.log_kl(unseen) == pytest.approx(np.log(2), abs=0.3)


class Deceived:
    """A model that takes one layer's 2 bits for free, which cost most of all in truth."""

    header = None
    mapping = None

    def __init__(self, info) -> None:
        places = len(info.layers) + len(info.read_tensors())
        codes = np.zeros((places, len(CODES)), np.float32)
        codes[:, 1:] = 4.0 ** (2 - np.arange(2, 9)) / places
        self.truth = np.zeros(feature_size(info), np.float32)
        self.truth[-codes.size :] = codes.reshape(-1)
        self.place = info.layer_names().index("conv1")
        believed = codes.copy()
        believed[self.place, 1] = 0
        self.truth[-codes.size :].reshape(codes.shape)[self.place, 1] = 0.1
        self.additive = Additive(np.concatenate([self.truth[: -codes.size], believed.reshape(-1)]))

    def refined(self) -> Refined:
        """As a search gets it, with points of two uniform subnets."""
        return Refined(self.additive, tuple(self.points))

    def measure(self, features) -> Point:
        """The truth."""
        kl = float(features @ self.truth) + 1e-6
        return Point(features, kl, float(np.exp(-kl)))


@pytest.fixture
def deceived(world):
    """A search whose model is deceived, and whose measurements tell the truth."""
    model = Deceived(world.info)
    world.tried = []
    space = module.Space.of(module.Target.of(world.info, lowbit()), world.session.identity)

    def run(points: Points, spec: Any) -> tuple[float, float]:
        world.tried.append(spec)
        found = model.measure(module_encode(world.info, spec))
        return found.kl, found.accuracy

    from eqnet.stages.search.accuracy.features import encode as module_encode

    ends = [space.subnet(genome) for genome in space.uniform_genomes()[:: len(ALL_PAIRS) - 1]]
    model.points = [model.measure(module_encode(world.info, spec)) for spec in ends]
    world.patch.setattr(Points, "_run", run)
    world.predictor = model.refined()
    world.measure_as(lambda spec: model.measure(module_encode(world.info, spec)).accuracy)
    return world


BUDGETS = {"avg_weight_bits": 5, "avg_activation_bits": 8}


def test_what_a_model_takes_for_too_good_is_measured_and_left(deceived):
    assert groups_of(deceived.info)
    once = deceived(budgets=BUDGETS, refine=0)
    assert not deceived.tried
    taken_in = sum(point.subnet.weights["conv1"] == 2 for point in once.front) / len(once.front)
    again = deceived(budgets=BUDGETS, refine=8)
    assert len(deceived.tried) == len({spec.sha256() for spec in deceived.tried}) == 8
    assert any(spec.weights["conv1"] == 2 for spec in deceived.tried[:EACH])
    best = max(again.front, key=lambda point: point.accuracy_predicted)
    assert best.subnet.weights["conv1"] > 2
    learned = sum(point.subnet.weights["conv1"] == 2 for point in again.front) / len(again.front)
    assert learned < taken_in
    assert again.best.measured.accuracy >= once.best.measured.accuracy
    assert again.evaluations > 2 * once.evaluations


@pytest.mark.parametrize("stop", [2, 6])
def test_an_interrupted_refinement_goes_on_to_the_same_end(deceived, stop):
    whole = deceived(budgets=BUDGETS, refine=8)
    order = [spec.sha256() for spec in deceived.tried]
    deceived.tried.clear()
    run = Points._run

    def stopping(points, spec):
        if len(deceived.tried) == stop:
            raise KeyboardInterrupt
        return run(points, spec)

    deceived.patch.setattr(Points, "_run", stopping)
    with pytest.raises(KeyboardInterrupt):
        deceived(budgets=BUDGETS, refine=8)
    deceived.patch.setattr(Points, "_run", run)
    state = deceived.folder / "out" / STATE_FILE
    kept = state.read_bytes()
    with pytest.raises(CheckpointError, match="another refine"):
        deceived(budgets=BUDGETS, refine=4, resume=True)
    assert state.read_bytes() == kept
    again = deceived(budgets=BUDGETS, refine=8, resume=True)
    assert [spec.sha256() for spec in deceived.tried] == order  # none of them twice
    assert again.model_dump(exclude={"seconds"}) == whole.model_dump(exclude={"seconds"})


def test_rounds_of_another_space_are_one_line(deceived):
    deceived.measure_as(lambda spec: pytest.fail("stop"))
    with pytest.raises(pytest.fail.Exception):
        deceived(budgets=BUDGETS, refine=4)
    state = deceived.folder / "out" / STATE_FILE
    text = state.read_text()
    assert '"rounds":[[[' in text
    state.write_text(text.replace('"rounds":[[[', '"rounds":[[[99,'))
    with pytest.raises(CheckpointError, match="rounds: not of this search"):
        deceived(budgets=BUDGETS, refine=4, resume=True)


def test_without_budgets_points_along_the_front_are_measured(deceived):
    deceived(refine=EACH, **SMALL)
    costs = sorted(spec.avg_weight_bits for spec in deceived.tried)
    assert len(costs) == EACH
    assert costs[-1] - costs[0] > 0.5
