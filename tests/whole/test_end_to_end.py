"""The main job from the bundled supernet and the bundled data: export, verify, use, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

from eqnet.backend.discovery import find_exporter
from eqnet.backend.files import sha256_file
from eqnet.backend.graph.reading import constant, layers_of, quantizer_at
from eqnet.backend.protocol import host_limit
from eqnet.cli.main import main
from eqnet.data import open_dataset
from eqnet.data.idx import write_idx
from eqnet.runtime import load
from eqnet.spec.hardware.load import builtin_profiles, load_profile
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY, REFERENCE, Manifest
from eqnet.spec.reports import VerifyReport
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet.stages.verify import verify
from eqnet.supernet.checkpoint import SUPERNET_FILE, bundled_supernet, checkpoint_sha256

PROFILES = (
    "custom_lowbit",
    "custom_lowbit_w4a8",
    "onnxruntime_x86",
    "openvino_asym",
    "tensorrt_int8",
)
# Without a GPU the backend executes nothing, and ONNX Runtime stands in on the same graph.
EXECUTES = {
    name: find_exporter(load_profile(name).backend).unavailable() is None for name in PROFILES
}


@pytest.fixture(scope="module")
def manifest_of(exported):
    """The manifest of a profile's artifact."""

    def read(name: str) -> Manifest:
        return Manifest.model_validate_json((exported(name) / MANIFEST).read_bytes())

    return read


@pytest.fixture(scope="module")
def verified(exported):
    """The report of `eqnet verify` on a profile's artifact, made once, with its exit code 0."""
    made: dict[str, VerifyReport] = {}

    def verify(name: str) -> VerifyReport:
        if name not in made:
            folder = exported(name)
            rules = load_profile(name)
            limit = host_limit(find_exporter(rules.backend), rules)
            if limit is not None and not limit.exact:
                pytest.skip(limit.reason)
            out = folder.parent.parent / f"{name}.verify.json"
            assert main(["verify", str(folder), "--threads", "1", "--out", str(out), "-q"]) == 0
            made[name] = VerifyReport.model_validate_json(out.read_bytes())
        return made[name]

    return verify


def test_the_profiles_are_all_here():
    assert set(PROFILES) <= set(builtin_profiles())


@pytest.mark.parametrize("name", PROFILES)
def test_manifest_is_true(exported, manifest_of, name):
    folder, made = exported(name), manifest_of(name)
    listed = {path.name for path in folder.iterdir()} - {MANIFEST}
    assert set(made.files) == listed >= {MODEL, REFERENCE, PARITY}
    assert all(sha256_file(folder / file) == digest for file, digest in made.files.items())
    rules = load_profile(name)
    assert made.profile == rules
    assert made.backend == rules.backend
    assert made.subnet_origin == "default"
    assert made.subnet.supernet == checkpoint_sha256(bundled_supernet() / SUPERNET_FILE)
    assert made.subnet.profile_sha256 == rules.sha256()
    assert made.subnet.form == rules.form()
    assert made.layers == tuple(layers_of(ir.load(folder / REFERENCE)))
    assert made.int8_layers == made.layers  # the default quantizes every layer of this net
    assert len(made.layers) == 22
    assert made.model.classes == 10
    assert {"torch", "onnx", "onnxruntime", "eqnet"} <= set(made.versions)


@pytest.mark.parametrize("name", PROFILES)
def test_parity_set_holds_the_bundled_images_and_their_logits(exported, manifest_of, name):
    made, stored = manifest_of(name), load_file(exported(name) / PARITY)
    assert stored["pixels"].shape == (2000, 1, 28, 28)
    assert stored["pixels"].dtype == np.uint8
    assert stored["logits"].shape == (2000, 10)
    assert made.parity.images == 2000
    accuracy = (stored["logits"].argmax(1) == stored["labels"]).mean()
    assert made.parity.accuracy == pytest.approx(accuracy)
    assert accuracy > 0.85
    assert made.model.float_accuracy - accuracy < 0.05
    assert made.parity.logit_step == pytest.approx(np.ptp(stored["logits"]) / 255)


