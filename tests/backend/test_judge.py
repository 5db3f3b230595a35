"""The quantized network against the float model: the numbers, and when they fail an artifact."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from artifacts import (
    PREPROCESSING,
    pixels,
    profile,
    replace_file,
    rewrite,
    run_plain,
    write_artifact,
)
from graphs import residual_net
from safetensors.numpy import load_file, save_file

from eqnet.backend.decisions import classes_of, decide, margins
from eqnet.backend.discovery import find_exporter
from eqnet.backend.judge import (
    agreement,
    binomial_tail,
    clear_agreement,
    compare_with_float,
    float_checks,
    signal_to_noise,
)
from eqnet.backend.preprocess import preprocess
from eqnet.spec.errors import ArtifactError
from eqnet.spec.hardware.profile import ParityRules
from eqnet.spec.manifest import MANIFEST, PARITY
from eqnet.stages.verify import verify

RULES = ParityRules()


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[classes]


def compared(images: int, agreeing: int, *, labels=None, **other):
    """A comparison of networks that differ in the last images."""
    truth = np.arange(images) % 10
    found = np.where(np.arange(images) < agreeing, truth, (truth + 1) % 10)
    known = np.full(images, -1) if labels is None else labels
    return compare_with_float(one_hot(found), one_hot(truth), known, **other)


def verdicts(comparison, rules: ParityRules = RULES) -> list[str]:
    return [check.verdict for check in float_checks(comparison, rules)]


def test_decisions_are_the_largest_logit_or_the_sign_of_a_single_one():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    assert (decide(logits) == logits.argmax(1)).all()
    single = np.array([[-2.0], [0.0], [1e-9], [3.0]])
    assert decide(single).tolist() == [0, 0, 1, 1]
    assert decide(single).dtype == np.int64
    assert margins(single).tolist() == [2.0, 0.0, 1e-9, 3.0]
    assert margins(np.array([[1.0, 5.0, 2.0]])).tolist() == [3.0]
    assert [classes_of(width) for width in (1, 2, 10)] == [2, 2, 10]


def test_signal_to_noise_is_of_the_whole_set():
    truth = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert signal_to_noise(truth + np.float32(0.5), truth) == pytest.approx(10 * math.log10(25))
    assert signal_to_noise(truth, truth) is None
    assert signal_to_noise(truth, np.zeros_like(truth)) is None
    assert signal_to_noise(np.full_like(truth, np.nan), truth) is None


def test_a_runtime_that_gives_nan_agrees_with_nothing():
    truth = one_hot(np.zeros(20, int))
    found = compare_with_float(np.full_like(truth, np.nan), truth, np.full(20, -1))
    assert found.agreement == 0
    assert found.snr_db is None
    assert verdicts(found)[0] == "failed"


@pytest.mark.parametrize(
    ("agreeing", "images", "verdict"),
    [
        (36, 300, "failed"),  # one channel 3,000 times the others: 12%
        (252, 300, "failed"),  # 300 times: 84%
        (261, 300, "passed"),  # 87% of 300: 90% may look like that
        (230, 256, "passed"),  # 0.897, an EfficientNet-Lite0
        (1740, 2000, "failed"),  # 87% of 2,000 may not
        (1800, 2000, "passed"),
        (16, 16, "passed"),
        (13, 16, "passed"),
        (10, 16, "failed"),
        (15, 15, "skipped"),  # too few to be evidence
        (2, 10, "failed"),  # too few for a pass, not for this
    ],
)
def test_agreement_fails_where_chance_does_not_explain_it(agreeing, images, verdict):
    comparison = compared(images, agreeing)
    assert comparison.agreement == pytest.approx(agreeing / images)
    assert verdicts(comparison) == [verdict, "skipped"]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("images", [1, 16, 300])
def test_the_tail_is_that_of_counted_coins(share, images):
    """Against the sum of the textbook formula, in exact binomial coefficients."""
    terms = [math.comb(images, k) * share**k * (1 - share) ** (images - k) for k in range(images)]
    for count in {0, images // 2, images - 1}:
        assert binomial_tail(count, images, share) == pytest.approx(sum(terms[: count + 1]))
    assert binomial_tail(images, images, share) == 1


def test_limits_at_the_ends_of_the_range():
    rules = RULES.model_copy(update={"float_agreement": 1.0})
    assert verdicts(compared(2000, 1999), rules)[0] == "failed"
    assert verdicts(compared(2000, 2000), rules)[0] == "passed"
    rules = RULES.model_copy(update={"float_agreement": 0.0})
    assert verdicts(compared(2000, 0), rules)[0] == "passed"


@pytest.mark.parametrize(
    ("lost", "won", "images", "verdict"),
    [
        (220, 0, 2000, "failed"),  # sums of unlike ranges: 60.7 -> 49.7%
        (60, 10, 2000, "failed"),  # 2.5 points of 2,000
        (15, 0, 2000, "passed"),  # 0.75 points, which the profile allows
        (60, 40, 256, "passed"),  # 8 points, but as many might have been won
        (40, 0, 256, "failed"),
        (1, 0, 20, "passed"),  # one image of 20 is 5 points and chance
        (5, 0, 12, "failed"),
        (0, 0, 12, "skipped"),
    ],
)
def test_lost_accuracy_fails_where_no_loss_is_implausible(lost, won, images, verdict):
    labels = np.zeros(images, np.int64)
    truth, found = np.zeros(images, int), np.zeros(images, int)
    found[:lost] = 1
    truth[lost : lost + won] = 1
    comparison = compare_with_float(one_hot(found), one_hot(truth), labels)
    assert comparison.paired
    assert comparison.accuracy_drop == pytest.approx(100 * (lost - won) / images, abs=1e-3)
    assert comparison.accuracy_drop_interval is not None
    low, high = comparison.accuracy_drop_interval
    assert low <= comparison.accuracy_drop <= high
    lax = RULES.model_copy(update={"float_agreement": 0.0})
    assert verdicts(comparison, lax)[1] == verdict


def test_the_interval_covers_as_often_as_it_says():
    """Of 200 draws of 500 images, some 95% hold the true loss; 88% is 4 deviations below."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        kind = rng.choice(3, 500, p=[0.06, 0.03, 0.91])
        found, truth = one_hot((kind == 0).astype(int)), one_hot((kind == 1).astype(int))
        interval = compare_with_float(found, truth, np.zeros(500, int)).accuracy_drop_interval
        assert interval is not None
        low, high = interval
        covered += low <= 3.0 <= high
    assert covered / 200 >= 0.88


