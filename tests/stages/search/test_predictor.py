"""The accuracy predictor: what it learns, its file, and rank correlation."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import SIGNED_ZERO, small_supernet, style
from safetensors.numpy import load_file, save_file
from search_tools import IDENTITY

from eqnet.backend.ranks import kendall_tau
from eqnet.spec.errors import CheckpointError
from eqnet.spec.progress import Silent
from eqnet.spec.scheme import all_forms
from eqnet.stages.search.accuracy.cqap import (
    CQAP_FILE,
    Cqap,
    average_bits,
    fit,
    inputs_of,
    load_cqap,
    save_cqap,
)
from eqnet.stages.search.accuracy.features import CODES, encode, feature_size
from eqnet.stages.search.accuracy.labels import MeasuredSubnets, draw_subnet
from eqnet.subnets.build import PAPER_STYLE, uniform

STYLES = [PAPER_STYLE, style(), style(activations=SIGNED_ZERO)]
FORMS = list(all_forms())


@pytest.fixture(scope="module")
def supernet():
    return small_supernet()


def additive(info, count, seed):
    """Subnets whose KL follows from their layers and tensors, as a predictor must learn, and whose
    accuracy falls with it."""
    rng, weights = random.Random(seed), np.random.default_rng(9).random(feature_size(info))
    specs = [draw_subnet(info, STYLES, FORMS, rng) for _ in range(count)]
    features = np.stack([encode(info, spec) for spec in specs])
    codes = len(info.layers) + len(info.read_tensors())
    gain = np.tile([0.2, -3, -1.2, -0.5, -0.2, -0.1, 0, 0.1], codes)
    importance = np.repeat(weights[:codes], len(CODES))
    error = features[:, -len(CODES) * codes :] @ (gain * importance)
    logs = -5 - 0.2 * error
    halves = np.exp(logs[:, None] + np.random.default_rng(seed).normal(0, 0.02, (count, 2)))
    accuracy = np.repeat((0.9 - 0.02 * (logs + 5))[:, None], 2, axis=1)
    return MeasuredSubnets(features, halves.astype(np.float32), accuracy.astype(np.float32))


@pytest.fixture(scope="module")
def fitted(supernet) -> Cqap:
    learned = additive(supernet.info, 500, 1)
    how: dict[str, Any] = {"images": 40, "epochs": 40, "members": 2, "seed": 0}
    return fit(learned, info=supernet.info, supernet=IDENTITY, **how, progress=Silent())


def test_predictor_ranks_subnets_that_it_never_saw(supernet, fitted):
    unseen = additive(supernet.info, 200, 2)
    truth, accuracy = unseen.divergence.mean(1), unseen.accuracy.mean(1)
    assert kendall_tau(fitted.log_divergence(unseen.features).mean(0), truth) > 0.8
    predicted = fitted.predict(unseen.features)
    assert kendall_tau(predicted, accuracy) > 0.8
    assert np.abs(predicted - accuracy).mean() < 0.5 * accuracy.std()
    header = fitted.header
    assert header.kendall_tau > 0.8
    assert header.pearson > 0.9
    assert header.kendall_tau_accuracy > 0.8
    assert header.local_tau is not None
    assert 0.7 < header.ceilings[0] <= 1
    assert header.ceilings[1] == 1.0
    assert (header.subnets, header.images) == (500, 40)


def test_the_spread_of_the_members_is_there(supernet, fitted):
    unseen = additive(supernet.info, 20, 2)
    found = fitted.log_divergence(unseen.features)
    assert found.shape == (2, 20)
    assert (found[0] != found[1]).all()


def test_average_bits_of_features_are_those_of_the_subnets(supernet):
    rng = random.Random(5)
    specs = [draw_subnet(supernet.info, STYLES, FORMS, rng) for _ in range(20)]
    features = np.stack([encode(supernet.info, spec) for spec in specs])
    due = [spec.avg_weight_bits for spec in specs]
    assert average_bits(features, supernet.info) == pytest.approx(due)


def test_inputs_are_features_and_the_energy_of_rounding(supernet):
    info = supernet.info
    spec = uniform(info, PAPER_STYLE, FORMS[0], 4, 8)
    spec.weights[info.layers[1].name] = "remainder"
    features = encode(info, spec)[None]
    found = inputs_of(features, len(info.layers), len(info.read_tensors()))
    assert found[0, : features.shape[1]].tolist() == features[0].tolist()
    bits = [spec.weights[layer.name] for layer in info.layers]
    bits += [spec.activations[tensor.name] for tensor in info.read_tensors()]
    due = [0.0 if width == "remainder" else 4.0 ** (2 - int(width)) for width in bits]
    assert found[0, features.shape[1] :] == pytest.approx(due)


def test_fitting_depends_on_the_seed_alone_and_leaves_the_global_generator(supernet):
    few = additive(supernet.info, 40, 1)
    options: dict[str, Any] = {
        "info": supernet.info,
        "supernet": IDENTITY,
        "images": 1,
        "epochs": 1,
        "members": 1,
    }
    state = torch.get_rng_state()
    first, again, other = (
        fit(few, **options, seed=seed, progress=Silent()).predict(few.features)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_round_trip_keeps_predictions_to_half_precision(supernet, fitted, tmp_path):
    path = save_cqap(tmp_path, fitted)
    loaded = load_cqap(tmp_path, IDENTITY, feature_size(supernet.info))
    assert loaded.header == fitted.header
    assert [item.name for item in tmp_path.iterdir()] == [path.name] == [CQAP_FILE]
    features = additive(supernet.info, 50, 3).features
    difference = np.abs(loaded.predict(features) - fitted.predict(features))
    assert difference.max() < 0.02 * np.ptp(fitted.header.accuracies)


def refused(folder, told, features, identity=IDENTITY):
    with pytest.raises(CheckpointError, match=told) as caught:
        load_cqap(folder, identity, features)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_missing_or_foreign_predictor_is_one_line(supernet, fitted, tmp_path):
    size = feature_size(supernet.info)
    refused(tmp_path, "no such checkpoint", size)
    path = save_cqap(tmp_path, fitted)
    refused(tmp_path, "made for another supernet", size, "7" * 64)
    refused(tmp_path, "other tensors", size + 1)
    tensors = load_file(path)
    header = fitted.header.model_copy(update={"members": 3}).model_dump_json()
    save_file(tensors, path, {"eqnet": header})
    refused(tmp_path, "other tensors", size)


@pytest.mark.parametrize("header", [None, "", "{", "[]", '{"schema_version": 3}', "[" * 50_000])
def test_a_wrong_header_is_one_line(supernet, fitted, tmp_path, header):
    path = save_cqap(tmp_path, fitted)
    save_file(load_file(path), path, None if header is None else {"eqnet": header})
    refused(tmp_path, "not a predictor", feature_size(supernet.info))


def test_a_predictor_of_an_earlier_version_is_one_line(supernet, fitted, tmp_path):
    path = save_cqap(tmp_path, fitted)
    save_file(load_file(path), path, {"eqnet": '{"schema_version":1,"supernet":"x"}'})
    refused(tmp_path, "of an earlier version", feature_size(supernet.info))


@pytest.mark.parametrize("kept", [0, 8, 0.5, 0.99])
def test_a_truncated_predictor_is_one_line(supernet, fitted, tmp_path, kept):
    path = save_cqap(tmp_path, fitted)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    refused(tmp_path, "damaged or not safetensors", feature_size(supernet.info))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_predictor_of_no_numbers_is_one_line(supernet, fitted, tmp_path, value):
    path = save_cqap(tmp_path, fitted)
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = np.full_like(tensors[name], value)
    save_file(tensors, path, {"eqnet": fitted.header.model_dump_json()})
    refused(tmp_path, "holds NaN or infinity", feature_size(supernet.info))


def counted_tau(a, b):
    """Tau-b by its definition: agreeing less disagreeing pairs, over untied pairs."""
    agree = disagree = only_a = only_b = 0
    for i in range(len(a)):
        for j in range(i):
            x, y = a[i] - a[j], b[i] - b[j]
            agree += x * y > 0
            disagree += x * y < 0
            only_a += x != 0 and y == 0
            only_b += x == 0 and y != 0
    untied = agree + disagree
    root = ((untied + only_a) * (untied + only_b)) ** 0.5
    return (agree - disagree) / root if root else 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendall_tau_counts_pairs(pairs):
    a, b = (np.asarray(values, dtype=np.float32) for values in zip(*pairs, strict=True))
    assert kendall_tau(a, b) == pytest.approx(counted_tau(a, b), abs=1e-9)


def test_kendall_tau_of_known_rankings():
    up = np.arange(5, dtype=np.float32)
    assert kendall_tau(up, up) == 1
    assert kendall_tau(up, -up) == -1
    assert kendall_tau(up, np.zeros(5, np.float32)) == 0
    assert kendall_tau(up, np.array([0, 1, 2, 4, 3], np.float32)) == pytest.approx(0.8)


def test_uniform_subnets_of_all_forms_have_distinct_features(supernet):
    info = supernet.info
    vectors = {
        encode(info, uniform(info, PAPER_STYLE, form, bits, bits)).tobytes()
        for form in FORMS
        for bits in (2, 8)
    }
    assert len(vectors) == 16
