"""Places and op groups as a report tells them."""

from __future__ import annotations

from eqnet.sensitivity.places import Place, layers_at
from eqnet.sensitivity.store import Found
from eqnet.sensitivity.suspects import suspects
from eqnet.spec.network import NetworkInfo
from eqnet.spec.reports import PlaceReport, SuspectReport
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.stages.explain.candidates import of_group
from eqnet.stages.explain.costs import Prices
from eqnet.supernet.session import Session


def told_place(
    info: NetworkInfo, spec: SubnetSpec, place: Place, found: Found, prices: Prices
) -> PlaceReport:
    """A layer's weights or a tensor; its cost is that of its layers, where they were timed."""
    layers = tuple(name for name in layers_at(info, place) if spec.weights[name] != REMAINDER)
    return _told(place, layers, found, prices)


def told_group(
    info: NetworkInfo, spec: SubnetSpec, place: Place, found: Found, prices: Prices
) -> PlaceReport:
    """An op group; of the carriers, which no pin reaches, there is no cost."""
    return _told(place, of_group(info, spec, place.name).layers, found, prices)


def told_suspects(session: Session, spec: SubnetSpec) -> tuple[SuspectReport, ...]:
    """Weights that lose more than their bits explain, of scales that were searched for them."""
    if session.header.method == "elastic":
        return ()  # it learned scales that cut off what does not matter
    return tuple(
        SuspectReport(
            layer=one.layer, channel=one.channel, snr_db=one.snr, expected_db=one.expected
        )
        for one in suspects(session.supernet, spec)
    )


def _told(place: Place, layers: tuple[str, ...], found: Found, prices: Prices) -> PlaceReport:
    return PlaceReport(
        kind=place.kind,
        name=place.name,
        bits=place.bits,
        layers=layers,
        images=len(found),
        kl=found.mean_kl(),
        kl_error=found.error(),
        lost=found.lost(),
        cost_saved=prices.saved(layers),
    )
