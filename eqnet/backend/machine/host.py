"""What this machine is: CPU, instruction sets, library versions, and whether two are the same."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

from eqnet.backend.machine.isa import CPUINFO, cpuinfo_fields, onednn_switch, this_cpu

MACHINE_ID = Path("/etc/machine-id")
GOVERNORS = Path("/sys/devices/system/cpu")

LIBRARIES = ("numpy", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def governor(cpus: Path = GOVERNORS) -> str:
    """How the system sets the clock of this machine's CPUs, such as ``performance``.

    Several where they differ; "unknown" where it does not say, as in most virtual machines.
    """
    found = {_read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""})) or "unknown"


def describe_host() -> dict[str, str]:
    """What a measurement depends on: machine, CPU, cores, instruction sets, library versions.

    `machine` is a hash of the hardware and of the system's own identity (never the identity
    itself): equal hashes mean that latencies may be compared.
    """
    fields = cpuinfo_fields(CPUINFO)
    cpu = fields.get("model name") or platform.processor() or platform.machine()
    if switch := onednn_switch():
        cpu = f"{cpu} under {switch}"
    flags = " ".join(this_cpu().notable())
    identity = (_read(MACHINE_ID), platform.machine(), cpu, str(cores()), flags)
    return {
        "machine": hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16],
        "cpu": cpu,
        "cores": str(cores()),
        "isa": flags,
        "governor": governor(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **_versions(),
    }


def same_machine(a: dict[str, str], b: dict[str, str]) -> bool:
    """Whether two descriptions are of one machine; one without a machine id never is."""
    return bool(a.get("machine")) and a.get("machine") == b.get("machine")
