"""What this machine is: CPU, instruction sets, library versions, and whether two are the same."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MACHINE_ID = Path("/etc/machine-id")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

LIBRARIES = ("numpy", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13")

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
# How the names of instruction sets of one processor architecture begin, and of its machines.
ARCHITECTURES = {
    "ARM": (("neon", "asimd", "dotprod", "armv", "i8mm", "sve", "sme"), ("aarch64", "arm")),
    "x86": (("sse", "avx", "vnni", "amx", "x86"), ("x86", "amd64", "i386", "i686")),
}


@lru_cache(maxsize=8)
def _cpuinfo(path: Path) -> dict[str, str]:
    """Fields of the first processor, with lower-case keys; empty where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The kernel's names of this CPU's features; empty where the system does not tell."""
    fields = _cpuinfo(cpuinfo)
    return frozenset((fields.get("flags") or fields.get("features") or "").split())


def missing_isa(isa: str | None, cpuinfo: Path = CPUINFO) -> str | None:
    """Why this host cannot stand for a target with the instruction set `isa`, or None."""
    if isa is None:
        return None
    flags = cpu_flags(cpuinfo)
    if not flags:
        return f"cannot tell whether this CPU has '{isa}': the system lists no CPU features"
    wanted = ALIASES.get(isa.lower(), (isa.lower(),))
    if flags.isdisjoint(wanted):
        return f"this CPU lacks '{isa}' (it has: {', '.join(_notable(flags)) or 'none known'})"
    return None


def foreign_isa(isa: str | None, machine: str = "") -> str | None:
    """Why no latency here can stand for one with `isa`: another processor architecture; or None.

    machine: such as ``x86_64``; this host's own by default.
    """
    here = machine or platform.machine()
    for name, (prefixes, machines) in ARCHITECTURES.items():
        if (isa or "").lower().startswith(prefixes) and not here.lower().startswith(machines):
            return f"'{isa}' is of {name} processors, and this machine is {here}"
    return None


def other_kernels(isa: str | None, cpuinfo: Path = CPUINFO) -> str | None:
    """Why this host runs other int8 kernels than a target with `isa`, or None.

    It lacks the instruction set, or has one beyond it that runtimes use instead.
    """
    missing = missing_isa(isa, cpuinfo)
    beyond = BEYOND.get((isa or "").lower())
    if missing is not None or beyond is None or missing_isa(beyond, cpuinfo) is not None:
        return missing
    return f"this CPU has '{beyond}' beyond '{isa}', so runtimes choose other int8 kernels"


def _notable(flags: frozenset[str]) -> list[str]:
    return [flag for flag in NOTABLE if flag in flags]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, str]:
    """What a measurement depends on: machine, CPU, cores, instruction sets, library versions.

    `machine` is a hash of the hardware and of the system's own identity (never the identity
    itself): equal hashes mean that latencies may be compared.
    """
    fields = _cpuinfo(CPUINFO)
    cpu = fields.get("model name") or platform.processor() or platform.machine()
    flags = " ".join(_notable(cpu_flags()))
    identity = (_read(MACHINE_ID), platform.machine(), cpu, str(cores()), flags)
    host = {
        "machine": hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16],
        "cpu": cpu,
        "cores": str(cores()),
        "isa": flags,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **_versions(),
    }
    if governor := _read(GOVERNOR):
        host["governor"] = governor
    return host


def same_machine(a: dict[str, str], b: dict[str, str]) -> bool:
    """Whether two descriptions are of one machine; one without a machine id never is."""
    return bool(a.get("machine")) and a.get("machine") == b.get("machine")
