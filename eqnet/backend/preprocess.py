"""From uint8 pixels to a network's input; one function, so that every caller agrees bit by bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.errors import UsageError
from eqnet.spec.manifest import Preprocessing


def preprocess(pixels: NDArray[np.uint8], rules: Preprocessing) -> NDArray[np.float32]:
    """``(pixels / 255 - mean) / std`` in float32, in this order of operations.

    pixels: uint8 [N, C, H, W]; returns float32 [N, C, H, W]. Every step rounds to float32, so
    the result does not depend on the machine. Raises UsageError on another shape or dtype.
    """
    channels = len(rules.mean)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != channels:
        raise UsageError(
            f"pixels are {pixels.dtype} {list(pixels.shape)} (allowed: uint8 [N, {channels}, H, W])"
        )
    mean = np.asarray(rules.mean, dtype=np.float32).reshape(1, channels, 1, 1)
    std = np.asarray(rules.std, dtype=np.float32).reshape(1, channels, 1, 1)
    scaled = pixels.astype(np.float32) / np.float32(255.0)
    result: NDArray[np.float32] = (scaled - mean) / std
    return result
