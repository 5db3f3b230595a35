"""Subnets to be timed: deterministic by their number, so that more can follow later."""

from __future__ import annotations

import random
from typing import NamedTuple

from eqnet.spec.latency.file import Draw
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.target import Target

ADD, STEM = "add", "stem"
# A third of scattered layers, a third of spans, a third of what the profile's search may choose.
KINDS: tuple[Draw, ...] = ("scattered", "span", "groups")


class Drawn(NamedTuple):
    """A subnet, how it was chosen, and whether it judges a model instead of making it."""

    kind: Draw
    spec: SubnetSpec
    held_out: bool = False


def drawn(target: Target, number: int, *, held_out: bool, seed: int) -> Drawn:
    """The subnet of a number. Of those to be fitted the first is quantized, the second float."""
    if not held_out and number == 0:
        return Drawn("uniform", quantized(target))
    if not held_out and number == 1:
        return Drawn("float", floating(target))
    rng = random.Random(f"{seed}/{'held out' if held_out else 'fitted'}/{number}")  # noqa: S311
    kind = KINDS[number % len(KINDS)]
    if kind == "groups":
        return Drawn(kind, _by_groups(target, rng), held_out)
    layers = _scattered(target, rng) if kind == "scattered" else _spans(target, rng)
    return Drawn(kind, _subnet(target, rng, layers), held_out)


def quantized(target: Target) -> SubnetSpec:
    """The subnet that all others are timed against."""
    return target.uniform(max(target.profile.bits))


def floating(target: Target) -> SubnetSpec:
    """The subnet with all that may be in float there."""
    pairs = dict.fromkeys(target.free_layers(), max(target.profile.bits))
    floats = frozenset({ADD}) & {*target.profile.search_groups}
    return target.subnet(pairs, float_groups=floats, float_layers=target.free_layers())


def _scattered(target: Target, rng: random.Random) -> list[str]:
    share = rng.random()
    return [name for name in target.free_layers() if rng.random() < share]


def _spans(target: Target, rng: random.Random) -> list[str]:
    """One to three stretches of consecutive layers."""
    layers = target.free_layers()
    chosen: set[str] = set()
    for _ in range(rng.randint(1, 3)):
        first, last = sorted(rng.randint(0, len(layers)) for _ in range(2))
        chosen |= {*layers[first:last]}
    return sorted(chosen)


def _subnet(target: Target, rng: random.Random, layers: list[str]) -> SubnetSpec:
    may_add = ADD in target.profile.search_groups and rng.random() < 0.25
    floats = frozenset({ADD}) if may_add else frozenset[str]()
    return target.subnet(_pairs(target, rng), float_groups=floats, float_layers=layers)


def _by_groups(target: Target, rng: random.Random) -> SubnetSpec:
    """As a genome of the search; where that has few, with a few layers more in float."""
    groups = [group for group in target.profile.search_groups if group != STEM]
    floats = frozenset(group for group in groups if rng.random() < 0.5)
    cuts = target.cuts() if STEM in target.profile.search_groups else ()
    stem = rng.choice([None, *cuts])
    layers = target.free_layers()
    few = rng.sample(layers, rng.randint(0, max(1, len(layers) // 4)))
    return target.subnet(
        _pairs(target, rng), float_groups=floats, stem=stem, float_layers=sorted(few)
    )


def _pairs(target: Target, rng: random.Random) -> dict[str, tuple[int, int]]:
    return {name: rng.choice(target.profile.bits) for name in target.free_layers()}
