"""The cases of the contract: every form that an exporter declares, times every network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eqnet.backend.protocol import Capabilities, Exporter
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.scheme import BITS as BITS_ALLOWED
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet.testing.pairwise import cover

GRANULARITIES, SYMMETRIES = frozenset(Granularity), frozenset(Symmetry)
STORAGES = frozenset({"uint8", "int8", "by_sign"})
ZERO_POINTS = frozenset({"free", "zero"})
REMAINDERS = frozenset({"float32", "float16", "bfloat16"})
# (weight bits, activation bits) by class. Pairs are covered over the classes; the bits within a
# class take turns, so that every width from 2 to 8 appears on either side.
BITS: dict[str, tuple[tuple[int, int], ...]] = {
    "eight": ((8, 8),),
    "middle": ((4, 8), (7, 5), (5, 7), (8, 4), (6, 6), (4, 4), (8, 6)),
    "low": ((2, 2), (3, 8), (2, 4), (3, 3), (4, 2), (8, 2), (2, 8), (5, 3)),
}
SCALES = ("free", "power_of_two")
# Combinations of more than two parts that a runtime once computed wrongly; they are cases wherever
# they are declared. OpenVINO 2026.4 with int8 storage: 5 steps off, no value near a tie.
HARD: tuple[Mapping[str, Any], ...] = (
    {
        "net": "squeeze_excite",
        "granularity": Granularity.PER_CHANNEL,
        "weight_symmetry": Symmetry.SYMMETRIC,
        "activation_symmetry": Symmetry.SYMMETRIC,
        "storage": "int8",
        "zero_point": "free",
        "bits": "eight",
        "weight_scales": "free",
        "activation_scales": "free",
    },
)


@dataclass(frozen=True)
class Case:
    """One network in one form. bits: (weight bits, activation bits) of every layer."""

    net: str
    granularity: Granularity
    weight_symmetry: Symmetry
    activation_symmetry: Symmetry
    storage: str
    zero_point: str
    bits: tuple[int, int]
    weight_scales: str = "free"
    activation_scales: str = "free"

    def __str__(self) -> str:
        """A short name, such as ``concat-w4a8-per_channel-sym-asym-uint8``."""
        weights, activations = self.bits
        symmetries = (self.weight_symmetry[:-6], self.activation_symmetry[:-6])
        parts = [self.net, f"w{weights}a{activations}", self.granularity, *symmetries, self.storage]
        if self.zero_point == "zero":
            parts.append("zero")
        if self.weight_scales != "free":
            parts.append("w2^n")
        if self.activation_scales != "free":
            parts.append("a2^n")
        return "-".join(parts)

    def profile(
        self, exporter: Exporter, placement: Mapping[str, Any], remainder: str = "float32"
    ) -> HardwareProfile:
        """The hardware profile that asks an exporter for this form, however slow it is there."""
        weights = {
            "granularity": self.granularity,
            "symmetry": self.weight_symmetry,
            "scales": self.weight_scales,
        }
        activations = {
            "symmetry": self.activation_symmetry,
            "storage": self.storage,
            "zero_point": self.zero_point,
            "scales": self.activation_scales,
        }
        content = {
            "schema_version": 1,
            "name": "contract",
            "backend": exporter.name,
            "placement": dict(placement),
            "cost": {"model": "size"},
            "remainder": remainder,
            "weights": weights,
            "activations": activations,
            "bits": [self.bits],
            "accept_slow": sorted(exporter.capabilities.slow | exporter.capabilities.in_float),
        }
        return HardwareProfile.model_validate(content)

    def demands(self) -> dict[str, Any]:
        """Profile key -> what the case asks for, of the keys that capabilities speak of."""
        return {
            "weights.granularity": self.granularity,
            "weights.symmetry": self.weight_symmetry,
            "activations.symmetry": self.activation_symmetry,
            "activations.storage": self.storage,
            "activations.zero_point": self.zero_point,
            "bits": self.bits,
        }

    def outside(self, can: Capabilities) -> set[str]:
        """Keys of the case's demands that are outside the capabilities: slow, or in float."""
        missing = undeclared(can)
        keys = {key for key, value in self.demands().items() if value in missing[key]}
        if min(self.bits) < can.min_bits:
            keys.add("bits")
        return keys


