"""The bits of many subnets at once: `Space.subnet` for a matrix of genomes, without subnets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.hardware.profile import Placement
from eqnet.spec.network import TensorInfo
from eqnet.spec.scheme import BITS, CARRIER_BITS
from eqnet.spec.subnet import REMAINDER
from eqnet.stages.search.space import STEM, Space
from eqnet.subnets.stem import before
from eqnet.subnets.target import ACTIVATED, nearest, without_add

Bits = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]
WIDEST = BITS[-1]


class Widths(NamedTuple):
    """Bits of N subnets, int64; 0 is float.

    weights [N, L] of the layers, reads [N, R] of the tensors that layers read, carriers [N, T]
    of all tensors: as the fields of a subnet, in the network's order.
    """

    weights: Bits
    reads: Bits
    carriers: Bits


@dataclass(frozen=True)
class _Pairs:
    """The bits of a space's layers before tensors are shared: tables by layer.

    gene [L]: its column of the genome, or -1. fixed [L]: bits of a layer outside of the search.
    """

    weight: Bits
    read: Bits
    gene: Bits
    fixed: Bits
    free: Flags


@dataclass(frozen=True)
class _Tensors:
    """What stored bits and carriers depend on, of tensors [T]; matrices [L, T] name layers.

    halved: loses a bit in storage; shiftable: but not where all of `layers` are quantized.
    """

    halved: Flags
    shiftable: Flags
    layers: Floats
    float_read: Floats
    added_to: Floats
    made_by: Floats

    def stored(self, bits: Bits, quantized: Floats) -> Bits:
        """`PlacementStyle.stored_bits` of bits [N, T]."""
        whole = self.shiftable & (quantized @ self.layers == self.layers.sum(0))
        return np.where(self.halved & ~whole, np.maximum(BITS[0], bits - 1), bits)


class Choices:
    """A space, tabulated. `widths` equals the bits of `Space.subnet`, genome by genome."""

    def __init__(self, space: Space) -> None:
        self.space, info = space, space.target.info
        self.layers, self.tensors = info.layers, info.tensors
        self.read_tensors = info.read_tensors()
        self._pairs = _pairs(space)
        rows = {tensor.name: row for row, tensor in enumerate(self.read_tensors)}
        self.input_of = np.array([rows[layer.input] for layer in self.layers])
        self._read_places = [info.tensors.index(tensor) for tensor in self.read_tensors]
        self._facts = _facts(space)
        self._nearest_read, self._nearest_weight = _nearest(space)
        names = [layer.name for layer in self.layers]
        cuts = (None, *space.target.cuts())
        stems = [before(info, cut) for cut in cuts]
        self._stem_layers = np.array([[name in left for name in names] for left, _ in stems])
        self._stem_tensors = np.array(
            [[tensor.name in left for tensor in self.tensors] for _, left in stems]
        )
        self._members = {group: self._members_of(group) for group in space.groups if group != STEM}

    def _members_of(self, group: str) -> Flags:
        activated = group == ACTIVATED
        return np.array(
            [layer.group == group or (activated and layer.activated) for layer in self.layers]
        )

    def weight_bits(self, place: int) -> set[int]:
        """The bits that a layer's weights can have where they are not in float."""
        if self._pairs.free[place]:
            return {weight for weight, _ in self.space.target.profile.bits}
        return {int(self._pairs.fixed[place])} - {0}

    def widths(self, genomes: Bits) -> Widths:
        """The bits of genomes [N, G]."""
        widths = self.of_layers(genomes)
        quantized = (widths.weights > 0).astype(np.float32)
        return widths._replace(carriers=self._carriers(genomes, widths.reads, quantized))

    def of_layers(self, genomes: Bits) -> Widths:
        """The bits of genomes without their carriers, which no quantity depends on."""
        weights, reads = self._chosen(genomes)
        widest = self._widest(weights, reads)
        weights = self._weights(weights, widest)
        quantized = (weights > 0).astype(np.float32)
        all_tensors = np.zeros((len(genomes), len(self.tensors)), dtype=np.int64)
        all_tensors[:, self._read_places] = widest
        narrow = self._facts.stored(all_tensors, quantized)
        narrow = np.where(quantized @ self._facts.layers > 0, narrow, 0)
        return Widths(weights, narrow[:, self._read_places], np.zeros_like(narrow))

    def _gene(self, genomes: Bits, group: str) -> Bits:
        """The gene [N] of an op group; zeros where the search has none."""
        if group not in self.space.groups:
            return np.zeros(len(genomes), dtype=np.int64)
        return genomes[:, len(self.space.layers) + self.space.groups.index(group)]

    def _chosen(self, genomes: Bits) -> tuple[Bits, Bits]:
        """Bits of every layer's weights and of what it wants to read, [N, L] each; 0 in float."""
        pairs = self._pairs
        # The last column stands for layers without a gene, which have the first pair.
        padded = np.concatenate([genomes, np.zeros((len(genomes), 1), dtype=np.int64)], axis=1)
        picked = padded[:, pairs.gene]
        weights = np.where(pairs.free, pairs.weight[picked], pairs.fixed)
        reads = np.where(pairs.free, pairs.read[picked], pairs.fixed)
        left = self._stem_layers[self._gene(genomes, STEM)]
        for group, members in self._members.items():
            left = left | ((self._gene(genomes, group) > 0)[:, None] & members)
        left &= pairs.free
        return np.where(left, 0, weights), np.where(left, 0, reads)

    def _widest(self, weights: Bits, reads: Bits) -> Bits:
        """Bits [N, R] of each tensor: the widest that is asked for, if free layers may have it."""
        widest = np.zeros((len(weights), len(self.read_tensors)), dtype=np.int64)
        free = np.zeros(widest.shape, dtype=bool)
        for place, row in enumerate(self.input_of):
            widest[:, row] = np.maximum(widest[:, row], reads[:, place])
            if self._pairs.free[place]:
                free[:, row] |= weights[:, place] > 0
        return np.where(free, self._nearest_read[widest], widest)

    def _weights(self, weights: Bits, widest: Bits) -> Bits:
        follow = self._nearest_weight[weights, widest[:, self.input_of]]
        return np.where(self._pairs.free & (weights > 0), follow, weights)

    def _carriers(self, genomes: Bits, reads: Bits, quantized: Floats) -> Bits:
        placement = self.space.target.profile.placement
        narrow = np.zeros((len(genomes), len(self.tensors)), dtype=np.int64)
        narrow[:, self._read_places] = reads
        carriers = self._placed(placement, narrow, quantized)
        if "add" in self.space.groups:
            plain = self._placed(without_add(placement), narrow, quantized)
            carriers = np.where(self._gene(genomes, "add")[:, None] > 0, plain, carriers)
        left = self._stem_tensors[self._gene(genomes, STEM)]
        return np.where(left & (narrow == 0), 0, carriers)

    def _placed(self, placement: Placement, narrow: Bits, quantized: Floats) -> Bits:
        """Carriers [N, T] under a placement, whatever stem there is."""
        full = self._facts.stored(np.full(narrow.shape, CARRIER_BITS), quantized)
        carriers = np.where(self._wants(placement, quantized), full, 0)
        if placement.residual_bits != "float":
            readers = np.array([bool(tensor.readers) for tensor in self.tensors])
            same = narrow if placement.residual_bits == "same" else full
            carriers = np.where((narrow > 0) & readers, same, carriers)
        return carriers

    def _wants(self, placement: Placement, quantized: Floats) -> Flags:
        """`build._wants_carrier` of all tensors, [N, T]."""
        facts, tensors = self._facts, self.tensors
        groups = {*placement.carriers} - {"other"}
        always = [not groups.isdisjoint(tensor.readers) for tensor in tensors]
        wants = np.repeat(np.array([always]), len(quantized), axis=0)
        added = np.array(["add" in tensor.readers for tensor in tensors])
        if placement.add == "both":
            wants |= added
        if placement.add == "skip":
            skips = added & ~np.array([tensor.added_by_conv for tensor in tensors])
            anywhere = np.array([not tensor.added_to_convs for tensor in tensors])
            wants |= skips & (anywhere | (quantized @ facts.added_to > 0))
        if "other" in placement.carriers:
            wants |= quantized @ facts.float_read > 0
            floats = (facts.layers.sum(0) > 0) & (quantized @ facts.layers == 0)
            wants |= floats & (quantized @ facts.made_by > 0)
        return wants


