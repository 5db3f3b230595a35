"""What a hardware profile leaves to choose in a network, and the subnet it begins from."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from eqnet.spec.errors import ProfileError, UsageError
from eqnet.spec.hardware.profile import HardwareProfile, Placement
from eqnet.spec.network import LayerInfo, NetworkInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec, WeightChoice
from eqnet.subnets.budgets import COST, no_uniform, quantities, within
from eqnet.subnets.build import PlacementStyle, build_spec
from eqnet.subnets.stem import before, stem_cuts

BitPair = tuple[int, int]
ACTIVATED = "activated"


@dataclass(frozen=True)
class Target:
    """A network under a profile: pinned layers, and allowed bits for the rest."""

    info: NetworkInfo
    profile: HardwareProfile
    pinned: dict[str, WeightChoice]

    @classmethod
    def of(cls, info: NetworkInfo, profile: HardwareProfile) -> Target:
        """Resolve the profile's pins. Raises ProfileError for a pattern that matches nothing."""
        pinned: dict[str, WeightChoice] = {}
        for rule in profile.pinned:
            names = _matching(info, rule.layers)
            if not names:
                some = ", ".join(info.layer_names()[:4])
                raise ProfileError(
                    f"profile '{profile.name}': pinned: '{rule.layers}' matches no layer "
                    f"(allowed: first, last, or a pattern over {some}, ...)"
                )
            pinned |= dict.fromkeys(names, rule.bits)
        return cls(info, profile, pinned)

    def free_layers(self) -> list[str]:
        """Layers whose bits the search may choose, in graph order."""
        names = []
        for layer in self.info.layers:
            if layer.name not in self.pinned and layer.group in self.profile.placement.quantize:
                names.append(layer.name)
        return names

    def subnet(
        self,
        pairs: Mapping[str, BitPair],
        *,
        supernet: str = "",
        float_groups: frozenset[str] = frozenset(),
        stem: str | None = None,
        float_layers: Collection[str] = (),
    ) -> SubnetSpec:
        """The subnet with (weight bits, activation bits) for each free layer.

        A tensor that several layers read takes the widest of their activation bits. Each free
        layer holds a pair of the profile even so: with the tensor's bits it takes the least
        allowed weight bits that are not below its own, or else the most that are allowed.
        float_groups: op groups (and "add") that are left in the remainder; "activated" are the
        layers whose output goes to a Swish, a sigmoid or their like. stem: the first
        layer, one of `cuts`, that is not: with the free layers before it everything is.
        float_layers: free layers that are, by name.
        """
        left = self.left_float(float_groups, stem)
        left |= set(float_layers).intersection(self.free_layers())
        chosen = {layer.name: self._choice(layer, left, pairs) for layer in self.info.layers}
        read = self._read_bits(chosen)
        weights = {}
        for layer in self.info.layers:
            wanted, _ = chosen[layer.name]
            weights[layer.name] = self._weight_bits(layer.name, wanted, read.get(layer.input))
        return build_spec(
            self.info,
            self._style(float_groups),
            self.profile.form(),
            weights,
            read,
            supernet=supernet,
            profile=self.profile,
            float_tensors=before(self.info, stem)[1],
        )

    def left_float(self, float_groups: frozenset[str], stem: str | None) -> set[str]:
        """The free layers that op groups and a stem, as of `subnet`, leave in the remainder."""
        left = set(before(self.info, stem)[0])
        for layer in self.info.layers:
            if layer.group in float_groups or (layer.activated and ACTIVATED in float_groups):
                left.add(layer.name)
        return left.intersection(self.free_layers())

    def cuts(self) -> tuple[str, ...]:
        """Layers before which a leading part of the network may be left in the remainder."""
        return stem_cuts(self.info)

    def _choice(
        self, layer: LayerInfo, left: set[str], pairs: Mapping[str, BitPair]
    ) -> tuple[WeightChoice, int]:
        """Bits of a layer's weights and of what it reads. left: the layers that stay in float."""
        if layer.name in self.pinned:
            bits = self.pinned[layer.name]
            if bits == REMAINDER:
                return REMAINDER, 0
            return bits, int(bits)
        if layer.name in left or layer.group not in self.profile.placement.quantize:
            return REMAINDER, 0
        return pairs[layer.name]

    def _read_bits(self, chosen: Mapping[str, tuple[WeightChoice, int]]) -> dict[str, int]:
        """Bits of each tensor that a quantized layer reads: a width that all free ones can have.

        A pin may ask for a width that no allowed pair has. The target reads none such in a free
        layer, while a pinned layer can read any, so the allowed widths decide.
        """
        widest: dict[str, int] = {}
        free: set[str] = set()
        for layer in self.info.layers:
            weight, activation = chosen[layer.name]
            if weight != REMAINDER:
                widest[layer.input] = max(widest.get(layer.input, 0), activation)
                if layer.name not in self.pinned:
                    free.add(layer.input)
        allowed = {activation for _, activation in self.profile.bits}
        for tensor in free:
            widest[tensor] = nearest(widest[tensor], allowed)
        return widest

    def _weight_bits(self, name: str, wanted: WeightChoice, read: int | None) -> WeightChoice:
        """The weight bits nearest to those wanted that a free layer may have with `read` bits."""
        if name in self.pinned or wanted == REMAINDER:
            return wanted
        allowed = [weight for weight, activation in self.profile.bits if activation == read]
        return nearest(int(wanted), allowed)

    def _style(self, float_groups: frozenset[str]) -> PlacementStyle:
        style = PlacementStyle.of(self.profile)
        if "add" not in float_groups:
            return style
        return replace(style, placement=without_add(style.placement))

    def uniform(self, pair: BitPair, *, supernet: str = "") -> SubnetSpec:
        """The subnet with one pair everywhere that is free."""
        return self.subnet(dict.fromkeys(self.free_layers(), pair), supernet=supernet)

    def all_float(self, supernet: str) -> SubnetSpec:
        """The network with nothing quantized: what is left where integers do not pay, and what
        budgets of the form 0.5x are taken of. Pins do not hold."""
        return build_spec(
            self.info,
            self._style(frozenset()),
            self.profile.form(),
            dict.fromkeys(self.info.layer_names(), REMAINDER),
            {},
            supernet=supernet,
            profile=self.profile,
            float_tensors=frozenset(tensor.name for tensor in self.info.tensors),
        )

    def default(self, supernet: str) -> SubnetSpec:
        """Where nothing was searched: the widest uniform pair within the profile's budgets.

        Raises InfeasibleError where no uniform subnet meets them, and UsageError for a budget
        of cost, which only a search computes or measures.
        """
        budgets = self.profile.budgets
        if COST in budgets:
            raise UsageError(
                f"profile '{self.profile.name}': budgets: {COST}={budgets[COST]:g}: what a subnet "
                "costs is known from a search (allowed: `eqnet search` with this profile first)"
            )
        tried = []
        for pair in sorted(self.profile.bits, key=lambda pair: (sum(pair), pair), reverse=True):
            spec = self.uniform(pair, supernet=supernet)
            tried.append(quantities(self.info, self.profile, spec))
            if within(self.profile, tried[-1]):
                return spec
        raise no_uniform(self.profile, tried)


def without_add(placement: Placement) -> Placement:
    """The placement of a network whose sums are left in float."""
    carriers = tuple(group for group in placement.carriers if group != "add")
    return placement.model_copy(
        update={"add": "none", "residual_bits": "float", "carriers": carriers}
    )


def nearest(wanted: int, allowed: Iterable[int]) -> int:
    """The least of the allowed that is not below `wanted`, or else the greatest."""
    ordered = sorted(allowed)
    for bits in ordered:
        if bits >= wanted:
            return bits
    return ordered[-1]


def _matching(info: NetworkInfo, pattern: str) -> list[str]:
    names = info.layer_names()
    if pattern == "first":
        return names[:1]
    if pattern == "last":
        return names[-1:]
    return fnmatch.filter(names, pattern)
