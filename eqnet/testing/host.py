"""What the contract asks of a runtime on this machine's CPU."""

from __future__ import annotations

from eqnet.backend.protocol import Exporter, host_limit
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.scheme import STORAGE_BITS


def for_this_cpu(exporter: Exporter, profile: HardwareProfile) -> HardwareProfile:
    """The profile, or `narrowed` where this CPU overflows sums of weights in 8 bits.

    What a runtime is expected to compute must not rest on one CPU.
    """
    limit = host_limit(exporter, profile)
    if limit is None or limit.exact:
        return profile
    return narrowed(profile)


def narrowed(profile: HardwareProfile) -> HardwareProfile:
    """The profile with weights in 7 bits of storage (`reduce_range`): exact on every CPU."""
    most = STORAGE_BITS - 1
    content = profile.model_dump(mode="json")
    content["weights"]["reduce_range"] = True
    content["bits"] = [[min(weights, most), read] for weights, read in profile.bits]
    for pin in content["pinned"]:
        if pin["bits"] != "remainder":
            pin["bits"] = min(pin["bits"], most)
    return HardwareProfile.model_validate(content)
