"""Whether a target can execute what a profile asks for; the part that all exporters share."""

from __future__ import annotations

from collections.abc import Iterable

from eqnet.backend.protocol import Capabilities
from eqnet.spec.profile import HardwareProfile

OPSET = 21  # of the neutral graph and so of every model.onnx; no exporter converts it


def capability_refusals(profile: HardwareProfile, can: Capabilities) -> list[str]:
    """One line, ``key: found (allowed: ...)``, for each demand outside the capabilities."""
    demands: list[tuple[str, str, Iterable[str]]] = [
        ("weights.granularity", profile.weights.granularity, can.weight_granularities),
        ("weights.symmetry", profile.weights.symmetry, can.weight_symmetries),
        ("activations.symmetry", profile.activations.symmetry, can.activation_symmetries),
        ("activations.storage", profile.activations.storage, can.storages),
        ("activations.zero_point", profile.activations.zero_point, can.zero_points),
        ("opset", str(profile.opset), (str(OPSET),)),
        ("remainder", profile.remainder, can.remainders),
    ]
    lines = [
        f"{key}: {found} (allowed: {', '.join(sorted(allowed))})"
        for key, found, allowed in demands
        if found not in allowed
    ]
    fewest = min(min(pair) for pair in profile.bits)
    if fewest < can.min_bits:
        lines.append(f"bits: {fewest} (allowed: {can.min_bits} or more)")
    lines += [
        f"pinned.{pin.layers}: {pin.bits} bits (allowed: {can.min_bits} or more, or 'remainder')"
        for pin in profile.pinned
        if isinstance(pin.bits, int) and pin.bits < can.min_bits
    ]
    return lines