def executed(can: Capabilities) -> Capabilities:
    """The capabilities with all that the target executes exactly, fast or not."""
    keys = can.slow | can.in_float
    min_bits = min(BITS_ALLOWED) if "bits" in keys else can.min_bits

    def widened(key: str, fast: frozenset[Any], all_values: frozenset[Any]) -> frozenset[Any]:
        return all_values if key in keys else fast

    return replace(
        can,
        weight_granularities=widened(
            "weights.granularity", can.weight_granularities, GRANULARITIES
        ),
        weight_symmetries=widened("weights.symmetry", can.weight_symmetries, SYMMETRIES),
        activation_symmetries=widened(
            "activations.symmetry", can.activation_symmetries, SYMMETRIES
        ),
        storages=widened("activations.storage", can.storages, STORAGES),
        zero_points=widened("activations.zero_point", can.zero_points, ZERO_POINTS),
        min_bits=min_bits,
    )


def factors(can: Capabilities, nets: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """What the cases of an exporter vary, each with its values in a fixed order."""
    return {
        "net": tuple(nets),
        "granularity": tuple(sorted(can.weight_granularities)),
        "weight_symmetry": tuple(sorted(can.weight_symmetries)),
        "activation_symmetry": tuple(sorted(can.activation_symmetries)),
        "storage": tuple(sorted(can.storages)),
        "zero_point": tuple(sorted(can.zero_points)),
        "bits": tuple(name for name in BITS if _runnable(name, can.min_bits)),
        "weight_scales": SCALES,
        "activation_scales": SCALES,
    }


def _runnable(name: str, fewest: int) -> tuple[tuple[int, int], ...]:
    return tuple(pair for pair in BITS[name] if min(pair) >= fewest)


def _is_valid(row: Mapping[str, Any]) -> bool:
    """A zero-point of 0 exists in signed storage of symmetric activations only."""
    return row["zero_point"] == "free" or (
        row["activation_symmetry"] is Symmetry.SYMMETRIC and row["storage"] == "int8"
    )


def _rows(can: Capabilities, nets: Sequence[str]) -> list[dict[str, Any]]:
    values = factors(can, nets)
    rows = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    return [row for row in rows if _is_valid(row)]


def _cases(rows: Sequence[dict[str, Any]], can: Capabilities) -> Iterator[Case]:
    turns = dict.fromkeys(BITS, 0)
    for row in rows:
        pairs = _runnable(row["bits"], can.min_bits)
        yield Case(**{**row, "bits": pairs[turns[row["bits"]] % len(pairs)]})
        turns[row["bits"]] += 1


def pairwise_cases(can: Capabilities, nets: Sequence[str]) -> list[Case]:
    """Few cases in which every pair of a network, a form's parts and a class of bits meets.

    The cases of HARD that are declared are among them.

    can: as `executed` gives it where slow forms are to be among them.
    """
    rows = _rows(can, nets)
    chosen = cover(rows)
    chosen += [i for i, row in enumerate(rows) if row in HARD and i not in chosen]
    return list(_cases([rows[index] for index in chosen], can))


def all_cases(can: Capabilities, nets: Sequence[str]) -> list[Case]:
    """The full product of networks, the parts of a form and the classes of bits."""
    return list(_cases(_rows(can, nets), can))


def undeclared(can: Capabilities) -> dict[str, list[Any]]:
    """Profile key -> values that a profile may ask for and that the capabilities leave out."""
    return {
        "weights.granularity": sorted(GRANULARITIES - can.weight_granularities),
        "weights.symmetry": sorted(SYMMETRIES - can.weight_symmetries),
        "activations.symmetry": sorted(SYMMETRIES - can.activation_symmetries),
        "activations.storage": sorted(STORAGES - can.storages),
        "activations.zero_point": sorted(ZERO_POINTS - can.zero_points),
        "remainder": sorted(REMAINDERS - can.remainders),
        "bits": [(bits, 8) for bits in BITS_ALLOWED if bits < can.min_bits],
        "opset": [22, 25],
    }


def refusal_of(can: Capabilities, key: str) -> str:
    """The kind of refusal that a value of `undeclared` meets: impossible, slow or float."""
    if key in can.in_float:
        return "float"
    if key in can.slow:
        return "slow"
    return "impossible"


def changed(profile: HardwareProfile, key: str, value: Any) -> HardwareProfile:
    """The profile with one demand changed, and no other slow form accepted."""
    content = profile.model_dump(mode="json")
    section, _, field = key.rpartition(".")
    if section:
        content[section][field] = value
    else:
        content[key] = [value] if key == "bits" else value
    if key.startswith("activations."):
        _settle(content["activations"], field)
    return HardwareProfile.model_validate(content)


def _settle(activations: dict[str, Any], demanded: str) -> None:
    """Make the rest of the activation rules consistent with the one that is demanded."""
    if activations["zero_point"] != "zero":
        return
    if demanded == "zero_point":
        activations.update(symmetry="symmetric", storage="int8")
    elif activations["symmetry"] != "symmetric" or activations["storage"] != "int8":
        activations["zero_point"] = "free"
