"""The subnet that is explained, and how it becomes another one by pins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eqnet.spec.errors import CheckpointError
from eqnet.spec.hardware.profile import HardwareProfile, PinnedLayer
from eqnet.spec.network import NetworkInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec, load_subnet
from eqnet.subnets.budgets import quantities, within
from eqnet.subnets.build import PlacementStyle
from eqnet.subnets.target import BitPair, Target
from eqnet.supernet.session import Session

Pin = int | Literal["remainder"]


@dataclass(frozen=True)
class Subject:
    """A network under a profile with its pins, and the pair of bits of each free layer.

    given: the subnet's own file, as long as no pin was added.
    """

    info: NetworkInfo
    supernet: str
    profile: HardwareProfile
    pairs: Mapping[str, BitPair]
    given: SubnetSpec | None = None

    @classmethod
    def of(cls, session: Session, profile: HardwareProfile, subnet: Path | None) -> Subject:
        """The profile's default subnet, or that of a file.

        Raises CheckpointError for a file of another supernet or profile, and what
        `Target.default` raises where there is no default.
        """
        info, identity = session.supernet.info, session.identity
        target = Target.of(info, profile)
        if subnet is None:
            default = target.default(identity)
            return cls(info, identity, profile, _pairs(target, default))
        spec = load_subnet(subnet)
        if spec.supernet != identity or spec.profile_sha256 != profile.sha256():
            raise CheckpointError(
                f"{subnet}: of another supernet or profile (allowed: one of this supernet, "
                f"{identity[:12]}, searched under '{profile.name}' as it is now)"
            )
        left = [
            layer.name
            for layer in info.layers
            if spec.weights[layer.name] == REMAINDER and layer.name in target.free_layers()
        ]
        subject = cls(info, identity, profile, _pairs(target, spec), spec)
        return replace(subject.pinned(left, REMAINDER), given=spec) if left else subject

    def spec(self) -> SubnetSpec:
        """The subnet."""
        if self.given is not None:
            return self.given
        target = Target.of(self.info, self.profile)
        free = {name: self.pairs[name] for name in target.free_layers()}
        return target.subnet(free, supernet=self.supernet)

    def pinned(self, layers: list[str] | tuple[str, ...], bits: Pin) -> Subject:
        """With these layers pinned, over all earlier pins."""
        rules = tuple(PinnedLayer(layers=name, bits=bits) for name in layers)
        profile = self.profile.model_copy(update={"pinned": (*self.profile.pinned, *rules)})
        return replace(self, profile=profile, given=None)

    def allowed(self) -> bool:
        """Whether the subnet is within the profile's budgets, but for one of cost."""
        return within(self.profile, quantities(self.info, self.profile, self.spec()))


def _pairs(target: Target, spec: SubnetSpec) -> dict[str, BitPair]:
    """The allowed pair of each free layer that comes nearest to its bits in `spec`.

    A tensor may be stored in fewer bits than the pair says, where its storage has no more.
    """
    style, quantized = PlacementStyle.of(target.profile), set(spec.quantized_layers())

    def nearest(name: str) -> BitPair:
        tensor = target.info.tensor(target.info.layer(name).input)
        bits, stored = spec.weights[name], spec.activations.get(tensor.name)

        def distance(pair: BitPair) -> tuple[int, int, int]:
            weight, activation = pair
            off = 0 if bits == REMAINDER else abs(weight - int(bits))
            if stored is not None:
                off += abs(style.stored_bits(activation, tensor, quantized) - stored)
            return off, -weight, -activation

        return min(target.profile.bits, key=distance)

    return {name: nearest(name) for name in target.free_layers()}
