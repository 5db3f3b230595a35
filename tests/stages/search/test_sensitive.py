"""Accuracy from sensitivities: additive, monotone, and in the order that measuring gives."""

from __future__ import annotations

import numpy as np
import pytest
from nets import small_supernet
from search_tools import lowbit, session_of, space_of

from eqnet.backend.ranks import kendall_tau
from eqnet.sensitivity.measure import light_calibration
from eqnet.sensitivity.taken_out import Reference, measure_whole
from eqnet.spec.progress import Silent
from eqnet.stages.search.accuracy.features import encode
from eqnet.stages.search.accuracy.mapping import TINY, AccuracyOfKl, never_rising
from eqnet.stages.search.accuracy.points import Points
from eqnet.stages.search.accuracy.sensitive import (
    between,
    from_sensitivities,
    places_to_measure,
    spread,
)
from eqnet.stages.search.journal import Journal
from eqnet.subnets.target import Target


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    session = session_of(tmp_path_factory.mktemp("sensitive"), small_supernet())
    space = space_of(session.supernet.info, lowbit())
    points = Points(session, Journal.open(session.folder, resume=False))
    return session, space, from_sensitivities(session, space, points, 0, Silent())


def test_sums_rank_subnets_as_measuring_them_does(setting):
    session, space, model = setting
    info = session.supernet.info
    reference = Reference.of(session, session.batches(session.dataset.validation()))
    sums, refined, measured = [], [], []
    for genome in spread(space, 24, 7):
        spec = space.subnet(genome)
        found = measure_whole(session, spec, light_calibration(session), reference)
        measured.append(found.mean_kl())
        sums.append(model.base.log_kl(encode(info, spec)[None])[0])
        refined.append(model.log_kl(encode(info, spec)[None])[0])
    truth = np.log(measured)
    assert kendall_tau(np.asarray(sums), truth) > 0.7
    assert kendall_tau(np.asarray(refined), truth) > 0.7
    # A sum knows nothing of how errors meet; measured subnets tell how far that is off.
    assert np.abs(refined - truth).mean() < np.abs(sums - truth).mean()


def test_more_bits_are_never_predicted_worse(setting):
    session, space, model = setting
    info = session.supernet.info
    uniform = [space.target.uniform((bits, bits)) for bits in range(2, 9)]
    found = model.predict(np.stack([encode(info, spec) for spec in uniform]))
    assert found.dtype == np.float32
    assert (np.diff(found) > 0).all()


def test_what_is_float_costs_nothing(setting):
    session, _, model = setting
    info = session.supernet.info
    quiet = session.supernet.info.layer_names()
    spec = Target.of(info, lowbit()).uniform((8, 8))
    none = spec.model_copy(
        update={"weights": dict.fromkeys(quiet, "remainder"), "activations": {}, "carriers": {}}
    )
    assert (encode(info, none) @ model.base.weights) == 0
    assert model.base.log_kl(encode(info, none)[None]) == pytest.approx(np.log(TINY), abs=1e-6)
    assert np.isfinite(model.base.doubts(encode(info, none)[None])).all()


def test_two_places_cost_the_sum(setting):
    session, space, model = setting
    info = session.supernet.info

    def cost(**bits):
        spec = space.target.uniform((8, 8))
        mixed = spec.model_copy(update={"weights": spec.weights | bits})
        return np.exp(model.base.log_kl(encode(info, mixed)[None])[0])

    extra = cost(conv1=2, depthwise=3) - cost()
    assert extra == pytest.approx((cost(conv1=2) - cost()) + (cost(depthwise=3) - cost()), rel=1e-4)
    assert extra > 0


def test_accuracies_never_rise_with_the_cost():
    falling = never_rising(np.asarray([0.9, 0.8, 0.85, 0.3, 0.3, 0.4]))
    assert falling == pytest.approx([0.9, 0.825, 0.825, 1 / 3, 1 / 3, 1 / 3])
    mapping = AccuracyOfKl(np.log([1e-3, 1e-1]), np.asarray([0.9, 0.5]))
    found = mapping.of(np.log([1e-4, 1e-3, 1e-2, 1e-1, 1.0]))
    assert (np.diff(found) < 0).all()  # beyond the ends too
    assert found[1] == pytest.approx(0.9, abs=0.01)
    assert found[2] == pytest.approx(0.7, abs=0.01)


def test_bits_between_measured_ones_are_interpolated():
    filled = between({8: 1e-6, 4: 1e-2, 6: 1e-4})
    assert sorted(filled) == [4, 5, 6, 7, 8]
    assert filled[5] == pytest.approx(1e-3)
    assert filled[8] == pytest.approx(1e-6)
    # A cost that rises with bits is that of few images.
    assert between({4: 1e-5, 8: 1e-4}) == pytest.approx(dict.fromkeys(range(4, 9), 1e-4))
    assert between({}) == {}


def test_few_bits_of_many_are_measured(setting):
    session, space, _ = setting
    info, target = session.supernet.info, space.target
    specs = [target.uniform(pair) for pair in target.profile.bits]
    places = places_to_measure(info, specs)
    assert {p.bits for p in places if (p.kind, p.name) == ("weights", "conv1")} == {2, 3, 4, 6, 8}
    assert {p.bits for p in places if (p.kind, p.name) == ("weights", "stem")} == {8}  # pinned
    assert {p.bits for p in places if p.kind == "carrier"} == {8}


def test_the_fitted_subnets_span_the_space(setting):
    _, space, _ = setting
    genomes = spread(space, 10, 0)
    assert genomes == spread(space, 10, 0)
    assert len(set(genomes)) == len(genomes) == 10
    bits = [np.mean([sum(space.target.profile.bits[g]) for g in genome]) for genome in genomes]
    assert min(bits) == 4
    assert max(bits) == 16
