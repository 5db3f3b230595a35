"""Artifacts on other CPUs than their target's: what verify, bench and load say, and when they fail.

OpenVINO runs other CPUs' kernels under `ONEDNN_MAX_CPU_ISA`, in processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from artifacts import profile, write_artifact
from eqnet_exporters import onnxruntime, openvino
from eqnet_exporters.ort import session as ort
from graphs import residual_net
from instruction_sets import SETS, cpu_under, environment

from eqnet.backend.discovery import find_exporter
from eqnet.backend.machine.isa import Cpu
from eqnet.backend.protocol import HostKernels, HostLimit
from eqnet.runtime import load
from eqnet.spec.errors import HostWarning, VerificationError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.stages.bench import bench
from eqnet.stages.verify import verify

AVX2, VNNI = Cpu(frozenset({"avx2"})), Cpu(frozenset({"avx2", "avx_vnni"}))
LOGITS = ("top1_agreement", "logit_error", "accuracy_drop")
USE = """
import json, sys, warnings
from pathlib import Path
from eqnet.stages.bench import bench
from eqnet.runtime import load
from eqnet.spec.errors import VerificationError
from eqnet.stages.verify import verify

folder = Path(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    load(folder, threads=1)
try:
    benched = bench(folder, repeats=5, threads=1).reason if "bench" in sys.argv else ""
except VerificationError as error:
    benched = f"failed: {error}"
warned = [str(one.message) for one in caught if one.category.__name__ == "HostWarning"]
report = verify(folder, threads=1).model_dump(mode="json")
print(json.dumps({"warned": warned, "benched": benched, "report": report}))
"""


@pytest.fixture
def avx2(monkeypatch):
    """Let this be a CPU without VNNI by its flags, whatever its kernels compute."""
    monkeypatch.setattr(openvino, "onednn_cpu", lambda: AVX2)
    monkeypatch.setattr(ort, "this_cpu", lambda: AVX2)
    monkeypatch.setattr(onnxruntime, "this_cpu", lambda: AVX2)
    monkeypatch.setattr(Cpu, "adds_in_16_bits", lambda cpu: cpu.lacks("vnni"))


def host_limit(rules: HardwareProfile) -> HostLimit | None:
    exporter = find_exporter(rules.backend)
    assert isinstance(exporter, HostKernels)
    return exporter.host_limit(rules)


def use_under(instructions: str, artifact: Path, *more: str) -> dict[str, Any]:
    """What load, verify and, if it is named, bench say of an artifact in a fresh process."""
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", USE, str(artifact), *more],
        capture_output=True,
        text=True,
        check=False,
        env=environment(instructions),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    checks = {check["name"]: check for check in result["report"]["checks"]}
    return {**result, "verdict": result["report"]["verdict"], "checks": checks}


@pytest.mark.parametrize("instructions", SETS)
def test_an_artifact_of_7_bits_is_right_with_every_instruction_set(exported, instructions):
    used = use_under(instructions, exported("openvino_avx2"))
    assert (used["verdict"], used["warned"]) == ("passed", [])
    assert used["report"]["int8_layers"] == used["report"]["layers"]
    beyond = cpu_under(instructions).missing("vnni") is None
    assert used["checks"]["isa"]["verdict"] == ("skipped" if beyond else "passed")


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_an_artifact_of_8_bits_is_said_to_overflow_and_fails_where_it_does(exported, instructions):
    if not cpu_under(instructions).adds_in_16_bits():
        pytest.skip("not an x86 CPU, or one whose instruction sets the system does not list")
    used = use_under(instructions, exported("openvino_asym"), "bench")
    (warned,) = used["warned"]
    wrong = [name for name in LOGITS if used["checks"][name]["verdict"] == "failed"]
    assert used["checks"]["isa"]["verdict"] == ("failed" if wrong else "skipped"), wrong
    assert used["verdict"] == ("failed" if wrong else "passed")
    classes = "top1_agreement" in wrong
    assert used["benched"].startswith("failed: " if classes else "not the target's latency: ")
    for said in (warned, used["benched"], used["checks"]["isa"]["reason"]):
        assert "lacks 'vnni'" in said
        assert "remedy: profile openvino_avx2" in said


def by_hand(folder: Path, backend: str, *, shift: float = 0.0, **changes: Any) -> Path:
    target = profile(backend, **changes)
    write_artifact(folder, residual_net(storage=7, asymmetric=True), target, shift=shift)
    return folder


SKIP: dict[str, Any] = {"placement": {"add": "skip"}}
NARROW: dict[str, Any] = {
    "weights": {"granularity": "per_channel", "symmetry": "symmetric", "reduce_range": True},
    "bits": [[7, 8]],
}


@pytest.mark.parametrize(
    ("backend", "changes", "remedy"),
    [("openvino", SKIP, "openvino_avx2"), ("onnxruntime", {}, "onnxruntime_avx2")],
)
def test_a_cpu_without_vnni_is_said(tmp_path, avx2, backend, changes, remedy):
    folder = by_hand(tmp_path / "net", backend, **changes)
    with pytest.warns(HostWarning, match=f"lacks 'vnni'.*remedy: profile {remedy}") as caught:
        load(folder, threads=1)
    assert "\n" not in str(caught[0].message)
    (check,) = [one for one in verify(folder, threads=1).checks if one.name == "isa"]
    assert check.verdict == "skipped"
    assert remedy in check.reason
    assert remedy in bench(folder, repeats=5, threads=1).reason


@pytest.mark.parametrize(("backend", "isa"), [("openvino", "failed"), ("onnxruntime", "skipped")])
def test_wrong_logits_are_put_down_to_the_cpu_where_it_computes_otherwise(
    tmp_path, avx2, backend, isa
):
    """ONNX Runtime is exact without VNNI, so there the CPU is not the reason."""
    changes = SKIP if backend == "openvino" else {}
    folder = by_hand(tmp_path / "net", backend, shift=10.0, **changes)
    report = verify(folder, threads=1)
    assert report.verdict == "failed"
    (check,) = [one for one in report.checks if one.name == "isa"]
    assert check.verdict == isa
    if backend == "openvino":
        with pytest.raises(VerificationError, match=r"PyTorch's class.*openvino_avx2") as caught:
            bench(folder, repeats=5, threads=1)
        assert "\n" not in str(caught.value)
    else:
        assert bench(folder, repeats=5, threads=1).verdict == "passed"


def test_a_stand_in_that_is_wrong_is_not_put_down_to_the_targets_kernels(
    tmp_path, avx2, monkeypatch
):
    folder = by_hand(tmp_path / "net", "openvino", shift=10.0, **SKIP)
    exporter = type(find_exporter("openvino"))
    monkeypatch.setattr(exporter, "unavailable", lambda self, profile=None: "not installed")
    monkeypatch.setattr(exporter, "int8_layers", lambda *_: None)
    report = verify(folder, threads=1)
    (check,) = [one for one in report.checks if one.name == "isa"]
    assert (report.verdict, check.verdict) == ("failed", "skipped")
    assert "OpenVINO adds int8 products in 16 bits" in check.reason


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_weights_in_7_bits_need_no_word(tmp_path, avx2, backend):
    changes = {**(SKIP if backend == "openvino" else {}), **NARROW}
    folder = by_hand(tmp_path / "net", backend, isa="avx2", **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HostWarning)
        load(folder, threads=1)
    (check,) = [one for one in verify(folder, threads=1).checks if one.name == "isa"]
    assert check.verdict == "passed"


def test_a_cpu_with_vnni_needs_no_word(monkeypatch):
    monkeypatch.setattr(openvino, "onednn_cpu", lambda: VNNI)
    monkeypatch.setattr(ort, "this_cpu", lambda: VNNI)
    for name in ("openvino_asym", "openvino_avx2", "onnxruntime_x86", "onnxruntime_avx2"):
        rules = load_profile(name)
        assert host_limit(rules) is None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("openvino_asym", {"device": "GPU"}),  # the CPU does not multiply
        ("onnxruntime_arm", {}),  # int8 with int8 has exact kernels
        ("custom_lowbit_w4a8", {}),  # what runs here is exact, and its speed no matter
    ],
)
def test_what_no_cpu_overflows_needs_no_word(avx2, name, changes):
    content = {**load_profile(name).model_dump(mode="json"), **changes}
    rules = HardwareProfile.model_validate(content)
    assert host_limit(rules) is None


@pytest.mark.parametrize("isa", ["avx2", "avx512", "sse4.2"])
def test_a_target_without_vnni_wants_7_bits(isa):
    def refusals(backend: str, **changes: object) -> list[Any]:
        rules = profile(backend, isa=isa, **changes)
        lines = find_exporter(backend).refusals(rules)
        return [line for line in lines if line.startswith("weights.reduce_range")]

    (line,) = refusals("openvino", **SKIP)
    assert line.endswith("(allowed: true, as in openvino_avx2)")
    assert not hasattr(line, "kind"), "it would compute otherwise, so nothing accepts it"
    (line,) = refusals("onnxruntime")
    assert line.kind == "slow"
    assert refusals("openvino", **SKIP, **NARROW) == refusals("onnxruntime", **NARROW) == []
