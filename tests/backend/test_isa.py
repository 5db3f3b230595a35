"""What is said of a CPU's instruction sets, and of those that a runtime uses."""

from pathlib import Path

import pytest

from eqnet.backend.machine.isa import (
    NOTABLE,
    Cpu,
    foreign_isa,
    onednn_cpu,
    onednn_switch,
    promises_no_vnni,
    this_cpu,
)

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
    assert this_cpu(cpuinfo(X86)).missing(isa) is None


def test_isa_of_arm(cpuinfo):
    path = cpuinfo(ARM)
    assert this_cpu(path).missing("dotprod") is None
    assert this_cpu(path).missing("neon") is None
    assert "lacks 'i8mm'" in this_cpu(path).missing("i8mm")


def test_isa_missing_says_what_there_is(cpuinfo):
    reason = this_cpu(cpuinfo(X86)).missing("amx")
    assert reason == "this CPU lacks 'amx' (it has: avx2, avx512_vnni)"


def test_isa_unknown_without_cpuinfo(tmp_path):
    assert "cannot tell" in this_cpu(tmp_path / "absent").missing("vnni")


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
    assert foreign_isa(isa, machine) == foreign


def test_kernels_are_others_where_the_cpu_has_more_than_the_target(cpuinfo):
    more, just = cpuinfo(X86), cpuinfo("flags : fpu avx2 avx512f\n")
    reason = "this CPU has 'vnni' beyond 'avx2', so runtimes choose other int8 kernels"
    assert this_cpu(more).other_kernels("avx2") == reason
    assert this_cpu(just).other_kernels("avx2") is None
    assert this_cpu(just).other_kernels("avx512") is None
    assert this_cpu(more).other_kernels("vnni") is None
    assert this_cpu(more).other_kernels(None) is None
    assert "lacks 'vnni'" in this_cpu(just).other_kernels("vnni")


FULL = "flags : " + " ".join((*NOTABLE, "fpu")) + "\n"


@pytest.mark.parametrize(
    ("flags", "machine", "adds"),
    [
        ({"avx2"}, "x86_64", True),
        ({"avx2", "avx512f", "avx512bw"}, "AMD64", True),
        ({"avx2", "avx_vnni"}, "x86_64", False),
        ({"avx2", "avx512f", "avx512_vnni"}, "x86_64", False),
        ({"asimd"}, "aarch64", False),
        (set(), "x86_64", False),  # nothing is known, so nothing is claimed
    ],
)
def test_sums_of_16_bits_are_those_of_x86_without_vnni(flags, machine, adds):
    assert Cpu(frozenset(flags)).adds_in_16_bits(machine) is adds


@pytest.mark.parametrize(
    ("environment", "switch"),
    [
        ({}, ""),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA=AVX2"),
        ({"DNNL_MAX_CPU_ISA": "avx512_core"}, "DNNL_MAX_CPU_ISA=avx512_core"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "SSE41"}, "ONEDNN_MAX_CPU_ISA=AVX2"),
        ({"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": "SSE41"}, "DNNL_MAX_CPU_ISA=SSE41"),
        ({"ONEDNN_MAX_CPU_ISA": "ALL"}, ""),
        ({"ONEDNN_MAX_CPU_ISA": "nonsense"}, ""),
    ],
)
def test_the_switch_of_onednn(environment, switch):
    assert onednn_switch(environment) == switch


@pytest.mark.parametrize(
    ("limit", "vnni", "bf16"),
    [
        ("SSE41", False, False),
        ("AVX2", False, False),
        ("AVX2_VNNI", True, False),
        ("AVX512_CORE", False, False),
        ("AVX512_CORE_VNNI", True, False),
        ("AVX512_CORE_BF16", True, True),
        ("AVX512_CORE_AMX", True, True),
        ("DEFAULT", True, True),
    ],
)
def test_what_a_limit_leaves_of_a_cpu_that_has_all(cpuinfo, limit, vnni, bf16):
    cpu = onednn_cpu(cpuinfo(FULL), {"ONEDNN_MAX_CPU_ISA": limit})
    assert (cpu.missing("vnni") is None, cpu.missing("bf16") is None) == (vnni, bf16)
    if not vnni:
        lacks = f"this CPU under ONEDNN_MAX_CPU_ISA={limit} lacks 'vnni' (it has: sse4_2"
        assert cpu.missing("vnni").startswith(lacks)


def test_a_limit_that_takes_nothing_away_is_not_spoken_of(cpuinfo):
    cpu = onednn_cpu(cpuinfo("flags : fpu sse4_2 avx avx2 fma\n"), {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert cpu.missing("vnni") == "this CPU lacks 'vnni' (it has: sse4_2, avx, avx2, fma)"


@pytest.mark.parametrize("isa", ["avx2", "AVX512", "sse4.2"])
def test_names_that_promise_no_vnni(isa):
    assert promises_no_vnni(isa)


@pytest.mark.parametrize("isa", [None, "vnni", "avx512_vnni", "bf16", "amx", "dotprod", "avx_vnni"])
def test_names_that_promise_more_or_are_of_others(isa):
    assert not promises_no_vnni(isa)
