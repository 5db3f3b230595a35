"""Reading nodes for the integer form, and its numbers: multipliers and shifts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.lowbit.integer import MAX_SHIFT
from eqnet.spec.errors import EqnetError

MULTIPLIER_BITS = 31
INT32 = (-(1 << 31), (1 << 31) - 1)
ALLOWED = (
    "Conv, Gemm, Add, Concat, AveragePool, GlobalAveragePool, MaxPool, Flatten, Relu and Clip "
    "between quantizers"
)
ScaleArray = NDArray[np.float64]


class NotIntegerOnlyError(EqnetError):
    """A network with a part that has no integer-only form."""


def fixed_point(name: str, ratios: list[ScaleArray]) -> tuple[list[list[int]], list[int]]:
    """Multipliers and right shifts with ``multiplier / 2^shift = ratio``.

    The multiplier of the largest ratio has 31 bits, or as many as a shift of 62 leaves it: a
    ratio is right to half of ``2^-shift``, so that one below 2^-63 is 0.

    ratios: for each input of an op, positive float64 [1] or [channels]; the inputs share their
    shifts, of which each is as large as the largest of their ratios allows. Raises
    NotIntegerOnlyError for a ratio of 2^30 or more.
    """
    largest = np.max(np.broadcast_arrays(*ratios), axis=0)
    shift = np.minimum(MULTIPLIER_BITS - np.frexp(largest)[1], MAX_SHIFT)
    # A mantissa next to 1 would round up to 2^31, one bit too many.
    shift -= np.rint(np.ldexp(largest, shift)) > INT32[1]
    if (shift < 1).any() or not np.isfinite(largest).all():
        raise NotIntegerOnlyError(f"'{name}': its scale changes by 2^30 or more")
    multipliers = [np.rint(np.ldexp(ratio, shift)).astype(np.int64).tolist() for ratio in ratios]
    return multipliers, shift.tolist()


def ints(node: ir.Node, key: str, default: list[int]) -> list[int]:
    """An attribute of integers, or `default`."""
    return [int(value) for value in node.attributes.get_ints(key, default) or default]


def window(node: ir.Node, dims: int) -> dict[str, list[int]]:
    """Strides, pads and dilations of a Conv or pool. Raises NotIntegerOnlyError for others."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic != "NOTSET" or node.attributes.get_int("ceil_mode", 0) != 0:
        raise NotIntegerOnlyError(
            f"{node.op_type} '{node.name}': auto_pad and ceil_mode have no form"
        )
    options = {
        "strides": ints(node, "strides", [1] * dims),
        "pads": ints(node, "pads", [0] * 2 * dims),
        "dilations": ints(node, "dilations", [1] * dims),
    }
    if len(options["strides"]) != dims:
        raise refusal(node)
    return options


def is_plain(node: ir.Node) -> bool:
    """Whether a Gemm is ``x @ weight.T + bias``."""
    get = node.attributes
    flags = (get.get_int("transA", 0), get.get_int("transB", 0))
    factors = (get.get_float("alpha", 1.0), get.get_float("beta", 1.0))
    return flags == (0, 1) and factors == (1.0, 1.0)


def refusal(node: ir.Node) -> NotIntegerOnlyError:
    """What to raise for a node of another kind."""
    return NotIntegerOnlyError(
        f"{node.op_type} '{node.name}' has no integer form (allowed: {ALLOWED})"
    )


def largest_of(grid: dict[str, Any]) -> int:
    """How far a tensor's integers can be from their zero-point."""
    return int(max(grid["hi"] - grid["zero_point"], grid["zero_point"] - grid["lo"]))


def reach(grid: dict[str, Any]) -> float:
    """The largest magnitude of a tensor's real values."""
    return float(grid["scale"]) * largest_of(grid)


def flattens(node: ir.Node) -> bool:
    """Whether [N, ...] becomes [N, everything else]."""
    source, after = node.inputs[0], node.outputs[0].shape
    if source is None or source.shape is None or after is None or len(after) != 2:
        return False
    before = source.shape
    sizes = [*before[1:], after[1]]
    if not all(isinstance(size, int) for size in sizes):
        return False
    *inner, whole = (int(str(size)) for size in sizes)
    return math.prod(inner) == whole