def _pairs(space: Space) -> _Pairs:
    target, bits = space.target, space.target.profile.bits
    free_names = {*target.free_layers()}
    genes, fixed, free = [], [], []
    for layer in target.info.layers:
        pin = target.pinned.get(layer.name, REMAINDER)
        genes.append(space.layers.index(layer.name) if layer.name in space.layers else -1)
        fixed.append(0 if pin == REMAINDER else int(pin))
        free.append(layer.name in free_names)
    weight, read = (np.array([pair[side] for pair in bits]) for side in (0, 1))
    return _Pairs(weight, read, np.array(genes), np.array(fixed), np.array(free))


def _facts(space: Space) -> _Tensors:
    info, rules = space.target.info, space.target.profile.activations
    halves, shifts = rules.zero_point == "zero", rules.unsigned == "shifted"
    place = {layer.name: index for index, layer in enumerate(info.layers)}

    def named(of: Callable[[TensorInfo], Iterable[str | None]]) -> Floats:
        found = np.zeros((len(info.layers), len(info.tensors)), dtype=np.float32)
        for column, tensor in enumerate(info.tensors):
            for name in of(tensor):
                if name in place:
                    found[place[name], column] = 1
        return found

    return _Tensors(
        halved=np.array([halves and tensor.non_negative for tensor in info.tensors]),
        shiftable=np.array([shifts and tensor.shiftable for tensor in info.tensors]),
        layers=named(lambda tensor: tensor.layers),
        float_read=named(lambda tensor: [tensor.float_read_conv]),
        added_to=named(lambda tensor: tensor.added_to_convs),
        made_by=named(lambda tensor: tensor.made_by_convs),
    )


def _nearest(space: Space) -> tuple[Bits, Bits]:
    """Allowed bits nearest to those wanted: read [wanted], and weights [wanted, read]."""
    bits = space.target.profile.bits
    reads = _table(lambda wanted: nearest(wanted, {read for _, read in bits}))
    weights = np.zeros((WIDEST + 1, WIDEST + 1), dtype=np.int64)
    for read in {read for _, read in bits}:
        allowed = [weight for weight, other in bits if other == read]
        weights[:, read] = _table(lambda wanted, allowed=allowed: nearest(wanted, allowed))
    return reads, weights


def _table(function: Callable[..., Any]) -> Bits:
    return np.array([function(bits) for bits in range(WIDEST + 1)])
