"""The numbers of parity: both runs against both networks, on stored images and any folder."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from artifacts import PREPROCESSING, pixels, profile, run_plain, write_artifact
from graphs import residual_net
from PIL import Image

from eqnet.backend.preprocess import preprocess
from eqnet.spec.errors import DataError
from eqnet.stages.verify import to_junit, to_markdown, verify
from eqnet.stages.verify.outputs import compare_outputs, divergence, top5


def test_divergence_is_that_of_the_softmax():
    rng = np.random.default_rng(0)
    truth, logits = rng.normal(0, 3, (2, 50, 7)).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) for x in (truth, logits))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert divergence(truth, logits) == pytest.approx((p * np.log(p / q)).sum(1))
    assert divergence(truth, truth) == pytest.approx(0, abs=1e-12)
    assert divergence(truth, truth + 100) == pytest.approx(0, abs=1e-6)  # softmax is the same


def test_divergence_of_one_logit_is_that_of_the_sigmoid():
    truth, logits = (
        np.array([[0.3], [-2], [40]], np.float32),
        np.array([[1.5], [-2], [-40]], np.float32),
    )
    p, q = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (truth[:2], logits[:2]))
    wanted = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = divergence(truth, logits)
    assert found[:2] == pytest.approx(wanted[:, 0])
    assert found[2] == pytest.approx(40)


def test_top5_counts_the_five_largest():
    logits = np.array([[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 5, 3], [1] * 7], np.float32)
    assert top5(logits, np.array([4, 4, 4])) == 1
    assert top5(logits, np.array([5, 5, 5])) == 0  # of equal ones the earlier class
    assert top5(np.full((1, 7), np.nan, np.float32), np.array([0])) == 0


@pytest.mark.parametrize("classes", [1, 2, 5, 6, 30])
def test_a_comparison_of_any_width(classes):
    rng = np.random.default_rng(classes)
    truth = rng.normal(0, 1, (400, classes)).astype(np.float32)
    other = truth + rng.normal(0, 0.3, truth.shape).astype(np.float32)
    labels = rng.integers(0, max(classes, 2), 400)
    labels[:100] = -1
    row = compare_outputs("deployed", "subnet", "here", other, truth, labels)
    assert (row.images, row.labelled) == (400, 300)
    assert (row.top5 is None) == (classes <= 5)
    assert row.kl > 0
    assert 0 < row.error_mean < row.error_p99 < row.error_max
    assert row.accuracy_drop is not None
    assert row.accuracy_drop_interval is not None
    low, high = row.accuracy_drop_interval
    assert low <= row.accuracy_drop <= high
    same = compare_outputs("deployed", "subnet", "here", truth, truth, labels)
    assert (same.agreement, same.kl, same.error_max, same.accuracy_drop) == (1, 0, 0, 0)
    assert same.accuracy_drop_interval == (0, 0)


def test_errors_are_in_steps_of_the_others_range():
    truth = np.array([[0, 255], [100, 30]], np.float32)
    row = compare_outputs("deployed", "float", "here", truth + 3, truth, np.array([-1, -1]))
    assert row.error_mean == row.error_max == pytest.approx(3)
    assert row.top1 is row.accuracy_drop is None


def test_what_is_no_number_is_none_and_agrees_with_nothing():
    truth = np.zeros((4, 3), np.float32)
    truth[:, 0] = 1
    row = compare_outputs("deployed", "subnet", "", truth * np.nan, truth, np.array([0] * 4))
    assert (row.kl, row.error_mean, row.error_p99, row.error_max) == (None,) * 4
    assert row.agreement == 0
    json.loads(row.model_dump_json())


@pytest.fixture
def artifact(tmp_path):
    """With the float model's logits, which are the subnet's and some noise."""
    folder, reference = tmp_path / "a", residual_net(storage=7)
    logits = run_plain(reference, preprocess(pixels(), PREPROCESSING))
    noise = np.random.default_rng(0).normal(0, 0.02, logits.shape).astype(np.float32)
    write_artifact(folder, reference, profile(), float_logits=logits + noise)
    return folder


def test_both_runs_are_told_apart_against_both_networks(artifact):
    report = verify(artifact, threads=1)
    assert [(row.run, row.against) for row in report.outputs] == [
        ("semantics", "subnet"),
        ("deployed", "subnet"),
        ("semantics", "float"),
        ("deployed", "float"),
    ]
    for row in report.outputs:
        assert (row.images, row.labelled) == (64, 64)
        assert row.top5 >= row.top1
        assert (row.kl > 1e-6) == (row.against == "float")
    assert "float" not in {row.against for row in verify_without_float(artifact).outputs}


def verify_without_float(artifact):
    other = artifact.parent / "b"
    write_artifact(other, residual_net(storage=7), profile())
    return verify(other, threads=1)


def test_the_numbers_are_in_junit_and_markdown(artifact):
    report = verify(artifact, threads=1)
    names = {node.get("name") for node in ElementTree.fromstring(to_junit(report)).iter("property")}
    assert "deployed.float.kl (stored images)" in names
    assert "semantics.subnet.error_p99 (stored images)" in names
    text = to_markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("| deployed | float |")]
    assert len(rows) == 1
    columns = rows[0].count("|")
    assert all(line.count("|") == columns for line in text.splitlines() if " subnet |" in line)


def write_images(folder, count, shape=(20, 30)):
    """Colour images of another size than the network takes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    for number in range(count):
        base = rng.integers(0, 256, 3)
        image = np.clip(base + rng.integers(-60, 61, (*shape, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number:03}.png")


@pytest.mark.parametrize("dataset", [None, "image_folder", "fashion_mnist"])
def test_any_flat_folder_is_compared_with_the_reference(tmp_path, dataset):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(storage=7), profile(), dataset=dataset)
    write_images(tmp_path / "photos", 23)
    report = verify(folder, data=tmp_path / "photos", threads=1)
    assert report.verdict == "passed"
    rows = [row for row in report.outputs if row.source != "stored images"]
    assert [(row.run, row.against, row.images) for row in rows] == [
        ("semantics", "subnet", 23),
        ("deployed", "subnet", 23),
    ]
    assert rows[0].agreement >= 22 / 23
    assert rows[0].top1 is None
    checks = {check.name: check for check in report.checks}
    assert checks["test_agreement"].verdict == "passed"
    assert checks["test_accuracy_drop"].verdict == "skipped"
    assert (report.test_images, report.test_accuracy) == (None, None)


def test_a_folder_with_a_folder_for_each_class_has_accuracies(tmp_path):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(storage=7), profile())
    for number in range(10):
        write_images(tmp_path / "photos" / "train" / f"class{number}", 1)
        write_images(tmp_path / "photos" / "val" / f"class{number}", 3)
    report = verify(folder, data=tmp_path / "photos", threads=1)
    assert report.test_images == 30
    row = next(row for row in report.outputs if row.source != "stored images")
    assert row.labelled == 30
    assert row.top5 is not None
    assert row.accuracy_drop_interval is not None


def test_folders_of_other_classes_have_none(tmp_path):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(storage=7), profile())
    for number in range(3):
        write_images(tmp_path / "photos" / "val" / f"class{number}", 6)
    report = verify(folder, data=tmp_path / "photos", threads=1)
    check = {check.name: check for check in report.checks}["test_accuracy_drop"]
    assert check.verdict == "skipped"
    assert "3 classes, the network has 10" in check.reason
    assert report.outputs[-1].images == 18


def test_a_folder_without_images_is_one_line(tmp_path):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(storage=7), profile())
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError) as caught:
        verify(folder, data=tmp_path / "none", threads=1)
    assert "\n" not in str(caught.value)