def test_the_interval_is_the_same_every_time():
    labels = np.arange(300) % 10
    assert compared(300, 280, labels=labels) == compared(300, 280, labels=labels)


def test_without_the_float_logits_accuracies_alone_are_compared():
    labels = np.arange(2000) % 10
    found = one_hot(np.where(np.arange(2000) < 1800, labels, (labels + 1) % 10))
    near = compare_with_float(found, None, labels, 0.905)
    assert (near.agreement, near.snr_db, near.paired) == (None, None, False)
    assert near.accuracy_drop == pytest.approx(0.5)
    assert verdicts(near) == ["skipped", "passed"]
    assert verdicts(compare_with_float(found, None, labels, 0.95)) == ["skipped", "failed"]
    assert verdicts(compare_with_float(found, None, labels, None)) == ["skipped", "skipped"]
    assert verdicts(compare_with_float(found, None, np.full(2000, -1), 0.9)) == ["skipped"] * 2


def named(report):
    return {check.name: check for check in report.checks}


def judged_artifact(folder, change=None, target=None, **other):
    """An artifact that holds the float logits: its own, changed by `change`."""
    float_logits = run_plain(residual_net(), preprocess(pixels(), PREPROCESSING))
    if change is not None:
        float_logits = change(float_logits)
    write_artifact(folder, residual_net(), target or profile(), float_logits=float_logits, **other)
    return folder


def test_an_artifact_that_does_what_the_float_model_does_passes_both(tmp_path):
    noise = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    folder = judged_artifact(tmp_path / "a", lambda logits: logits + 1e-4 * noise)
    report = verify(folder, threads=1)
    assert (report.export_verdict, report.quantization_verdict) == ("passed", "passed")
    assert report.verdict == "passed"
    assert report.against_float.agreement >= 63 / 64
    assert report.against_float.snr_db > 40
    assert named(report)["float_agreement"].group == "quantization"
    assert named(report)["top1_agreement"].group == "export"


def test_a_right_export_of_a_bad_quantization_fails_for_that(tmp_path):
    folder = judged_artifact(tmp_path / "a", lambda logits: logits[:, ::-1].copy())
    report = verify(folder, threads=1)
    assert (report.export_verdict, report.quantization_verdict) == ("passed", "failed")
    assert report.verdict == "failed"
    failed = [check.name for check in report.checks if check.verdict == "failed"]
    assert "float_agreement" in failed
    assert set(failed) <= {"float_agreement", "float_accuracy_drop"}


