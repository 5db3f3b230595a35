"""Choosing few combinations of factors so that every pair of values meets at least once."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

Combination = Mapping[str, Hashable]
ValuePair = tuple[tuple[str, Hashable], tuple[str, Hashable]]


def pairs_of(row: Combination) -> list[ValuePair]:
    """Every pair of (factor, value) in a row; factors in the row's own order."""
    return list(itertools.combinations(row.items(), 2))


def cover(rows: Sequence[Combination]) -> list[int]:
    """Indices of few `rows` that hold every pair of values which occurs in any of them.

    rows: the valid combinations, all over the same factors in the same order; a pair that no
    valid combination has is not asked for. Greedy: each step takes the first of the rows with
    the most pairs that are still missing, so the result is the same on every machine.
    """
    numbers: dict[ValuePair, int] = {}
    numbered = []
    for row in rows:
        numbered.append([numbers.setdefault(pair, len(numbers)) for pair in pairs_of(row)])
    if not numbers:
        return list(range(min(1, len(rows))))
    table = np.array(numbered)
    missing = np.ones(len(numbers), dtype=bool)
    chosen = []
    while missing.any():
        best = int(missing[table].sum(axis=1).argmax())
        missing[table[best]] = False
        chosen.append(best)
    return chosen
