"""What may be pinned: the layers of the worst places, a float stem, an op group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from eqnet.sensitivity.measure import ranked
from eqnet.sensitivity.places import Place, layers_at
from eqnet.sensitivity.store import Found
from eqnet.spec.network import NetworkInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.stages.explain.subject import Pin, Subject
from eqnet.subnets.stem import before, stem_cuts

STEMS = 2
MOST_LAYERS = 0.5
"""A pin of more than this share of all multiply-adds would leave hardly anything quantized."""


class Candidate(NamedTuple):
    """Layers to pin, and to what; name: how people call them."""

    name: str
    layers: tuple[str, ...]
    bits: Pin


def candidates(
    subject: Subject, spec: SubnetSpec, found: Mapping[Place, Found], most: int
) -> list[Candidate]:
    """The layers of the `most` worst places, one by one; stems; op groups that are small."""
    info = subject.info
    chosen: dict[tuple[tuple[str, ...], Pin], Candidate] = {}
    for place in ranked(found):
        for one in _of_place(subject, spec, place):
            chosen.setdefault((one.layers, one.bits), one)
        if len(chosen) >= most:
            break
    worst = list(chosen.values())[:most]
    larger = [one for one in (*_stems(info, spec), *_groups(info, spec)) if _is_small(info, one)]
    return [*worst, *(one for one in larger if (one.layers, one.bits) not in chosen)]


def _of_place(subject: Subject, spec: SubnetSpec, place: Place) -> Iterator[Candidate]:
    """Pins of a place's layers: to more bits where the profile has them, and to float."""
    layers = tuple(n for n in layers_at(subject.info, place) if spec.weights[n] != REMAINDER)
    if not layers or place.kind == "group":
        return
    name = ", ".join(layers)
    widest = max(weight for weight, _ in subject.profile.bits)
    if any(int(spec.weights[layer]) < widest for layer in layers):
        yield Candidate(f"{name} in {widest} bits", layers, widest)
    yield Candidate(f"{name} in float", layers, "remainder")


def _stems(info: NetworkInfo, spec: SubnetSpec) -> Iterator[Candidate]:
    for cut in stem_cuts(info)[:STEMS]:
        yield _whole(f"float stem before {cut}", sorted(before(info, cut)[0]), info, spec)


def _groups(info: NetworkInfo, spec: SubnetSpec) -> Iterator[Candidate]:
    for group in sorted({layer.group for layer in info.layers}):
        yield of_group(info, spec, group)


def of_group(info: NetworkInfo, spec: SubnetSpec, group: str) -> Candidate:
    """An op group in float; of the carriers, which no pin reaches, no layers."""
    names = [layer.name for layer in info.layers if layer.group == group]
    return _whole(f"all of {group} in float", names, info, spec)


def _whole(name: str, layers: Iterable[str], info: NetworkInfo, spec: SubnetSpec) -> Candidate:
    wanted = {layer for layer in layers if spec.weights[layer] != REMAINDER}
    ordered = tuple(layer for layer in info.layer_names() if layer in wanted)
    return Candidate(name, ordered, "remainder")


def _is_small(info: NetworkInfo, candidate: Candidate) -> bool:
    work = sum(info.layer(name).macs for name in candidate.layers)
    return bool(candidate.layers) and work <= MOST_LAYERS * sum(item.macs for item in info.layers)


def pinned_all(subject: Subject, chosen: Sequence[Candidate]) -> Subject:
    """The subject with all these pins, in order."""
    for one in chosen:
        subject = subject.pinned(one.layers, one.bits)
    return subject