def test_a_wrong_export_fails_for_that(tmp_path):
    folder = judged_artifact(tmp_path / "a", shift=50.0)
    report = verify(folder, threads=1)
    assert (report.export_verdict, report.quantization_verdict) == ("failed", "passed")
    assert report.verdict == "failed"


def test_weights_that_were_changed_fail_both(tmp_path):
    """Another network in model.onnx, with a hash that fits: what no manifest tells."""
    folder = judged_artifact(tmp_path / "a")
    other = write_artifact(tmp_path / "b", residual_net(seed=5), profile())
    assert other.files
    replace_file(
        folder,
        "model.onnx",
        lambda path: path.write_bytes((tmp_path / "b" / "model.onnx").read_bytes()),
    )
    report = verify(folder, threads=1)
    assert (report.export_verdict, report.quantization_verdict) == ("failed", "failed")


def test_a_profile_says_what_is_demanded(tmp_path):
    def half(logits):
        return np.where(np.arange(64)[:, None] < 40, logits, logits[:, ::-1])

    lax = profile(parity={"float_agreement": 0.5, "float_accuracy_drop": 60})
    assert verify(judged_artifact(tmp_path / "a", half, lax), threads=1).verdict == "passed"
    assert verify(judged_artifact(tmp_path / "b", half), threads=1).verdict == "failed"


def test_an_artifact_without_float_logits_still_verifies(tmp_path):
    folder = tmp_path / "old"
    write_artifact(folder, residual_net(), profile())
    report = verify(folder, threads=1)
    assert (report.verdict, report.export_verdict) == ("passed", "passed")
    assert report.quantization_verdict == "skipped"
    assert report.against_float is None
    for name in ("float_agreement", "float_accuracy_drop"):
        assert named(report)[name].verdict == "skipped"
        assert "without the float model's logits" in named(report)[name].reason


def test_a_manifest_of_an_older_eqnet_is_read(tmp_path):
    folder = tmp_path / "old"
    write_artifact(folder, residual_net(), profile())
    content = json.loads((folder / MANIFEST).read_text())
    del content["parity"]["against_float"]
    for name in ("float_agreement", "float_accuracy_drop"):
        del content["profile"]["parity"][name]
    rewrite(folder, **content)
    assert verify(folder, threads=1).verdict == "passed"


def test_float_logits_of_another_shape_are_refused(tmp_path):
    folder = judged_artifact(tmp_path / "a")
    tensors = load_file(folder / PARITY)
    tensors["float_logits"] = tensors["float_logits"][:, :3].copy()
    replace_file(folder, PARITY, lambda path: save_file(tensors, path))
    with pytest.raises(ArtifactError, match=r"float_logits: found float32 \[64, 3\]"):
        verify(folder, threads=1)


def test_a_stand_in_judges_the_quantization_too(tmp_path, monkeypatch):
    folder = judged_artifact(tmp_path / "a", lambda logits: logits[:, ::-1].copy())
    found = find_exporter("lowbit")
    monkeypatch.setattr(type(found), "unavailable", lambda self, profile=None: "no GPU")
    rewrite(folder, backend="lowbit")
    report = verify(folder, threads=1)
    assert (report.export_verdict, report.quantization_verdict) == ("skipped", "failed")
    assert report.verdict == "failed"


def test_an_image_whose_class_a_tie_may_turn_is_passed_over():
    """Two logits 1.9 steps apart may change places; 2.1 steps apart they may not."""
    step = 0.1
    truth = np.zeros((100, 10), np.float32)
    truth[:, 3] = 5.0
    truth[:, 4] = 5.0 - np.where(np.arange(100) < 50, 1.9, 2.1).astype(np.float32) * step
    turned = truth.copy()
    turned[:, 4] += np.float32(2.2 * step)
    assert agreement(turned, truth) == 0
    assert clear_agreement(turned, truth, step) == 0.5
    assert clear_agreement(truth, truth, step) == 1
    turned[:] = np.nan
    assert clear_agreement(turned, truth, step) == 0


def test_a_single_logit_near_its_threshold_is_passed_over():
    truth = np.array([[0.15], [0.25], [-0.15], [-0.25]], np.float32)
    assert clear_agreement(-truth, truth, 0.1) == 0.5
