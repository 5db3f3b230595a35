"""Instruction sets: which this CPU has, and which of them a runtime uses for its kernels."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

# Instruction sets that decide how fast integers are multiplied; the rest of the flags is noise.
NOTABLE = (
    *("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)

# Names that people use for a profile's `isa`, and the kernel's flags of which any one suffices.
ALIASES: dict[str, tuple[str, ...]] = {
    "vnni": ("avx512_vnni", "avx_vnni"),
    "avx512": ("avx512f",),
    "amx": ("amx_int8",),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "neon": ("asimd", "neon"),
    "dotprod": ("asimddp",),
    "armv8.2-dotprod": ("asimddp",),
    "sse4.2": ("sse4_2",),
}

# Instruction sets that a CPU may have beyond a profile's `isa`, with other int8 kernels.
BEYOND = {"avx2": "vnni", "avx512": "vnni"}
# Names of a profile's `isa` that promise no VNNI.
WITHOUT_VNNI = frozenset(
    {"sse4.2", "sse4_2", "avx", "avx2", "fma", "avx512", "avx512f", "avx512bw", "avx512vl"}
)
X86_MACHINES = ("x86", "amd64", "i386", "i686")
# How the names of instruction sets of one processor architecture begin, and of its machines.
ARCHITECTURES = {
    "ARM": (("neon", "asimd", "dotprod", "armv", "i8mm", "sve", "sme"), ("aarch64", "arm")),
    "x86": (("sse", "avx", "vnni", "amx", "x86"), X86_MACHINES),
}

# oneDNN, whose kernels OpenVINO uses, reads these in this order; it knows each value's sets.
ONEDNN_SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_SSE = frozenset({"sse4_2"})
_AVX2 = _SSE | {"avx", "avx2", "fma"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl"}
_AVX512_VNNI = _AVX512 | {"avx512_vnni"}
_AVX512_BF16 = _AVX512_VNNI | {"avx512_bf16"}
_AVX512_FP16 = _AVX512_BF16 | {"avx512_fp16", "avx_vnni"}
_AMX = _AVX512_FP16 | {"amx_int8", "amx_bf16"}
ONEDNN_LIMITS: dict[str, frozenset[str]] = {
    "sse41": _SSE,
    "avx": _SSE | {"avx"},
    "avx2": _AVX2,
    "avx2_vnni": _AVX2 | {"avx_vnni"},
    "avx2_vnni_2": _AVX2 | {"avx_vnni"},
    "avx512_core": _AVX512,
    "avx512_core_vnni": _AVX512_VNNI,
    "avx512_core_bf16": _AVX512_BF16,
    "avx512_core_fp16": _AVX512_FP16,
    "avx10_1_512": _AVX512_FP16,
    "avx512_core_amx": _AMX,
    "avx10_1_512_amx": _AMX,
}


@dataclass(frozen=True)
class Cpu:
    """The instruction sets that a runtime uses.

    flags: the system's names of them; empty where the system lists none. switch: the setting
    that keeps some of the CPU's from the runtime, such as ``ONEDNN_MAX_CPU_ISA=AVX2``, or "".
    """

    flags: frozenset[str]
    switch: str = ""

    def missing(self, isa: str | None) -> str | None:
        """Why this cannot stand for a target with the instruction set `isa`, or None."""
        if isa is None:
            return None
        if not self.flags:
            return f"cannot tell whether this CPU has '{isa}': the system lists no CPU features"
        if not self.flags.isdisjoint(ALIASES.get(isa.lower(), (isa.lower(),))):
            return None
        left = f"(it has: {', '.join(self.notable()) or 'none known'})"
        if self.switch:
            return f"this CPU under {self.switch} lacks '{isa}' {left}"
        return f"this CPU lacks '{isa}' {left}"

    def lacks(self, isa: str) -> bool:
        """Whether `isa` is known to be missing."""
        return bool(self.flags) and self.missing(isa) is not None

    def other_kernels(self, isa: str | None) -> str | None:
        """Why other int8 kernels run here than on a target with `isa`, or None.

        The instruction set is missing, or there is one beyond it that runtimes use instead.
        """
        missing = self.missing(isa)
        beyond = BEYOND.get((isa or "").lower())
        if missing is not None or beyond is None or self.missing(beyond) is not None:
            return missing
        return f"this CPU has '{beyond}' beyond '{isa}', so runtimes choose other int8 kernels"

    def adds_in_16_bits(self, machine: str = "") -> bool:
        """Whether int8 kernels add two products in 16 bits: an x86 CPU known to lack VNNI.

        uint8 x int8 products of 255 x 127 saturate there without a word. machine: such as
        ``x86_64``; this host's own by default.
        """
        x86 = (machine or platform.machine()).lower().startswith(X86_MACHINES)
        return x86 and self.lacks("vnni")

    def notable(self) -> list[str]:
        """The instruction sets that decide how fast integers are multiplied, in a fixed order."""
        return [flag for flag in NOTABLE if flag in self.flags]


@lru_cache(maxsize=8)
def cpuinfo_fields(path: Path) -> dict[str, str]:
    """Fields of the first processor, with lower-case keys; empty where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields = {}
    first = text.split("\n\n", 1)[0]
    for line in first.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip().lower()] = value.strip()
    return fields


def this_cpu(cpuinfo: Path = CPUINFO) -> Cpu:
    """All that this CPU has."""
    fields = cpuinfo_fields(cpuinfo)
    return Cpu(frozenset((fields.get("flags") or fields.get("features") or "").split()))


def onednn_switch(environment: Mapping[str, str] = os.environ) -> str:
    """The setting that limits oneDNN's instruction sets, as ``NAME=VALUE``, or ""."""
    for name in ONEDNN_SWITCHES:
        if value := environment.get(name):
            return f"{name}={value}" if value.lower() in ONEDNN_LIMITS else ""
    return ""


def onednn_cpu(cpuinfo: Path = CPUINFO, environment: Mapping[str, str] = os.environ) -> Cpu:
    """What oneDNN, and so OpenVINO, uses of this CPU. Other flags than `NOTABLE` are left out
    where a switch is set."""
    cpu, switch = this_cpu(cpuinfo), onednn_switch(environment)
    if not switch:
        return cpu
    limit = ONEDNN_LIMITS[switch.partition("=")[2].lower()]
    left = cpu.flags & limit
    return cpu if left == cpu.flags & frozenset(NOTABLE) else Cpu(left, switch)


def foreign_isa(isa: str | None, machine: str = "") -> str | None:
    """Why no latency here can stand for one with `isa`: another processor architecture; or None.

    machine: such as ``x86_64``; this host's own by default.
    """
    here = machine or platform.machine()
    for name, (prefixes, machines) in ARCHITECTURES.items():
        if (isa or "").lower().startswith(prefixes) and not here.lower().startswith(machines):
            return f"'{isa}' is of {name} processors, and this machine is {here}"
    return None


def promises_no_vnni(isa: str | None) -> bool:
    """Whether a profile's `isa` is one of x86 CPUs that add two products in 16 bits."""
    return (isa or "").lower() in WITHOUT_VNNI
