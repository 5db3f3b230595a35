"""The predictor's input of many subnets at once, from what `encode` says of single choices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.scheme import BITS
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.features import encode
from eqnet.stages.search.vector.choices import Bits, Choices, Widths

Features = NDArray[np.float32]
CHECKED = 24
"""Random subnets on which the tables are compared with `encode`."""


class _Place(NamedTuple):
    """Of one layer or tensor: the columns that its bits change, and by how much [bits, columns]."""

    columns: NDArray[np.intp]
    changes: Features


class Encoder(NamedTuple):
    """`encode` as a sum: of the float network's vector and of a change for each choice."""

    base: Features
    places: tuple[tuple[_Place, ...], ...]

    @classmethod
    def of(cls, choices: Choices) -> Encoder | None:
        """Ask `encode` about every single choice; None if its vectors are no such sums."""
        floats = choices.space.target.all_float(choices.space.supernet)
        base = encode(choices.space.target.info, floats)
        encoder = cls(base, tuple(_places(choices, floats, base)))
        return encoder if encoder._agrees(choices) else None

    def features(self, widths: Widths) -> Features:
        """Vectors float32 [N, D] of N subnets."""
        found = np.repeat(self.base[None], len(widths.weights), axis=0)
        for places, bits in zip(self.places, widths, strict=True):
            for place, column in zip(places, bits.T, strict=True):
                found[:, place.columns] += place.changes[column]
        return found

    def _agrees(self, choices: Choices) -> bool:
        space = choices.space
        random = np.random.default_rng(0).integers(
            0, space.choices(), (CHECKED, len(space.choices()))
        )
        genomes: Bits = np.concatenate([space.uniform_genomes(), random]).astype(np.int64)
        wanted = [encode(space.target.info, space.subnet(row.tolist())) for row in genomes]
        return np.allclose(self.features(choices.widths(genomes)), np.stack(wanted), atol=1e-6)


def _places(choices: Choices, floats: SubnetSpec, base: Features) -> Iterator[tuple[_Place, ...]]:
    fields = {
        "weights": [layer.name for layer in choices.layers],
        "activations": [tensor.name for tensor in choices.read_tensors],
        "carriers": [tensor.name for tensor in choices.tensors],
    }
    for field, names in fields.items():
        yield tuple(_place(choices, floats, base, field, name) for name in names)


def _place(choices: Choices, floats: SubnetSpec, base: Features, field: str, name: str) -> _Place:
    changes = np.zeros((BITS[-1] + 1, len(base)), dtype=np.float32)
    for bits in BITS:
        one = floats.model_copy(update={field: {**getattr(floats, field), name: bits}})
        changes[bits] = encode(choices.space.target.info, one) - base
    columns = np.flatnonzero(changes.any(0))
    return _Place(columns, changes[:, columns])
