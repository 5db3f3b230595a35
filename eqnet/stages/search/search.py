"""`eqnet search`: the best subnet for a hardware profile, predicted, then measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eqnet.backend.discovery import exporter_of
from eqnet.backend.files import sha256_file
from eqnet.backend.refusals import accepted_refusals
from eqnet.spec.errors import InfeasibleError, UsageError, unknown
from eqnet.spec.hardware.costs import Cost
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import BUDGETS
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import SearchReport
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.cqap import CQAP_FILE, load_cqap
from eqnet.stages.search.accuracy.features import feature_size
from eqnet.stages.search.accuracy.measured import AccuracyModel, measure_space
from eqnet.stages.search.accuracy.points import Points
from eqnet.stages.search.accuracy.refined import Point, Refined
from eqnet.stages.search.accuracy.sensitive import from_sensitivities
from eqnet.stages.search.costing import cost_of, float_quantity
from eqnet.stages.search.evolution.explore import Outcome, explore
from eqnet.stages.search.evolution.refining import refined_search
from eqnet.stages.search.fronts.choosing import Choice, Rule, most_accurate, take
from eqnet.stages.search.fronts.front import front_of
from eqnet.stages.search.fronts.measuring import Measurer
from eqnet.stages.search.fronts.points import baseline_points, front_points, scored
from eqnet.stages.search.fronts.stored import write_report
from eqnet.stages.search.journal import Journal
from eqnet.stages.search.reachable import require_reachable, within_all
from eqnet.stages.search.scoring import Candidate, Scorer, matrix
from eqnet.stages.search.space import Genome, Space
from eqnet.subnets.budgets import COST
from eqnet.subnets.limits import SPELLINGS, Budget, Limit, named, resolved
from eqnet.subnets.target import Target
from eqnet.supernet.session import Session, open_session

REFINE = 12
"""Subnets that a predictor is corrected by, unless told otherwise."""
MEASURED_SPACE = 16
"""Without a predictor, spaces of at most so many subnets are measured whole."""


def search(
    *,
    profile: str,
    supernet: Path | None = None,
    budgets: Mapping[str, float | str | Limit] | None = None,
    objectives: Sequence[str] = (),
    min_accuracy: float | None = None,
    min_float_agreement: float | None = None,
    pick: str | int | None = None,
    out: Path,
    data: Path | None = None,
    seed: int = 0,
    generations: int = 100,
    population: int = 100,
    refine: int = REFINE,
    resume: bool = False,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> SearchReport:
    """Search a profile's space and write out/subnet.json and out/search.json.

    budgets: upper bounds by name, over the profile's own, numbers or texts such as "300KB" and
    "0.5x" (`eqnet.subnets.limits.parse_limit`). objectives: quantities to minimise beside the
    profile's cost. With a budget the subnet within it that is nearest to float (KL) wins;
    without one, the cheapest within half a point of the most accurate; or the cheapest that has
    `min_accuracy` or `min_float_agreement` (shares in [0, 1]) on validation images; or what `pick`
    says.
    refine: so many subnets of what is found are measured to correct the predictor by, a few after
    each of several searches.
    Finalists are measured on validation images, as the integers that would be deployed.
    resume: go on from what an interrupted search left in `out`, to the same end.
    Raises InfeasibleError for a budget that no subnet reaches, ProfileError for a profile that
    its target refuses, UsageError for options that fit neither each other nor the profile,
    CheckpointError for a state of another search.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    rule = Rule(min_accuracy, min_float_agreement, pick)
    rules = load_profile(profile)
    slow = accepted_refusals(exporter_of(rules), rules)
    wanted = dict(rules.budgets) | named(budgets or {}, rules)
    minimised = _objectives(objectives)
    session = open_session(supernet, data, allow_code=allow_code)
    space = Space.of(Target.of(session.supernet.info, rules), session.identity)
    limits = _limits(space, {name: wanted[name] for name in wanted if name != COST}, None)
    journal = Journal.open(out, resume=resume)
    _require_same(journal, session, space, limits, minimised, (seed, population))
    measure = Measurer(session, journal, progress, agreement=min_float_agreement is not None)
    cost = cost_of(session, space, profile, wanted, journal, progress)
    limits |= _limits(space, {name: wanted[name] for name in wanted if name == COST}, cost)
    journal.require("refine", refine)
    journal.require("cost", _costs(space, cost) | {COST: limits.get(COST)})
    anchor = within_all(space, limits, cost) if limits else space.uniform_genomes()[0]
    points = Points(session, journal)
    predictor = _predictor(session, space, points, seed, journal, progress)
    find = partial(
        explore,
        anchor=anchor,
        journal=journal,
        generations=generations,
        population=population,
        seed=seed,
        progress=progress,
    )
    scorer = Scorer(space, predictor, cost, limits, minimised)
    if isinstance(predictor, Refined):

        def score_anew(genomes: Sequence[Genome]) -> list[Point]:
            return points.measure_all([space.subnet(genome) for genome in genomes], progress)

        scorer, outcome = refined_search(predictor, scorer, find, score_anew, journal, count=refine)
    else:
        outcome = find(scorer)
    front = _front(scorer, outcome)
    choice = take(rule, front, _baseline(scorer), measure, budgeted=bool(limits))
    baselines = baseline_points(scorer, measure.winners)
    report = SearchReport(
        profile=rules.name,
        supernet=session.label,
        budgets=limits,
        unit=rules.cost.unit,
        estimated=rules.cost.estimated,
        float_precision=rules.remainder,
        objectives=minimised,
        evaluations=journal.state.earlier + outcome.evaluations,
        front=front_points(front, measure.winners, rules.cost.unit),
        best=_best(choice, rules.cost.unit),
        choice=choice.rule,
        baselines=baselines,
        float_network=_of_float(space, cost),
        history=tuple(journal.state.history),
        sensitivities=outcome.sensitivities,
        seconds=time.perf_counter() - started,
        stop_reason=outcome.reason,
        judge=session.judge(session.dataset.validation()),
        slow=tuple(str(refusal) for refusal in slow),
        **_rank_quality(predictor),
    )
    write_report(report, out)
    journal.close()
    return report


