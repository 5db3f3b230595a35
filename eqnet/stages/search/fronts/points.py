"""What search.json says of subnets: points of the front, baselines, the one that was taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from eqnet.spec.reports import FrontPoint
from eqnet.spec.subnet import Score, SubnetSpec
from eqnet.stages.search.fronts.front import Winner
from eqnet.stages.search.scoring import Candidate, Scorer, matrix


def scored(candidate: Candidate, winner: Winner | None, unit: str) -> SubnetSpec:
    """The subnet with what was predicted of it and, where it was, measured."""
    cost = candidate.cost
    measured = None
    if winner is not None:
        found = winner.measured
        measured = Score(accuracy=found.accuracy, images=found.images, cost=cost, unit=unit)
    predicted = Score(accuracy=candidate.accuracy, cost=cost, unit=unit)
    return candidate.spec.model_copy(update={"predicted": predicted, "measured": measured})


def front_points(
    front: Iterable[Candidate], winners: Mapping[str, Winner], unit: str
) -> tuple[FrontPoint, ...]:
    """The front with whole subnets, as search.json holds it. winners: by the subnets' sha256."""
    found = []
    for candidate in front:
        winner = winners.get(candidate.spec.sha256())
        point = _point(candidate, winner)
        found.append(point.model_copy(update={"subnet": scored(candidate, winner, unit)}))
    return tuple(found)


def baseline_points(scorer: Scorer, winners: Mapping[str, Winner]) -> tuple[FrontPoint, ...]:
    """The uniform subnets, by their bits."""
    space = scorer.space
    found = []
    for candidate in scorer.candidates(matrix(space, space.uniform_genomes())):
        label = "all quantized"
        if space.layers:
            weights, reads = space.target.profile.bits[candidate.genome[0]]
            label = f"w{weights}a{reads}"
        point = _point(candidate, winners.get(candidate.spec.sha256()))
        found.append(point.model_copy(update={"label": label}))
    return tuple(found)


def _point(candidate: Candidate, winner: Winner | None) -> FrontPoint:
    found = candidate.quantities
    return FrontPoint(
        accuracy_predicted=candidate.accuracy,
        cost=candidate.cost,
        avg_weight_bits=found["avg_weight_bits"],
        avg_activation_bits=found["avg_activation_bits"],
        size_kib=found["size_kib"],
        bitops=found["bitops"],
        sha256=candidate.spec.sha256(),
        measured=None if winner is None else winner.measured,
    )
