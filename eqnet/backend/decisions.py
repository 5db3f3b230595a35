"""What a classifier decides, from its logits: the one rule that every stage goes by."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def decide(logits: ArrayLike) -> NDArray[np.int64]:
    """The class of each row of logits [N, K], int64 [N].

    The largest logit decides. A single logit, as trained with a sigmoid, decides by its sign:
    class 1 above 0, else class 0.
    """
    values = np.asarray(logits)
    if values.shape[1] == 1:
        return (values[:, 0] > 0).astype(np.int64)
    best: NDArray[np.int64] = values.argmax(axis=1).astype(np.int64)
    return best


def margins(logits: ArrayLike) -> NDArray[np.floating]:
    """How far each row of logits [N, K] is from another decision, [N], in units of the logits.

    The distance of the two best; of a single logit, that from 0.
    """
    values = np.asarray(logits)
    if values.shape[1] == 1:
        size: NDArray[np.floating] = np.abs(values[:, 0])
        return size
    ordered = np.sort(values, axis=1)
    distance: NDArray[np.floating] = ordered[:, -1] - ordered[:, -2]
    return distance


def classes_of(width: int) -> int:
    """How many classes logits of that width tell apart: one logit tells two."""
    return 2 if width == 1 else width
