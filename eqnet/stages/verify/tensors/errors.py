"""How far a tensor of a runtime is from the reference's, and how far rounding may take it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.protocol import Array

# A value on a rounding tie comes out one step apart. In situ the runtimes here did that to 7 of
# 100,000 values at most; a wrong constant or a low precision moves far more of them, or farther.
ROUNDED_STEPS, ROUNDED_SHARE, ROUNDED_VALUES = 1.25, 0.005, 4
OTHER_INTEGER = 0.5
# Logits are not rounded: sums of floats in another order differ by some 1e-4 of a step.
LOGIT_STEPS = 0.25
# Of a part whose floats are bfloat16 or float16, whose terms may cancel, or with a quantizer inside
# that cannot be seen, of which a tie moves what the layers behind it give.
COARSE_STEPS, COARSE_RELATIVE = 4.0, 2.0**-6


@dataclass(frozen=True)
class Tolerance:
    """What rounding explains.

    steps, relative: a value may be off by `steps + relative * |value|`, in quantization steps.
    share: of values that may be another integer at all; None: all of them.
    """

    steps: float
    relative: float = 0.0
    share: float | None = None

    @classmethod
    def of(cls, *, logits: bool, coarse: bool) -> Tolerance:
        """For a quantized tensor or the logits. coarse: its part rounds otherwise than at its end,
        as floats of 16 bits do."""
        if coarse:
            return cls(COARSE_STEPS, COARSE_RELATIVE)
        return cls(LOGIT_STEPS) if logits else cls(ROUNDED_STEPS, share=ROUNDED_SHARE)


@dataclass
class Errors:
    """Errors of one tensor, summed up batch by batch, in quantization steps of the reference."""

    tolerance: Tolerance
    values: int = 0
    square: float = 0.0
    worst: float = 0.0
    added: float = 0.0
    changed: int = 0
    too_far: bool = False

    def add(self, found: Array, whole: Array, expected: Array) -> None:
        """Count the values of a batch, all in steps and of one shape.

        found: the runtime's. whole: the reference's on the same images. expected: what the
        reference makes of the runtime's tensors before this one.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(found.astype(np.float64) - whole)
            added = np.abs(found.astype(np.float64) - expected)
            allowed = self.tolerance.steps + self.tolerance.relative * np.abs(expected)
        self.values += found.size
        self.square += float(np.square(error).sum())
        self.worst = _larger(self.worst, error)
        self.added = _larger(self.added, added)
        self.changed += int(np.count_nonzero(~(added <= OTHER_INTEGER)))
        self.too_far = self.too_far or bool((~(added <= allowed)).any())

    @property
    def beyond(self) -> bool:
        """Whether rounding does not explain what was added."""
        share = self.tolerance.share
        if self.too_far or share is None:
            return self.too_far
        return self.changed > max(ROUNDED_VALUES, share * self.values)

    @property
    def rms(self) -> float:
        """Root mean square of the error against the whole reference."""
        return math.sqrt(self.square / self.values) if self.values else 0.0


def _larger(so_far: float, errors: NDArray[np.float64]) -> float:
    """NaN stays: it is the largest error that there is."""
    return float(np.maximum(so_far, errors.max(initial=0.0)))
