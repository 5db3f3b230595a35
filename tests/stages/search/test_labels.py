"""Features of subnets, and the labels that the accuracy predictor is fitted on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from nets import SIGNED_ZERO, small_supernet, style
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from search_tools import IDENTITY, session_of

from eqnet.spec.errors import CheckpointError
from eqnet.spec.progress import Silent
from eqnet.spec.scheme import Form, Granularity, Symmetry, all_forms
from eqnet.stages.search.accuracy import labels as labels_module
from eqnet.stages.search.accuracy.features import CODES, encode, feature_size
from eqnet.stages.search.accuracy.labels import Score, draw_subnet, measure_labels
from eqnet.subnets.build import PAPER_STYLE, build_spec
from eqnet.supernet.measure import kl_divergence, logits

STYLES = [PAPER_STYLE, style(), style(activations=SIGNED_ZERO)]
FORMS = list(all_forms())


@pytest.fixture(scope="module")
def supernet():
    return small_supernet()


def test_features_are_flags_carriers_and_one_hot_bits(supernet):
    info = supernet.info
    form = Form(
        weight_granularity=Granularity.PER_TENSOR,
        weight_symmetry=Symmetry.ASYMMETRIC,
        activation_symmetry=Symmetry.SYMMETRIC,
    )
    bits = {tensor.name: 3 for tensor in info.read_tensors()}
    weights: dict[str, Any] = {layer.name: 4 for layer in info.layers}
    weights["depthwise"] = "remainder"
    spec = build_spec(info, style(), form, weights, bits)
    vector = encode(info, spec)
    assert vector.shape == (feature_size(info),)
    assert vector.dtype == np.float32
    assert vector[:6].tolist() == [1, 0, 0, 1, 1, 0]
    count = len(info.tensors)
    carriers = dict(zip([tensor.name for tensor in info.tensors], vector[6:], strict=False))
    assert {name for name, value in carriers.items() if value} == set(spec.carriers)
    assert carriers["act"] == 1.0
    one_hot = vector[6 + count :].reshape(-1, len(CODES))
    assert one_hot.sum(1).tolist() == [1] * (len(info.layers) + len(info.read_tensors()))
    codes = [CODES[row.argmax()] for row in one_hot]
    assert codes[:5] == [4, 4, 0, 4, 4]
    read = [spec.activations.get(tensor.name, 0) for tensor in info.read_tensors()]
    assert codes[5:] == read
    assert 0 in read  # what only the float layer reads


def test_different_subnets_have_different_features(supernet):
    info, rng = supernet.info, random.Random(0)
    drawn = [draw_subnet(info, STYLES, FORMS, rng) for _ in range(200)]
    by_choice = {spec.choices_json(): encode(info, spec).tobytes() for spec in drawn}
    assert len(set(by_choice.values())) == len(by_choice) > 150


def test_drawing_depends_on_the_seed_alone_and_covers_the_space(supernet):
    def draw(seed):
        rng = random.Random(seed)
        return [draw_subnet(supernet.info, STYLES, FORMS, rng) for _ in range(300)]

    first = draw(3)
    assert [spec.sha256() for spec in first] == [spec.sha256() for spec in draw(3)]
    assert [spec.sha256() for spec in first] != [spec.sha256() for spec in draw(4)]
    assert {spec.form for spec in first} == set(FORMS)
    assert {spec.weights["conv1"] for spec in first} == {"remainder", 2, 3, 4, 5, 6, 7, 8}
    assert {spec.weights["stem"] for spec in first} == {"remainder", 8}
    quantized = [spec for spec in first if "remainder" not in spec.weights.values()]
    averages = [spec.avg_weight_bits for spec in quantized]
    assert min(averages) < 4.3
    assert max(averages) > 7.7


class Measured:
    """Stands in for measuring: each subnet's accuracy follows from its bits."""

    def __init__(self, stop_after=None):
        self.done, self.stop_after = 0, stop_after

    def __call__(self, supernet, spec, calibration, images, reference):
        if self.done == self.stop_after:
            raise KeyboardInterrupt
        self.done += 1
        bits = spec.avg_activation_bits / 40
        return Score((1 / bits, 1.1 / bits), (bits, 0.9 * bits))


