"""The float model beside an artifact, in the precisions in which a user would run it here."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.protocol import Exporter, Runner, cpu_of
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.reports import FloatPrecision


def float_precisions(exporter: Exporter, profile: HardwareProfile) -> list[FloatPrecision]:
    """In which the runtime may run a float model at speed on this machine, float32 first.

    bfloat16 where this CPU has it; float16 where the exporter takes it on the profile's device.
    """
    found: list[FloatPrecision] = ["float32"]
    remainders = exporter.capabilities.remainders
    if "bfloat16" in remainders and cpu_of(exporter).missing("bf16") is None:
        found.append("bfloat16")
    if "float16" in remainders and not _refused(exporter, profile, "float16"):
        found.append("float16")
    return found


def _refused(exporter: Exporter, profile: HardwareProfile, precision: str) -> bool:
    """Whether the exporter refuses a remainder, whatever else it refuses of the profile."""
    asked = profile.model_copy(update={"remainder": precision})
    return any(line.startswith("remainder") for line in map(str, exporter.refusals(asked)))


def open_float_twins(
    exporter: Exporter, model: Path, profile: HardwareProfile, threads: int
) -> dict[FloatPrecision, Runner]:
    """A float graph in each of `float_precisions`, on the profile's device."""
    opened = {}
    for precision in float_precisions(exporter, profile):
        plain = profile.model_copy(update={"remainder": precision})
        opened[precision] = exporter.open(model, threads=threads, profile=plain)
    return opened