@pytest.mark.parametrize("name", PROFILES)
def test_weight_bytes_are_those_of_the_chosen_bits(exported, manifest_of, name):
    made = manifest_of(name)
    sizes = {}
    for node in ir.load(exported(name) / REFERENCE).graph:
        if node.name in made.layers:
            integers = constant(node.inputs[1].producer().inputs[0])
            sizes[node.name] = (integers.size, integers.shape[0])
    bits = sum(made.subnet.weights[key] * size + 32 * out for key, (size, out) in sizes.items())
    assert made.weight_bytes == -(-bits // 8)
    weights = sum(size for size, _ in sizes.values())
    average = sum(made.subnet.weights[key] * size for key, (size, _) in sizes.items()) / weights
    assert made.subnet.avg_weight_bits == pytest.approx(average)


@pytest.mark.parametrize("name", PROFILES)
def test_verify_passes_within_the_bars(verified, name):
    report = verified(name)
    checks = {check.name: check for check in report.checks}
    assert [check.name for check in report.checks if check.verdict == "failed"] == []
    assert report.images == 2000
    assert report.top1_agreement >= 0.995
    assert checks["semantics_agreement"].value >= 0.999
    assert checks["accuracy_drop"].verdict == "passed"
    if EXECUTES[name]:
        assert report.verdict == "passed"
        assert report.int8_layers == report.layers == 22
        return
    assert name == "tensorrt_int8"
    assert report.verdict == checks["execution"].verdict == "skipped"
    assert "GPU" in checks["execution"].reason
    assert "the same graph was checked in onnxruntime" in checks["execution"].reason
    assert report.accuracy > 0.9


def weights_of(folder, made):
    """Layer -> (integers, scales, zero-points) of the neutral graph."""
    found = {}
    for node in ir.load(folder / REFERENCE).graph:
        if node.name in made.layers:
            found[node.name] = [constant(v) for v in node.inputs[1].producer().inputs]
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_weights_have_the_profiles_form(exported, manifest_of, name):
    made = manifest_of(name)
    form = made.profile.form()
    zero_points = []
    for layer, (integers, scales, zeros) in weights_of(exported(name), made).items():
        bits = made.subnet.weights[layer]
        step = 1 << (8 - bits)  # b-bit integers are stored shifted left in an int8 container
        assert integers.dtype == np.int8
        assert (integers.astype(int) % step == 0).all()
        assert len(np.unique(integers)) <= 1 << bits
        assert (zeros.astype(int) % step == 0).all()
        assert (scales > 0).all()
        if form.weight_granularity is Granularity.PER_TENSOR:
            assert len(set(zeros.tolist())) == 1  # one grid for the whole tensor
        zero_points += zeros.tolist()
    symmetric = form.weight_symmetry is Symmetry.SYMMETRIC
    assert (set(zero_points) == {0}) == symmetric


def test_custom_profiles_have_visibly_different_bits(manifest_of):
    low, w4 = (manifest_of(name).subnet for name in PROFILES[:2])
    first, *middle, last = w4.weights.values()
    assert (first, last) == (8, 8)
    assert set(middle) == {4}
    assert max(list(low.weights.values())[1:-1]) <= 4
    assert set(w4.activations.values()) == {8}
    assert low.avg_weight_bits <= 4
    assert low.avg_activation_bits <= 4


@pytest.mark.parametrize("name", PROFILES)
def test_activations_have_the_profiles_form(exported, manifest_of, name):
    made = manifest_of(name)
    nodes = ir.load(exported(name) / MODEL).graph
    found = [quantizer for node in nodes if (quantizer := quantizer_at(node)) is not None]
    assert found
    zeros = {quantizer.zero_point for quantizer in found}
    dtypes = {quantizer.dtype.name.lower() for quantizer in found}
    assert dtypes == {made.profile.activations.storage}
    if made.profile.activations.zero_point == "zero":
        assert zeros == {0}
    narrow = {quantizer.hi - quantizer.lo + 1 for quantizer in found}
    wanted = {1 << bits for bits in made.subnet.activations.values()}
    if made.backend == "lowbit":
        assert wanted <= narrow


def test_tensorrt_engines_hold_int8_weights(exported, manifest_of):
    folder, made = exported("tensorrt_int8"), manifest_of("tensorrt_int8")
    sums = json.loads((folder / "build.json").read_text())
    built = {engine["target"]: engine for engine in sums["engines"]}
    if set(built) != {"CURRENT"}:
        assert {"SM75", "SM80", "SM86", "SM89", "SM120"} <= set(built)
    weights = sum(integers.size for integers, _, _ in weights_of(folder, made).values())
    assert sums["weights"] == weights
    for engine in built.values():
        assert 0 < engine["weights_bytes"] <= 1.5 * weights
        assert made.files[engine["file"]] == sha256_file(folder / engine["file"])
    for node in ir.load(folder / MODEL).graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zeros = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
            assert not np.any(zeros)


def test_runtime_load_predicts_without_torch(exported):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from eqnet.runtime import load\n"
        "from safetensors.numpy import load_file\n"
        "folder = sys.argv[1]\n"
        "stored = load_file(folder + '/parity.safetensors')\n"
        "logits = load(folder, threads=1)(stored['pixels'][:200])\n"
        "print((logits.argmax(1) == stored['logits'][:200].argmax(1)).mean())\n"
    )
    done = run_python(["-c", code, str(exported("onnxruntime_x86"))])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0.99


def run_python(arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_verify_needs_no_torch(exported, tmp_path):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from eqnet.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "verify.json"
    folder = str(exported("custom_lowbit"))
    done = run_python(["-c", code, "verify", folder, "--threads", "1", "--out", str(out), "-q"])
    assert done.returncode == 0, done.stderr
    assert VerifyReport.model_validate_json(out.read_bytes()).verdict == "passed"


def test_a_loaded_artifact_takes_any_batch(exported):
    folder = exported("openvino_asym")
    model = load(folder, threads=1)
    stored = load_file(folder / PARITY)
    whole = model(stored["pixels"][:7])
    single = np.concatenate([model(stored["pixels"][i : i + 1]) for i in range(7)])
    assert (whole.argmax(1) == single.argmax(1)).all()
    assert np.abs(whole - single).max() <= 2 * model.manifest.parity.logit_step


def test_report_tells_of_every_artifact(exported, tmp_path, capsys):
    paths = [str(exported(name)) for name in PROFILES]
    page = tmp_path / "report.html"
    assert main(["report", *paths, "--out", str(page), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["profile"] for row in rows] == list(PROFILES)
    text = page.read_text()
    assert all(name in text for name in PROFILES)
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_verify_classifies_the_whole_test_set_of_the_dataset_that_export_named(exported, tmp_path):
    pixels, labels = open_dataset().parity().take(2000)
    for prefix in ("t10k", "train"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", np.tile(pixels[:, 0], (5, 1, 1)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.tile(labels, 5).astype(np.uint8))
    report = verify(exported("onnxruntime_x86"), data=tmp_path)
    assert report.verdict == "passed"
    assert report.test_images == 10_000
    assert report.test_accuracy == pytest.approx(report.accuracy)
