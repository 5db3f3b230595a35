"""Verification of hand-made artifacts: what passes, what fails, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import onnx
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
from graphs import Builder, residual_net
from safetensors.numpy import load_file, save_file

from eqnet.backend.artifact import read_manifest, read_parity
from eqnet.backend.discovery import find_exporter
from eqnet.backend.preprocess import preprocess
from eqnet.runtime import load
from eqnet.spec.errors import DataError, EqnetError, UsageError
from eqnet.spec.manifest import MANIFEST, PARITY
from eqnet.spec.reports import Check, VerifyReport
from eqnet.stages.verify import checks, verify


def named(report: VerifyReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "by_hand"
    write_artifact(folder, residual_net(), profile())
    return folder


@pytest.mark.parametrize(
    ("backend", "form"),
    [
        ("onnxruntime", {}),
        ("onnxruntime", {"asymmetric": True}),
        ("lowbit", {"weight_bits": 4, "bits": 4}),
    ],
)
def test_a_sound_artifact_passes(tmp_path, backend, form):
    bits = [[4, 4], [8, 8]] if backend == "lowbit" else [[8, 8]]
    folder = tmp_path / "sound"
    write_artifact(folder, residual_net(**form), profile(backend, bits=bits))
    calls = []
    report = verify(folder, threads=1, progress=lambda *call: calls.append(call))
    assert [c.reason for c in report.checks if c.verdict == "failed"] == []
    assert report.verdict == "passed"
    assert (report.artifact, report.backend, report.profile) == ("sound", backend, "by_hand")
    assert report.runtime.startswith("onnxruntime ")
    assert (report.images, report.layers, report.int8_layers) == (64, 4, 4)
    assert report.top1_agreement >= 0.995
    assert report.accuracy >= 0.98
    assert {"semantics", "parity"} == {stage for stage, _, _ in calls}
    assert calls[-1] == ("parity", 64, 64)
    assert not (folder / "verify.json").exists()


def test_other_logits_fail(tmp_path):
    folder = tmp_path / "shifted"
    write_artifact(folder, residual_net(), profile(), shift=50.0)
    report = verify(folder, threads=1)
    checks = named(report)
    assert report.verdict == "failed"
    for name in ("semantics_agreement", "top1_agreement", "logit_error", "accuracy_drop"):
        assert checks[name].verdict == "failed", name
        assert "demanded" in checks[name].reason
    assert checks["int8_layers"].verdict == "passed"


def test_a_shift_of_all_logits_by_some_steps_is_seen(tmp_path):
    folder = tmp_path / "offset"
    write_artifact(folder, residual_net(), profile())
    tensors = load_file(folder / PARITY)
    step = float(json.loads((folder / MANIFEST).read_text())["parity"]["logit_step"])
    tensors["logits"] += np.float32(20 * step)
    replace_file(folder, PARITY, lambda path: save_file(tensors, path))
    check = named(verify(folder, threads=1))["logit_error"]
    assert check.verdict == "failed"
    assert check.value == pytest.approx(20, abs=2)


def float_conv_net() -> onnx.ModelProto:
    b = Builder(np.random.default_rng(0))
    x = b.node("Relu", [b.conv("input", "conv1", 3, 8, float_weight=True)], "relu")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.01), "fc", 8, 10)
    return b.model()


def test_a_layer_that_did_not_run_in_int8_fails(tmp_path):
    folder = tmp_path / "float"
    write_artifact(folder, float_conv_net(), profile())
    report = verify(folder, threads=1)
    check = named(report)["int8_layers"]
    assert (check.verdict, check.value, check.limit) == ("failed", 1, 2)
    assert check.reason == "not in int8: conv1"
    assert report.verdict == "failed"
    rewrite(folder, int8_layers=["fc"])
    assert verify(folder, threads=1).verdict == "passed"


def test_unknown_labels_leave_the_accuracy_open(tmp_path):
    folder = tmp_path / "unlabelled"
    write_artifact(folder, residual_net(), profile(), labels=np.full(64, -1))
    report = verify(folder, threads=1)
    assert report.verdict == "passed"
    assert report.accuracy is None
    assert named(report)["accuracy_drop"].verdict == "skipped"


def test_accuracy_counts_known_labels_only(tmp_path):
    folder = tmp_path / "half"
    truth = run_plain(residual_net(), preprocess(pixels(), PREPROCESSING)).argmax(axis=1)
    labels = np.where(np.arange(64) < 32, truth, -1)
    labels[:8] = (labels[:8] + 1) % 10
    write_artifact(folder, residual_net(), profile(), labels=labels)
    assert verify(folder, threads=1).accuracy == pytest.approx(24 / 32, abs=1 / 32)


def test_missing_isa_is_skipped_with_a_reason(tmp_path):
    folder = tmp_path / "isa"
    # int8 activations are exact on every CPU, so that nothing but the name speaks.
    activations = {"symmetry": "asymmetric", "storage": "int8"}
    target = profile(isa="no_such_isa", activations=activations)
    write_artifact(folder, residual_net(), target)
    report = verify(folder, threads=1)
    check = named(report)["isa"]
    assert check.verdict == "skipped"
    assert "no_such_isa" in check.reason
    assert report.verdict == "passed"


def test_backend_that_cannot_execute_is_stood_in_for(artifact, monkeypatch):
    found = find_exporter("lowbit")
    monkeypatch.setattr(type(found), "unavailable", lambda self, profile=None: "no GPU")
    rewrite(artifact, backend="lowbit")
    report = verify(artifact, threads=1)
    assert report.verdict == "skipped"
    check = named(report)["execution"]
    assert check.verdict == "skipped"
    assert check.reason.startswith("no GPU; the same graph was checked in onnxruntime")
    assert named(report)["top1_agreement"].verdict == "passed"
    with pytest.raises(UsageError, match="cannot execute here: no GPU"):
        load(artifact)


def test_unknown_backend_is_one_line(artifact):
    rewrite(artifact, backend="onxruntime")
    with pytest.raises(EqnetError, match="did you mean 'onnxruntime'"):
        verify(artifact)


def test_data_folder_that_is_empty_is_one_line(tmp_path):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(), profile(), dataset="fashion_mnist")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        verify(folder, data=tmp_path / "empty")
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_than_the_network_takes_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(), profile(), dataset="fashion_mnist")
    from eqnet.data.images import ArrayImages
    from eqnet.stages.verify import dataset

    images = ArrayImages("noise", np.zeros((4, 1, 28, 28), np.uint8), np.zeros(4, np.int64))
    opened = type("Opened", (), {"test": lambda self: images, "classes": tuple("abcdefghij")})
    monkeypatch.setattr(dataset, "guess_dataset", lambda root: "fashion_mnist")
    monkeypatch.setattr(dataset, "open_dataset", lambda *a, **k: opened())
    with pytest.raises(DataError, match=r"noise, 4 images: images \[1, 28, 28\]"):
        verify(folder, data=tmp_path)


def test_whole_test_set_is_classified(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(), profile(), dataset="fashion_mnist")
    from eqnet.data.images import ArrayImages
    from eqnet.stages.verify import dataset

    shown = pixels(images=150, seed=9)
    truth = run_plain(residual_net(), preprocess(shown, PREPROCESSING)).argmax(axis=1)
    labels = np.where(np.arange(150) < 50, (truth + 1) % 10, truth).astype(np.int64)
    opened = type(
        "Opened",
        (),
        {"test": lambda self: ArrayImages("noise", shown, labels), "classes": tuple("abcdefghij")},
    )
    monkeypatch.setattr(dataset, "guess_dataset", lambda root: "fashion_mnist")
    monkeypatch.setattr(dataset, "open_dataset", lambda *a, **k: opened())
    report = verify(folder, data=tmp_path, threads=1)
    assert report.images == 64
    assert report.test_images == 150
    assert report.test_accuracy == pytest.approx(100 / 150, abs=2 / 150)
    assert named(report)["test_accuracy_drop"].verdict == "passed"


def test_verification_imports_no_torch():
    code = (
        "import sys, eqnet.stages.verify, eqnet.runtime, eqnet_exporters.onnxruntime, "
        "eqnet_exporters.lowbit; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'openvino', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("share", "images", "limit", "verdict"),
    [
        (0.9995, 2000, 1.0, "failed"),  # all is demanded: not one image may differ
        (1.0, 5, 1.0, "passed"),
        (0.995, 2000, 0.995, "passed"),
        (0.9945, 2000, 0.995, "failed"),
        (31 / 32, 32, 0.995, "passed"),  # one image of 32 may be a tie
        (30 / 32, 32, 0.995, "failed"),
        (1.0, 15, 0.995, "skipped"),  # too few to say anything
        (0.0, 1, 0.999, "skipped"),
    ],
)
def test_agreement_is_demanded_in_whole_images(share, images, limit, verdict):
    assert checks.agreement_of("top1", share, images, limit).verdict == verdict


@pytest.mark.parametrize(
    ("drop", "images", "limit", "verdict"),
    [
        (0.0, 100, 0.0, "passed"),
        (0.01, 100, 0.0, "failed"),
        (0.01, 100, 0.2, "passed"),
        (0.02, 100, 0.2, "failed"),
        (0.5, 2, 0.2, "skipped"),
    ],
)
def test_accuracy_drop_is_demanded_in_whole_images(drop, images, limit, verdict):
    assert checks.accuracy_drop("drop", 0.9, 0.9 - drop, images, limit).verdict == verdict


def test_logits_that_tell_no_images_apart_are_not_compared_in_steps(artifact):
    manifest = read_manifest(artifact)
    parity = read_parity(artifact, manifest)
    flat = manifest.model_copy(
        update={"parity": manifest.parity.model_copy(update={"logit_step": 1e-9})}
    )
    assert checks.logit_error(parity.logits, parity, flat).verdict == "skipped"
    assert checks.logit_error(parity.logits, parity, manifest).verdict == "passed"
