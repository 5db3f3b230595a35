"""The search space: integer genomes, and the subnets that they stand for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import groups_of
from eqnet.subnets.target import ACTIVATED, Target

Genome = tuple[int, ...]
STEM = "stem"
EXHAUSTIVE = 64
"""Spaces of at most so many subnets are tried whole."""


@dataclass(frozen=True)
class Space:
    """One gene for each free layer (which allowed pair of bits), then one for each op group
    that may be left in the remainder (0: quantized, 1: float; of "stem" the number of the cut,
    counted from 1, before which everything is float)."""

    target: Target
    supernet: str
    layers: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, target: Target, supernet: str) -> Space:
        """The space that a profile leaves open in a network."""
        present: list[str] = [*groups_of(target.info), "add"]
        if target.cuts():
            present.append(STEM)
        if any(layer.activated for layer in target.info.layers):
            present.append(ACTIVATED)
        groups = tuple(group for group in target.profile.search_groups if group in present)
        layers: list[str] = []
        if len(target.profile.bits) > 1:
            layers = target.free_layers()
        return cls(target, supernet, tuple(layers), groups)

    def choices(self) -> tuple[int, ...]:
        """How many values each gene has."""
        counts = [len(self.target.profile.bits)] * len(self.layers)
        for group in self.groups:
            if group == STEM:
                counts.append(1 + len(self.target.cuts()))
            else:
                counts.append(2)
        return tuple(counts)

    def size(self) -> int:
        """How many genomes there are."""
        return math.prod(self.choices())

    def all_genomes(self) -> Iterator[Genome]:
        """Every genome, the fully quantized ones first."""
        yield from itertools.product(*map(range, self.choices()))

    def uniform_genomes(self) -> list[Genome]:
        """For each allowed pair of bits, the genome that has it everywhere, all quantized."""
        zeros = (0,) * len(self.groups)
        if not self.layers:
            return [zeros]
        pairs = range(len(self.target.profile.bits))
        return [(index,) * len(self.layers) + zeros for index in pairs]

    def label(self, genome: Sequence[int]) -> str:
        """A short name: what is left in float, or "all quantized"."""
        floats, stem = self._floats(genome)
        parts = sorted(floats)
        if stem:
            parts.append(f"all before {stem}")
        if not parts:
            return "all quantized"
        return "float " + ", ".join(parts)

    def _floats(self, genome: Sequence[int]) -> tuple[frozenset[str], str | None]:
        """The op groups in float, and the first layer that is not of a float stem."""
        genes = dict(zip(self.groups, genome[len(self.layers) :], strict=True))
        cut = genes.pop(STEM, 0)
        stem = self.target.cuts()[cut - 1] if cut else None
        return frozenset(group for group, gene in genes.items() if gene), stem

    def subnet(self, genome: Sequence[int]) -> SubnetSpec:
        """The subnet of a genome."""
        bits = self.target.profile.bits
        pairs = dict.fromkeys(self.target.free_layers(), bits[0])
        for name, gene in zip(self.layers, genome[: len(self.layers)], strict=True):
            pairs[name] = bits[gene]
        floats, stem = self._floats(genome)
        return self.target.subnet(pairs, supernet=self.supernet, float_groups=floats, stem=stem)
