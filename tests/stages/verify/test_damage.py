"""Damaged artifacts: each is refused with one line, by verification and by loading alike."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import PREPROCESSING, pixels, profile, replace_file, rewrite, write_artifact
from graphs import residual_net
from safetensors.numpy import load_file, save_file

from eqnet.backend.preprocess import preprocess
from eqnet.runtime import load
from eqnet.spec.errors import ArtifactError, UsageError
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY, REFERENCE
from eqnet.stages.bench import bench
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


def reseal(folder, change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    rewrite(folder, **content)


def test_a_changed_digit_anywhere_in_the_manifest_is_one_line(artifact):
    text = (artifact / MANIFEST).read_text()
    start = text.index('"preprocessing"')
    digits = [i for i in range(start, len(text)) if text[i].isdigit() and text[i - 1] == "."]
    assert digits
    for i in digits[:6]:
        other = str(9 - int(text[i]))
        (artifact / MANIFEST).write_text(text[:i] + other + text[i + 1 :])
        one_line(artifact, MANIFEST)
        with pytest.raises(ArtifactError):
            load(artifact)


@pytest.mark.parametrize("change", [{"int8_layers": []}, {"digest": None}, {"digest": "0" * 64}])
def test_a_manifest_that_is_not_as_it_was_written_is_one_line(artifact, change):
    content = json.loads((artifact / MANIFEST).read_text())
    (artifact / MANIFEST).write_text(json.dumps({**content, **change}))
    assert "digest" in one_line(artifact, MANIFEST)


def test_layout_and_order_of_a_manifest_do_not_matter(artifact):
    content = json.loads((artifact / MANIFEST).read_text())
    turned = dict(reversed(content.items()))
    (artifact / MANIFEST).write_text(json.dumps(turned, indent=7))
    assert verify(artifact, threads=1).digest == content["digest"]


def test_what_was_forged_whole_is_told_by_the_digest_that_was_expected(artifact):
    digest = verify(artifact, threads=1).digest
    assert verify(artifact, threads=1, expect=digest.upper()).digest == digest
    load(artifact, expect=digest)
    reseal(artifact, lambda content: content["profile"]["parity"].update(top1_agreement=0))
    assert verify(artifact, threads=1).digest != digest
    for use in (verify, load):
        with pytest.raises(ArtifactError, match=f"expected: {digest}"):
            use(artifact, threads=1, expect=digest)


@pytest.mark.parametrize("name", [MODEL, PARITY, MANIFEST])
def test_a_pipe_is_refused_and_not_read(artifact, name):
    (artifact / name).unlink()
    os.mkfifo(artifact / name)
    assert "not a plain file" in one_line(artifact, name)


@pytest.mark.parametrize("name", [MODEL, PARITY, MANIFEST])
def test_a_link_out_of_the_artifact_is_refused_and_not_read(artifact, name):
    (artifact / name).rename(artifact.parent / name)
    (artifact / name).symlink_to(artifact.parent / name)
    assert "leads out" in one_line(artifact, name)


def test_a_link_to_an_artifact_and_links_inside_of_it_are_followed(artifact, tmp_path):
    (artifact / MODEL).rename(artifact / "real.onnx")
    (artifact / MODEL).symlink_to("real.onnx")
    (tmp_path / "link").symlink_to(artifact)
    assert verify(tmp_path / "link", threads=1).verdict == "passed"


def test_a_device_that_the_manifest_lists_is_refused(artifact):
    (artifact / MODEL).unlink()
    (artifact / MODEL).symlink_to("/dev/zero")
    assert MODEL in one_line(artifact, MODEL)


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("openvino", "model.xml"),
        ("openvino", "model.bin"),
        ("lowbit", "weights.eqpack"),
        ("lowbit", "integer.json"),
        ("tensorrt", "model.sm89.engine"),
        ("tensorrt", "model.fp16.onnx"),
    ],
)
def test_a_file_that_the_backend_would_read_and_nobody_listed_is_one_line(artifact, backend, name):
    rewrite(artifact, backend=backend)
    (artifact / name).write_text("planted")
    assert "lists no such" in one_line(artifact, name)


def test_tensors_in_a_file_that_is_not_listed_are_one_line(artifact):
    def move_out(path):
        onnx.save(
            onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0
        )

    replace_file(artifact, MODEL, move_out)
    assert "lists no such" in one_line(artifact, "w.bin")
    replace_file(artifact, "w.bin", lambda path: None)
    assert verify(artifact, threads=1).verdict == "passed"


def test_what_nobody_reads_may_lie_in_an_artifact(artifact):
    for name in ("notes.txt", "model.xml", "bench.json"):
        (artifact / name).write_text("")
    assert verify(artifact, threads=1).verdict == "passed"


def broken(inputs):
    raise RuntimeError("first line\nsecond line")


def test_what_a_runtime_raises_is_one_line_for_whoever_calls_it(artifact, monkeypatch):
    model = load(artifact, threads=1)
    monkeypatch.setattr("eqnet_exporters.ort.session.OrtRunner.__call__", lambda self, x: broken(x))
    with pytest.raises(ArtifactError, match="the runtime failed: first line second line"):
        model(pixels(2))
    one_line(artifact, MODEL)
    with pytest.raises(ArtifactError, match="the runtime failed"):
        bench(artifact, repeats=5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_with_names_that_are_no_text_is_one_line(tmp_path, backend):
    pytest.importorskip(backend)
    folder = tmp_path / "made"
    write_artifact(folder, residual_net(), profile(backend, placement={"add": "skip"}))
    for name in (MODEL, REFERENCE):
        content = (folder / name).read_bytes()
        spoiled = content.replace(b"conv1", b"con\xf2\xff")
        replace_file(folder, name, partial(Path.write_bytes, data=spoiled))
    one_line(folder, MODEL)


def test_no_images_are_refused(artifact):
    with pytest.raises(UsageError, match="no images"):
        load(artifact)(np.zeros((0, 3, 8, 8), np.float32))


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_parity_in_a_type_that_numpy_has_not_is_one_line(artifact, kind):
    def retype(path):
        size = 2 if kind == "BF16" else 1
        tensors = {"logits": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}
        header = json.dumps(tensors).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))

    replace_file(artifact, PARITY, retype)
    one_line(artifact, PARITY)


def test_a_manifest_of_more_classes_than_there_are_is_one_line(artifact):
    reseal(artifact, lambda content: content["model"].update(classes=10**8))
    assert "model.classes: " in one_line(artifact, MANIFEST)


def test_a_manifest_without_end_is_not_read(artifact):
    (artifact / MANIFEST).unlink()
    with (artifact / MANIFEST).open("wb") as file:
        file.truncate(3 << 30)
    assert "too large" in one_line(artifact, MANIFEST)
