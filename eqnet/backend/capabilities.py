"""Whether a target can execute what a profile asks for; the part that all exporters share."""

from __future__ import annotations

from collections.abc import Iterable

from eqnet.backend.graph.operators import NEUTRAL_OPSET
from eqnet.backend.protocol import Capabilities
from eqnet.backend.refusals import Refusal, RefusalKind
from eqnet.spec.hardware.profile import EngineRules, HardwareProfile


def capability_refusals(profile: HardwareProfile, can: Capabilities) -> list[str]:
    """A `Refusal`, ``key: found (allowed: ...)``, for each demand outside the capabilities.

    7-bit weights are a full width where the profile leaves no more of the storage.
    """
    demands: list[tuple[str, str, Iterable[str]]] = [
        ("weights.granularity", profile.weights.granularity, can.weight_granularities),
        ("weights.symmetry", profile.weights.symmetry, can.weight_symmetries),
        ("activations.symmetry", profile.activations.symmetry, can.activation_symmetries),
        ("activations.storage", profile.activations.storage, can.storages),
        ("activations.zero_point", profile.activations.zero_point, can.zero_points),
        ("activations.unsigned", profile.activations.unsigned, can.unsigned),
        ("opset", str(profile.opset), (str(NEUTRAL_OPSET),)),
        ("remainder", profile.remainder, can.remainders),
    ]
    demands += [("device", kind, can.devices) for kind in profile.device_kinds()]
    lines = []
    for key, value, allowed in demands:
        if value not in allowed:
            line = f"{key}: {value} (allowed: {', '.join(sorted(allowed))})"
            lines.append(Refusal(line, _kind(key, can)))
    return [
        *lines,
        *_engines(profile, can),
        *_few_bits(profile, can),
        *_few_pinned_bits(profile, can),
    ]


def _engines(profile: HardwareProfile, can: Capabilities) -> list[Refusal]:
    keys = [key for key, value in EngineRules() if getattr(profile.engines, key) != value]
    if can.engines or not keys:
        return []
    return [Refusal(f"engines: {', '.join(keys)}, but no engine is built (allowed: no engines)")]


def _kind(key: str, can: Capabilities) -> RefusalKind:
    if key in can.in_float:
        return "float"
    if key in can.slow:
        return "slow"
    return "impossible"


def _few_bits(profile: HardwareProfile, can: Capabilities) -> list[Refusal]:
    least = min(can.min_bits, profile.weights.storage_bits)
    weights = min(weight for weight, _ in profile.bits)
    activations = min(activation for _, activation in profile.bits)
    if weights >= least and activations >= can.min_bits:
        return []
    line = f"bits: {min(weights, activations)} (allowed: {can.min_bits} or more)"
    return [Refusal(line, _kind("bits", can))]


def _few_pinned_bits(profile: HardwareProfile, can: Capabilities) -> list[Refusal]:
    least = min(can.min_bits, profile.weights.storage_bits)
    refusals = []
    for pin in profile.pinned:
        if isinstance(pin.bits, int) and pin.bits < least:
            allowed = f"(allowed: {least} or more, or 'remainder')"
            line = f"pinned.{pin.layers}: {pin.bits} bits {allowed}"
            refusals.append(Refusal(line, _kind("pinned", can), "pinned"))
    return refusals
