"""Damaged artifacts: each is refused with one line, by verification and by loading alike."""

import json

import numpy as np
import pytest
from artifacts import PREPROCESSING, pixels, profile, replace_file, rewrite, write_artifact
from graphs import residual_net
from safetensors.numpy import load_file, save_file

from eqnet.backend.preprocess import preprocess
from eqnet.runtime import load
from eqnet.spec.errors import ArtifactError, UsageError
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY, REFERENCE
from eqnet.stages.verify import verify


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "by_hand"
    write_artifact(folder, residual_net(), profile())
    return folder


@pytest.mark.parametrize("name", [MODEL, REFERENCE, PARITY, MANIFEST])
def test_missing_file_is_one_line(artifact, name):
    (artifact / name).unlink()
    one_line(artifact, name)


@pytest.mark.parametrize("name", [MODEL, REFERENCE, PARITY])
def test_changed_file_is_one_line(artifact, name):
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / name).write_bytes(content)
    assert "changed or corrupt" in one_line(artifact, name)


@pytest.mark.parametrize("name", [MODEL, REFERENCE, PARITY])
def test_truncated_file_is_one_line(artifact, name):
    content = (artifact / name).read_bytes()
    (artifact / name).write_bytes(content[: len(content) // 2])
    one_line(artifact, name)


@pytest.mark.parametrize("name", [MODEL, PARITY])
def test_damaged_file_with_a_matching_hash_is_one_line(artifact, name):
    replace_file(artifact, name, lambda path: path.write_bytes(path.read_bytes()[:500]))
    one_line(artifact, name)


@pytest.mark.parametrize("key", ["pixels", "logits", "labels"])
def test_parity_of_another_form_is_one_line(artifact, key):
    tensors = load_file(artifact / PARITY)
    short = {**tensors, key: tensors[key][:-1].copy()}
    replace_file(artifact, PARITY, lambda path: save_file(short, path))
    assert key in one_line(artifact, PARITY)
    wrong = {**tensors, key: tensors[key].astype(np.float64)}
    replace_file(artifact, PARITY, lambda path: save_file(wrong, path))
    assert "float64" in one_line(artifact, PARITY)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[1, 2]", "not a manifest"),
        (b"{}", "not a manifest"),
        (b'{"schema_version": 2}', "later eqnet"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_manifest_that_is_none_is_one_line(artifact, content, text):
    (artifact / MANIFEST).write_bytes(content)
    assert text in one_line(artifact, MANIFEST)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_manifest_never_leads_out_of_the_folder(artifact, name):
    files = json.loads((artifact / MANIFEST).read_text())["files"]
    rewrite(artifact, files={**files, name: "0" * 64})
    assert "leads out" in one_line(artifact, MANIFEST)


def test_manifest_lists_what_every_artifact_has(artifact):
    files = json.loads((artifact / MANIFEST).read_text())["files"]
    rewrite(artifact, files={n: d for n, d in files.items() if n != PARITY})
    assert f"lists no {PARITY}" in one_line(artifact, MANIFEST)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parity": {"images": 0, "source": "none", "logit_step": 0.1}}, "parity.images: "),
        ({"preprocessing": {"mean": [0.5], "std": [0.2]}}, "preprocessing: 1 channels (allowed: 3"),
        ({"preprocessing": {"mean": [0.5] * 3, "std": [0.2]}}, "3 means and 1 deviations"),
        ({"preprocessing": {"mean": [0.5] * 3, "std": [0.2, 0, 0.2]}}, "preprocessing.std.1: "),
    ],
)
def test_manifest_that_nothing_can_run_by_is_one_line(artifact, changes, text):
    rewrite(artifact, **changes)
    assert text in one_line(artifact, MANIFEST)


def test_folder_that_is_none_is_one_line(tmp_path):
    assert "no such folder" in one_line(tmp_path / "absent", "absent")


def one_line(folder, names: str) -> str:
    with pytest.raises(ArtifactError) as caught:
        verify(folder, threads=1)
    text = str(caught.value)
    assert names in text
    assert "\n" not in text
    return text


def test_load_runs_pixels_and_normalized_floats(artifact):
    model = load(artifact, threads=1)
    images = pixels(8)
    logits = model(images)
    assert logits.shape == (8, 10)
    assert logits.dtype == np.float32
    assert model.runtime.startswith("onnxruntime")
    assert np.array_equal(model(preprocess(images, PREPROCESSING)), logits)
    stored = load_file(artifact / PARITY)
    assert (model(stored["pixels"]).argmax(1) == stored["logits"].argmax(1)).mean() >= 0.995


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 1, 8, 8), np.uint8),
        np.zeros((1, 3, 8, 8), np.float64),
    ],
)
def test_load_refuses_other_inputs(artifact, wrong):
    with pytest.raises(UsageError, match="allowed: uint8 pixels or normalized float32"):
        load(artifact)(wrong)


def test_load_refuses_a_changed_model(artifact):
    (artifact / MODEL).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="changed or corrupt"):
        load(artifact)