@pytest.fixture
def measure(supernet, tmp_path, monkeypatch):
    session = session_of(tmp_path, supernet)
    images = session.calibration()
    monkeypatch.setattr(labels_module, "SAVE_EVERY", 4)

    def run(name="a", stop_after=None, seed=1, count=10, identity=IDENTITY):
        stand_in = Measured(stop_after)
        monkeypatch.setattr(labels_module, "score", stand_in)
        made = measure_labels(
            supernet,
            STYLES,
            images,
            images.images,
            torch.zeros(len(images), 3),
            identity=identity,
            count=count,
            seed=seed,
            path=tmp_path / name,
            progress=Silent(),
        )
        return made, stand_in.done

    run.folder = tmp_path  # type: ignore[attr-defined]
    return run


def test_labels_are_kl_and_accuracy_on_two_halves_of_the_images(supernet, tmp_path):
    images = session_of(tmp_path, supernet).calibration()
    supernet.apply_float()
    reference = logits(supernet.graph, images.images)
    made = measure_labels(
        supernet,
        [PAPER_STYLE],
        images,
        images.images,
        reference,
        identity=IDENTITY,
        count=3,
        seed=1,
        path=tmp_path / "labels",
        progress=Silent(),
    )
    rng = random.Random(1)
    specs = [draw_subnet(supernet.info, [PAPER_STYLE], FORMS, rng) for _ in range(3)]
    for row, kl, accuracy, spec in zip(
        made.features, made.divergence, made.accuracy, specs, strict=True
    ):
        assert np.array_equal(row, encode(supernet.info, spec))
        images.settle(supernet, spec)
        with torch.no_grad():
            found = supernet.graph(images.images.images)
        right = (found.argmax(1) == images.images.labels).float()
        for half in (0, 1):
            assert accuracy[half] == pytest.approx(right[half::2].mean().item())
            due = kl_divergence(reference[half::2], found[half::2]).mean().item()
            assert kl[half] == pytest.approx(due, rel=1e-4, abs=1e-9)


def test_an_interrupted_run_goes_on_and_equals_one_go(measure):
    whole, _ = measure("whole")
    with pytest.raises(KeyboardInterrupt):
        measure("parts", stop_after=6)
    made, done = measure("parts")
    assert done == 6  # four of the six were kept
    assert np.array_equal(made.features, whole.features)
    assert np.array_equal(made.accuracy, whole.accuracy)
    again, done = measure("parts")
    assert done == 0
    assert np.array_equal(again.accuracy, whole.accuracy)


def test_more_or_fewer_labels_of_the_same_seed_are_reused(measure):
    first, _ = measure(count=6)
    more, done = measure(count=9)
    assert done == 3
    assert np.array_equal(more.accuracy[:6], first.accuracy)
    fewer, done = measure(count=2)
    assert done == 0
    assert np.array_equal(fewer.accuracy, first.accuracy[:2])


def test_labels_of_another_supernet_are_measured_anew(measure):
    measure()
    assert measure(identity="6" * 64)[1] == 10


def test_labels_of_another_seed_are_refused(measure):
    measure()
    with pytest.raises(CheckpointError, match="labels of other subnets"):
        measure(seed=2)


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "foreign", "empty"])
def test_damaged_labels_are_one_line(measure, damage):
    measure()
    path = measure.folder / "a"
    if damage == "foreign":
        save_file({"x": np.zeros(3, np.float32)}, path)
    else:
        content = {"truncated": path.read_bytes()[:-7], "other bytes": b"\x80\x04.", "empty": b""}
        path.write_bytes(content[damage])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        measure()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_labels_of_impossible_accuracies_are_refused(measure, value):
    measure()
    path = measure.folder / "a"
    tensors = load_file(path)
    tensors["accuracy"][0] = value
    with safe_open(path, "np") as file:
        save_file(tensors, path, file.metadata())
    with pytest.raises(CheckpointError, match=str(path)):
        measure()


def test_a_kl_below_0_is_refused(measure):
    measure()
    path = measure.folder / "a"
    tensors = load_file(path)
    tensors["divergence"][1] = -0.1
    with safe_open(path, "np") as file:
        save_file(tensors, path, file.metadata())
    with pytest.raises(CheckpointError, match="KL below 0"):
        measure()


def test_labels_of_another_type_are_refused(measure):
    measure()
    path = measure.folder / "a"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).to(torch.bfloat16) for name in file.keys()}  # noqa: SIM118
    save_torch(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="bfloat16"):
        measure()
