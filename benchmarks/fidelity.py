"""How near logits are to the float network's: agreement of top-1, and signal-to-noise in dB.

Crops of one photograph are alike, so intervals draw photographs again, not crops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Interval = tuple[float, float]
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
EQUAL = 1e20  # ratio at which logits count as equal: 200 dB


@dataclass(frozen=True)
class Fidelity:
    """Agreement in [0, 1] and signal-to-noise in dB, each with its 95% bootstrap interval."""

    agreement: float
    agreement_interval: Interval
    snr: float
    snr_interval: Interval


def fidelity(logits: Logits, reference: Logits, groups: NDArray[np.int64]) -> Fidelity:
    """Compare logits [N, K] with those of the float network; groups: int64 [N], the photographs.

    Signal-to-noise is 10 log10 of the float logits' sum of squares over that of the differences.
    A row that is not finite agrees with none, and is all noise.
    """
    finite = np.asarray(np.isfinite(logits).all(1))
    same = (logits.argmax(1) == reference.argmax(1)) & finite
    truth = reference.astype(np.float64)
    signal = np.square(truth).sum(1)
    noise = np.where(finite, np.square(truth - np.where(finite[:, None], logits, 0)).sum(1), signal)
    sums = _by_group(np.stack([same, np.ones(len(same)), signal, noise], 1), groups)
    count = len(sums)
    picks = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    drawn = sums[picks].sum(1)
    whole = sums.sum(0)
    return Fidelity(
        float(whole[0] / whole[1]),
        _middle(drawn[:, 0] / drawn[:, 1]),
        float(_decibels(whole[2], whole[3])),
        _middle(_decibels(drawn[:, 2], drawn[:, 3])),
    )


def paired_drop(right: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, Interval]:
    """Points of accuracy that are lost against a reference on the same images, with an interval."""
    difference = 100 * (reference.astype(np.float64) - right)
    # An image is lost, won or neither, so a resample is a draw of how often each comes up.
    shares = [float(np.mean(difference == value)) for value in (100, -100, 0)]
    draws = np.random.default_rng(0).multinomial(len(right), shares, RESAMPLES)
    return float(difference.mean()), _middle(100 * (draws[:, 0] - draws[:, 1]) / len(right))


def _by_group(columns: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the rows of each group."""
    return np.stack([columns[groups == group].sum(0) for group in np.unique(groups)])


def _decibels(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    decibels: NDArray[np.float64] = 10 * np.log10(signal / np.maximum(noise, signal / EQUAL))
    return decibels


def _middle(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)
