"""From how far a subnet is from the float network to the accuracy that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOPE = 1e-4
"""Accuracy lost at least for each factor e of KL, so that no two subnets are alike."""
TINY = 1e-9
"""KL in nats that counts as none."""
KNOTS = 32

Values = NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyOfKl:
    """A monotone map through measured subnets.

    logs: logarithms of KL in nats, ascending, [K]. accuracies: in [0, 1], never rising, [K].
    """

    logs: Values
    accuracies: Values

    @classmethod
    def fit(cls, logs: Values, accuracies: Values) -> AccuracyOfKl:
        """Through subnets with these logarithms of KL and measured accuracies, both [N]."""
        order = np.argsort(logs, kind="stable")
        ascending, falling = logs[order], never_rising(accuracies[order])
        places = np.unique(np.linspace(0, len(order) - 1, KNOTS).round().astype(int))
        return cls(ascending[places], falling[places])

    def of(self, logs: Values) -> NDArray[np.float32]:
        """Accuracies float32 [N] of logarithms of KL [N]."""
        found = np.interp(logs, self.logs, self.accuracies) - SLOPE * (logs - np.log(TINY))
        accuracies: NDArray[np.float32] = np.clip(found, 0.0, 1.0).astype(np.float32)
        return accuracies


def never_rising(values: Values) -> Values:
    """The nearest values, in squares, that do not rise: neighbours that do are averaged."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, count = float(value), 1
        while blocks and total / count > blocks[-1][0] / blocks[-1][1]:
            more, others = blocks.pop()
            total, count = total + more, count + others
        blocks.append((total, count))
    return np.concatenate([np.full(count, total / count) for total, count in blocks])