def _objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The profile's cost first, then what else is minimised. Raises UsageError."""
    found = [COST]
    for given in names:
        name = SPELLINGS.get(given, given)
        if name not in BUDGETS:
            raise UsageError(f"objective: {unknown('objective', given, (*BUDGETS, *SPELLINGS))}")
        found.append(name)
    return tuple(dict.fromkeys(found))


def _limits(space: Space, budgets: Mapping[str, Budget], cost: Cost | None) -> dict[str, float]:
    """Budgets as numbers, each within reach. Raises InfeasibleError and UsageError."""
    limits = resolved(budgets, lambda name: float_quantity(space, name, cost, budgets[name]))
    require_reachable(space, limits, cost)
    return limits


def _require_same(
    journal: Journal,
    session: Session,
    space: Space,
    limits: Mapping[str, float],
    objectives: Sequence[str],
    numbers: tuple[int, int],
) -> None:
    """What is noted of an interrupted search must be of this one. Raises CheckpointError."""
    validation = session.dataset.validation()
    journal.require("profile", space.target.profile.sha256())
    journal.require("supernet", session.identity)
    journal.require("data", [session.dataset.name, len(validation)])
    journal.require("budget", sorted(limits.items()))
    journal.require("objective", list(objectives))
    journal.require("seed or population", list(numbers))


def _costs(space: Space, cost: Cost) -> dict[str, float | None]:
    """What the uniform subnets cost: by these a lookup table is known."""
    return {str(genome): cost(space.subnet(genome)) for genome in space.uniform_genomes()}


def _rank_quality(predictor: AccuracyModel) -> dict[str, Any]:
    """The report's fields on how well a predictor ranks; none where nothing is predicted."""
    header = predictor.header
    if header is None:
        return {}
    return {"kendall_tau": header.kendall_tau, "pearson": header.pearson}


def _predictor(
    session: Session,
    space: Space,
    points: Points,
    seed: int,
    journal: Journal,
    progress: Progress,
) -> AccuracyModel:
    """The predictor beside the supernet; where there is none, a small space is measured whole,
    and of a large one what each place costs alone."""
    path = session.folder / CQAP_FILE
    if not path.is_file():
        if space.size() <= MEASURED_SPACE:
            return measure_space(space, points, progress)
        return from_sensitivities(session, space, points, seed, progress)
    journal.require("predictor", sha256_file(path))
    size = feature_size(session.supernet.info)
    return Refined(load_cqap(session.folder, session.identity, size))


def _front(scorer: Scorer, outcome: Outcome) -> list[Candidate]:
    if not outcome.candidates:
        limits = ", ".join(f"{name}={limit:g}" for name, limit in scorer.budgets.items())
        raise InfeasibleError(f"budgets {limits}: each can be met, but no subnet found meets all")
    return front_of(outcome.candidates, scorer.objectives)


def _baseline(scorer: Scorer) -> list[Candidate]:
    """The most accurate uniform subnet within the budgets: a search must not end below it."""
    if not scorer.budgets:
        return []
    uniform = matrix(scorer.space, scorer.space.uniform_genomes())
    return most_accurate(scorer.candidates(uniform[scorer.feasible(uniform)]), 1)


def _of_float(space: Space, cost: Cost) -> dict[str, float]:
    """The float network's quantities; its cost only where the cost model knows it."""
    found: dict[str, float] = {}
    for name in BUDGETS:
        try:
            found[name] = float_quantity(space, name, cost, 1.0)
        except UsageError:
            continue
    return found


def _best(choice: Choice, unit: str) -> SubnetSpec:
    return scored(choice.winner.candidate, choice.winner, unit)
