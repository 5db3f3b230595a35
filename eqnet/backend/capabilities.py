"""Whether a target can execute what a profile asks for; the part that all exporters share."""

from __future__ import annotations

from collections.abc import Iterable

from eqnet.backend.protocol import Capabilities
from eqnet.backend.refusals import Kind, Refusal
from eqnet.spec.hardware.profile import EngineRules, HardwareProfile

OPSET = 21  # of the neutral graph and so of every model.onnx; no exporter converts it


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
        ("opset", str(profile.opset), (str(OPSET),)),
        ("remainder", profile.remainder, can.remainders),
        *(("device", kind, can.devices) for kind in profile.device_kinds()),
    ]
    lines: list[str] = [
        Refusal(f"{key}: {found} (allowed: {', '.join(sorted(allowed))})", _kind(key, can))
        for key, found, allowed in demands
        if found not in allowed
    ]
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


def _kind(key: str, can: Capabilities) -> Kind:
    if key in can.in_float:
        return "float"
    return "slow" if key in can.slow else "impossible"


def _few_bits(profile: HardwareProfile, can: Capabilities) -> list[Refusal]:
    least = min(can.min_bits, profile.weights.storage_bits)
    weights, activations = (min(pair[side] for pair in profile.bits) for side in (0, 1))
    if weights >= least and activations >= can.min_bits:
        return []
    line = f"bits: {min(weights, activations)} (allowed: {can.min_bits} or more)"
    return [Refusal(line, _kind("bits", can))]


def _few_pinned_bits(profile: HardwareProfile, can: Capabilities) -> list[Refusal]:
    least = min(can.min_bits, profile.weights.storage_bits)
    return [
        Refusal(
            f"pinned.{pin.layers}: {pin.bits} bits (allowed: {least} or more, or 'remainder')",
            _kind("pinned", can),
            "pinned",
        )
        for pin in profile.pinned
        if isinstance(pin.bits, int) and pin.bits < least
    ]
