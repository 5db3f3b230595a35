import os
from pathlib import Path

import pytest

from eqnet.backend import host

X86 = "processor : 0\nmodel name : Tester 9000\nflags : fpu avx2 avx512_vnni\n\nprocessor : 1\n"
ARM = "processor : 0\nBogoMIPS : 50\nFeatures : fp asimd asimddp\n\n"


@pytest.fixture
def cpuinfo(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / f"cpuinfo{len(list(tmp_path.iterdir()))}"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("isa", [None, "avx2", "AVX512_VNNI", "vnni"])
def test_isa_present(cpuinfo, isa):
    assert host.missing_isa(isa, cpuinfo(X86)) is None


def test_isa_of_arm(cpuinfo):
    path = cpuinfo(ARM)
    assert host.missing_isa("dotprod", path) is None
    assert host.missing_isa("neon", path) is None
    assert "lacks 'i8mm'" in host.missing_isa("i8mm", path)


def test_isa_missing_says_what_there_is(cpuinfo):
    reason = host.missing_isa("amx", cpuinfo(X86))
    assert reason == "this CPU lacks 'amx' (it has: avx2, avx512_vnni)"


def test_isa_unknown_without_cpuinfo(tmp_path):
    assert "cannot tell" in host.missing_isa("vnni", tmp_path / "absent")


@pytest.mark.parametrize(
    ("isa", "machine", "foreign"),
    [
        (None, "x86_64", None),
        ("vnni", "x86_64", None),
        ("avx2", "AMD64", None),
        ("dotprod", "aarch64", None),
        ("i8mm", "arm64", None),
        ("bf16", "x86_64", None),  # both have one of that name
        ("bf16", "aarch64", None),
        ("dotprod", "x86_64", "'dotprod' is of ARM processors, and this machine is x86_64"),
        ("vnni", "arm64", "'vnni' is of x86 processors, and this machine is arm64"),
    ],
)
def test_isa_of_another_architecture(isa, machine, foreign):
    assert host.foreign_isa(isa, machine) == foreign


def test_kernels_are_others_where_the_cpu_has_more_than_the_target(cpuinfo):
    more, just = cpuinfo(X86), cpuinfo("flags : fpu avx2 avx512f\n")
    reason = "this CPU has 'vnni' beyond 'avx2', so runtimes choose other int8 kernels"
    assert host.other_kernels("avx2", more) == reason
    assert host.other_kernels("avx2", just) is None
    assert host.other_kernels("avx512", just) is None
    assert host.other_kernels("vnni", more) is None
    assert host.other_kernels(None, more) is None
    assert "lacks 'vnni'" in host.other_kernels("vnni", just)


def test_describe_is_complete_and_repeatable():
    one, two = host.describe(), host.describe()
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
    before = host.describe()
    monkeypatch.setattr(host, "MACHINE_ID", identity)
    after = host.describe()
    assert "secretidentity" not in str(after)
    assert not host.same_machine(before, after)
    assert host.same_machine(after, {**after, "onnxruntime": "0"})


def test_same_machine_needs_an_id():
    assert not host.same_machine({}, {})
    assert not host.same_machine({"machine": ""}, {"machine": ""})
