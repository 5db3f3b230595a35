"""Agreement of two rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]


def kendall_tau(a: Values, b: Values) -> float:
    """Kendall's tau-b of two samples [N] in [-1, 1] (Kendall, 1945), ties accounted for.

    0 where all of one are equal.
    """
    upper = np.triu_indices(len(a), 1)
    sign_a = np.sign(a[:, None] - a[None, :])[upper]
    sign_b = np.sign(b[:, None] - b[None, :])[upper]
    pairs = np.sqrt(float((sign_a != 0).sum()) * float((sign_b != 0).sum()))
    if pairs == 0:
        return 0.0
    return float((sign_a * sign_b).sum() / pairs)
