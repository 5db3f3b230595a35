"""The budgeted quantities of a subnet that need no cost model, and what budgets they meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from eqnet.spec.errors import InfeasibleError
from eqnet.spec.hardware.costs import REMAINDER_BITS, size_kib
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.network import NetworkInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec

ROUNDING = 1e-9
COST = "cost"


def quantities(info: NetworkInfo, profile: HardwareProfile, spec: SubnetSpec) -> dict[str, float]:
    """The value of each budget but ``cost``, by its name."""
    return {
        "avg_weight_bits": spec.avg_weight_bits,
        "avg_activation_bits": spec.avg_activation_bits,
        "size_kib": size_kib(info, spec, REMAINDER_BITS[profile.remainder]),
        "bitops": bitops(info, spec, REMAINDER_BITS[profile.remainder]),
    }


def bitops(info: NetworkInfo, spec: SubnetSpec, wide: int) -> float:
    """10^9 bit-operations: multiply-adds x weight bits x input bits; `wide` bits where float."""
    total = 0
    for layer in info.layers:
        weight = spec.weights[layer.name]
        if weight == REMAINDER:
            total += layer.macs * wide * wide
        else:
            total += layer.macs * int(weight) * spec.activations[layer.input]
    return total / 1e9


def within(profile: HardwareProfile, values: Mapping[str, float]) -> bool:
    """Whether the quantities meet every budget of the profile but ``cost``."""
    limits = profile.budgets.items()
    return all(values[name] <= limit * (1 + ROUNDING) for name, limit in limits if name != COST)


def require(profile: HardwareProfile, name: str, limit: float, least: float) -> None:
    """Raise InfeasibleError, in one line, for a budget below the least reachable value."""
    if least > limit * (1 + ROUNDING):
        raise InfeasibleError(
            f"budget {name}={limit:g}: no subnet of profile '{profile.name}' "
            f"reaches it (nearest reachable: {least:.4g})"
        )


def no_uniform(profile: HardwareProfile, uniform: Sequence[Mapping[str, float]]) -> InfeasibleError:
    """Why none of the uniform subnets with these quantities is within the profile's budgets."""
    for name, limit in profile.budgets.items():
        if name != COST:
            require(profile, name, limit, min(values[name] for values in uniform))
    limits = ", ".join(f"{name}={limit:g}" for name, limit in profile.budgets.items())
    return InfeasibleError(
        f"budgets {limits}: no subnet of profile '{profile.name}' with one pair of bits "
        "throughout meets all (allowed: budgets that one meets, or a subnet of `eqnet search`)"
    )


def weight_bytes(info: NetworkInfo, spec: SubnetSpec, profile: HardwareProfile) -> int:
    """Bits of all weights and of one 32-bit bias for each channel, in bytes."""
    bits = 0
    for layer in info.layers:
        width = spec.weights[layer.name]
        if width == REMAINDER:
            width = REMAINDER_BITS[profile.remainder]
        bits += layer.weights * int(width) + layer.out_channels * 32
    return math.ceil(bits / 8)
