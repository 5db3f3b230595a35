"""Integer arithmetic of ``integer.json`` programs: numpy integers in, numpy integers out.

Tensors are int32 [N, C, H, W] or [N, K]. Sums are int32, which the exporter has proved wide
enough; only the product with a multiplier is int64. No function here sees a float.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Wide = NDArray[np.int64]

# Elements of one block of unfolded windows: 16 MiB of int32.
BLOCK = 1 << 22


def require_integers(array: NDArray[np.generic], what: str) -> None:
    """Raise TypeError unless `array` holds integers: the promise of an integer-only program."""
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{what} is {array.dtype}, not integer")


def round_shift(values: Wide, shift: Wide) -> Wide:
    """``values / 2^shift``, rounded half to even, for shifts of at least 1."""
    floor = values >> shift
    rest = values - (floor << shift)
    half = np.int64(1) << (shift - 1)
    up = (rest > half) | ((rest == half) & (floor & 1 == 1))
    result: Wide = floor + up
    return result


def rescale(terms: list[tuple[Ints, Wide]], shift: Wide, zero: int, lo: int, hi: int) -> Ints:
    """``clamp(round(sum(term * multiplier) / 2^shift) + zero, lo, hi)``.

    multiplier and shift: int64 [1], or one for each channel (axis 1 of the terms).
    """
    total: Wide | None = None
    for term, multiplier in terms:
        product = term.astype(np.int64) * _channels(multiplier, term.ndim)
        total = product if total is None else total + product
    assert total is not None
    result = round_shift(total, _channels(shift, total.ndim)) + zero
    return np.clip(result, lo, hi).astype(np.int32)


def _channels(vector: Wide, dims: int) -> Wide:
    return vector.reshape(1, -1, *[1] * (dims - 2))


def windows(
    x: Ints,
    kernel: tuple[int, ...],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    fill: int,
) -> Ints:
    """Every window of x [N, C, H, W] as a view [N, C, H', W', kh, kw]; pads: top, left, bottom,
    right, filled with `fill`. Raises ValueError where no window fits."""
    top, left, bottom, right = pads
    padded = np.pad(
        x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=np.int32(fill)
    )
    reach = [dilations[i] * (kernel[i] - 1) + 1 for i in range(2)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def convolution(
    x: Ints, weight: Ints, strides: list[int], pads: list[int], dilations: list[int], group: int
) -> Ints:
    """Sums int32 [N, O, H', W'] of x [N, C, H, W] with weight [O, C/group, kh, kw].

    Both without their zero-points, so that padding is 0.
    """
    outputs, inner, *kernel = weight.shape
    if x.shape[1] != inner * group or outputs % group:
        raise ValueError(f"{x.shape[1]} channels for a weight {list(weight.shape)} in {group}")
    view = windows(x, tuple(kernel), strides, pads, dilations, 0)
    images, _, height, width = view.shape[:4]
    result = np.empty((images, outputs, height, width), dtype=np.int32)
    size = inner * kernel[0] * kernel[1]
    step = max(1, BLOCK // (size * height * width))
    for start in range(0, images, step):
        for index in range(group):
            block = view[start : start + step, index * inner : (index + 1) * inner]
            columns = block.transpose(0, 2, 3, 1, 4, 5).reshape(-1, size)
            channels = slice(index * outputs // group, (index + 1) * outputs // group)
            sums = np.einsum("ok,pk->op", weight[channels].reshape(-1, size), columns)
            grid = sums.reshape(-1, len(block), height, width)
            result[start : start + step, channels] = grid.transpose(1, 0, 2, 3)
    return result


def dense(x: Ints, weight: Ints) -> Ints:
    """Sums int32 [N, O] of x [N, K] with weight [O, K], both without their zero-points."""
    if x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"{list(x.shape)} for a weight {list(weight.shape)}")
    result: Ints = np.einsum("ok,pk->po", weight, x)
    return result
