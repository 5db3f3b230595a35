"""Budgets as people give them: with units, or as a share of what the float network has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from eqnet.spec.errors import UsageError, unknown
from eqnet.spec.hardware.profile import BUDGETS, HardwareProfile
from eqnet.subnets.budgets import COST

SIZE, LATENCY, BITOPS = "size_kib", "latency", "bitops"
SPELLINGS = {"size": SIZE}
NAMES = (*BUDGETS, *SPELLINGS, LATENCY)
KIB = {
    "b": 1 / 1024,
    "kb": 1000 / 1024,
    "kib": 1.0,
    "mb": 1e6 / 1024,
    "mib": 1024.0,
    "gb": 1e9 / 1024,
    "gib": 1024.0**2,
}
BILLIONS = {"": 1.0, "m": 1e-3, "g": 1.0, "t": 1e3}
EXAMPLES = {
    SIZE: "a number of KiB, 300KB, 300KiB, 1.2MB or 0.1x",
    "size": "a number with its unit, such as 300KB, 300KiB or 1.2MB, or 0.1x",
    BITOPS: "a number of 10^9 bit-operations, 800M, 1.2G or 0.1x",
    LATENCY: "a number above 0 in the unit of the profile's cost, 2.5ms, or 0.5x",
}


class Limit(NamedTuple):
    """An upper bound that its profile has to make a number of.

    x: that many times what the float network has. ms: milliseconds.
    """

    value: float
    unit: Literal["x", "ms"]

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"


Budget = float | Limit


def parse_limit(name: str, text: str) -> tuple[str, Budget]:
    """`size` and `300KB` as the budget's own name and its bound. Raises UsageError.

    Bounds are in the budget's unit: KiB of weights, 10^9 bit-operations, bits, or that of the
    profile's cost. ``0.5x`` is half of what the float network has.
    """
    if name not in NAMES:
        raise UsageError(f"--budget: {unknown('budget', name, NAMES)}")
    match = re.fullmatch(r"([0-9.]+(?:e[+-]?\d+)?)\s*([a-z]*)", text.strip().lower())
    value = _number(match[1]) if match is not None else None
    unit = match[2] if match is not None else ""
    if value is None or not 0 < value < float("inf"):
        raise _refused(name, text)
    own = SPELLINGS.get(name, name)
    if unit == "x":
        return own, Limit(value, "x")
    if own == LATENCY and unit == "ms":
        return own, Limit(value, "ms")
    scale = _scales(name).get(unit)
    if scale is None:
        raise _refused(name, text)
    return own, value * scale


def _scales(name: str) -> Mapping[str, float]:
    if name == SIZE:
        return KIB | {"": 1.0}
    if name in SPELLINGS:
        return KIB
    return BILLIONS if name == BITOPS else {"": 1.0}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _refused(name: str, text: str) -> UsageError:
    allowed = EXAMPLES.get(name, f"a number above 0, such as {name}=4, or 0.5x")
    return UsageError(f"--budget: {name}: found '{text}' (allowed: {allowed})")


def named(
    budgets: Mapping[str, float | str | Limit], profile: HardwareProfile
) -> dict[str, Budget]:
    """Budgets by their own names, `latency` as the profile's cost. Raises UsageError.

    So it does where the profile's cost is no time, and where two names mean one budget.
    """
    found: dict[str, Budget] = {}
    for given, value in budgets.items():
        name, limit = parse_limit(given, str(value))
        unit = profile.cost.unit
        if name == LATENCY:
            if not is_time(unit):
                raise UsageError(
                    f"budget latency={value}: the cost of profile '{profile.name}' is in {unit} "
                    f"(allowed: cost={value}, or a profile whose cost is a time)"
                )
            name = COST
        if isinstance(limit, Limit) and limit.unit == "ms":
            if not unit.startswith("ms"):
                raise UsageError(
                    f"budget latency={limit}: the cost of profile '{profile.name}' is in {unit} "
                    "(allowed: latency=NUMBER in that unit, or a share such as 0.5x)"
                )
            limit = limit.value
        if name in found:
            raise UsageError(f"budget {given}: {name} is given twice (allowed: once)")
        found[name] = limit
    return found


def is_time(unit: str) -> bool:
    """Whether a cost's unit is one of time: milliseconds, or cycles."""
    return unit.startswith("ms") or unit.endswith("cycles")


def resolved(budgets: Mapping[str, Budget], of_float: Callable[[str], float]) -> dict[str, float]:
    """Bounds as numbers; `of_float` says what the float network has of a quantity."""
    found = {}
    for name, limit in budgets.items():
        found[name] = limit.value * of_float(name) if isinstance(limit, Limit) else limit
    return found
