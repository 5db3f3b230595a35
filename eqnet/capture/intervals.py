"""Rules of interval arithmetic: which values an operation can give, from those that it gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import fx, nn

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
POSITIVE: Bounds = (0.0, math.inf)
UNIT: Bounds = (0.0, 1.0)
# Modes of resizing that give nothing outside of what they get.
KEEPING_MODES = ("nearest", "nearest-exact", "bilinear", "area")


class Call(NamedTuple):
    """One call of an operation: what its rule may look at.

    module: what the node calls, if it is a module. arguments: those of the call, by name; a
    node's stays a node. operands: the bounds of the tensors among them, in order. of: the bounds
    of one argument.
    """

    module: nn.Module | None
    arguments: Mapping[str, Any]
    operands: tuple[Bounds, ...]
    of: Callable[[Any], Bounds]

    @property
    def hull(self) -> Bounds:
        """The least interval that holds all tensors that go in."""
        lows, highs = zip(*self.operands, strict=True)
        return min(lows), max(highs)


Rule = Callable[[Call], Bounds]


def anything(call: Call) -> Bounds:
    """Of an operation that nothing is known of."""
    return ANY


def kept(call: Call) -> Bounds:
    """Nothing outside of what goes in: values are moved, chosen or averaged."""
    return call.hull if call.operands else ANY


def always(low: float, high: float) -> Rule:
    """These bounds, whatever goes in."""
    return lambda call: (low, high)


def bent(least: float) -> Rule:
    """A function that keeps signs but for a dip down to `least`, and grows nowhere above x."""

    def rule(call: Call) -> Bounds:
        low, high = kept(call)
        if low < 0:
            return max(least, low), max(high, 0.0)
        return 0.0, max(high, 0.0)

    return rule


def rectified(call: Call) -> Bounds:
    """ReLU."""
    low, high = kept(call)
    return max(low, 0.0), max(high, 0.0)


def clipped(lowest: str, highest: str, default: Bounds = ANY) -> Rule:
    """Clipped to two arguments (or fields of the module) of these names."""

    def rule(call: Call) -> Bounds:
        limits = []
        for name, usual in zip((lowest, highest), default, strict=True):
            limit = getattr(call.module, name, call.arguments.get(name))
            if isinstance(limit, fx.Node):
                return ANY
            if limit is None:
                limit = usual
            limits.append(float(limit))
        low, high = kept(call)
        return min(max(low, limits[0]), limits[1]), max(min(high, limits[1]), limits[0])

    return rule


def absolute(call: Call) -> Bounds:
    """The magnitude."""
    low, high = kept(call)
    return max(0.0, low, -high), max(abs(low), abs(high))


def power(call: Call) -> Bounds:
    """Even powers are not negative."""
    return POSITIVE if call.arguments.get("exponent") in (2, 2.0, 4, 4.0) else ANY


def padded(call: Call) -> Bounds:
    """A padding brings in its constant, which is 0 where it repeats values."""
    value = getattr(call.module, "value", call.arguments.get("value"))
    if isinstance(value, fx.Node):
        return ANY
    low, high = kept(call)
    return min(low, float(value or 0.0)), max(high, float(value or 0.0))


def resized(call: Call) -> Bounds:
    """Some modes of interpolation overshoot."""
    mode = getattr(call.module, "mode", call.arguments.get("mode", "nearest"))
    return kept(call) if mode in KEEPING_MODES else ANY


def total(call: Call) -> Bounds:
    """A sum over axes keeps a sign that all values have."""
    return POSITIVE if kept(call)[0] >= 0 else ANY


def _binary(of: Callable[[Bounds, Bounds], Bounds]) -> Rule:
    """A rule of two operands, each a tensor or a number."""

    def rule(call: Call) -> Bounds:
        if set(call.arguments) != {"input", "other"}:
            return ANY  # such as `alpha`, or a rounding
        return of(call.of(call.arguments["input"]), call.of(call.arguments["other"]))

    return rule


def _sum(first: Bounds, second: Bounds) -> Bounds:
    return first[0] + second[0], first[1] + second[1]


def _difference(first: Bounds, second: Bounds) -> Bounds:
    return first[0] - second[1], first[1] - second[0]


def _product(first: Bounds, second: Bounds) -> Bounds:
    if min(first[0], second[0]) < 0:
        return ANY
    low, high = 0.0, math.inf
    if math.inf not in (first[0], second[0]):
        low = first[0] * second[0]
    if first[1] and second[1]:
        high = first[1] * second[1]
    return low, high


def _quotient(first: Bounds, second: Bounds) -> Bounds:
    return POSITIVE if first[0] >= 0 and second[0] >= 0 else ANY


added = _binary(_sum)
subtracted = _binary(_difference)
multiplied = _binary(_product)
divided = _binary(_quotient)
