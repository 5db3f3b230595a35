import os

import pytest

from eqnet.backend.machine import host
from eqnet.backend.machine.isa import ONEDNN_SWITCHES


def test_describe_is_complete_and_repeatable():
    one, two = host.describe_host(), host.describe_host()
    assert one == two
    assert int(one["cores"]) == host.cores() >= 1
    assert {"machine", "cpu", "cores", "isa", "os", "python", "numpy", "onnxruntime"} <= set(one)
    assert all(isinstance(value, str) for value in one.values())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_cores_are_those_of_this_process():
    assert host.cores() == len(os.sched_getaffinity(0))


def test_machine_hash_does_not_tell_the_machine_id(tmp_path, monkeypatch):
    identity = tmp_path / "machine-id"
    identity.write_text("secretidentity\n")
    before = host.describe_host()
    monkeypatch.setattr(host, "MACHINE_ID", identity)
    after = host.describe_host()
    assert "secretidentity" not in str(after)
    assert not host.same_machine(before, after)
    assert host.same_machine(after, {**after, "onnxruntime": "0"})


def test_a_limit_of_onednn_makes_another_machine(monkeypatch):
    for name in ONEDNN_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    before = host.describe_host()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    after = host.describe_host()
    assert after["cpu"] == f"{before['cpu']} under ONEDNN_MAX_CPU_ISA=AVX2"
    assert not host.same_machine(before, after)


def test_same_machine_needs_an_id():
    assert not host.same_machine({}, {})
    assert not host.same_machine({"machine": ""}, {"machine": ""})
