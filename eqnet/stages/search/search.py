"""`eqnet search`: the best subnet for a hardware profile, predicted, then measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from eqnet.backend.discovery import exporter_of
from eqnet.backend.files import write_files
from eqnet.backend.refusals import accepted_refusals
from eqnet.spec.errors import InfeasibleError
from eqnet.spec.hardware.costs import REMAINDER_BITS, Cost, CostSite, cost_in_float
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import FrontPoint, SearchReport
from eqnet.spec.subnet import Score, SubnetSpec
from eqnet.stages.search.cqap import CQAP_FILE, load_cqap
from eqnet.stages.search.features import feature_size
from eqnet.stages.search.genetic import evolve
from eqnet.stages.search.latency import measure_latency, modelled_latency
from eqnet.stages.search.measured import AccuracyModel, measure_space
from eqnet.stages.search.predictor import make_predictor
from eqnet.stages.search.reachable import EXHAUSTIVE, require_cost, require_reachable
from eqnet.stages.search.scoring import Candidate, Scorer
from eqnet.stages.search.space import Genome, Space
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import accuracy
from eqnet.supernet.session import Session, open_session

FINALISTS = 4
ACCURACY_SLACK = 0.005
QUICK_SUBNETS, QUICK_IMAGES = 200, 500
MEASURED_SPACE = 16
"""Without a predictor, spaces of at most so many subnets are measured whole."""


def search(
    *,
    profile: str,
    supernet: Path | None = None,
    budgets: Mapping[str, float] | None = None,
    out: Path,
    data: Path | None = None,
    seed: int = 0,
    generations: int = 100,
    population: int = 100,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> SearchReport:
    """Search a profile's space and write out/subnet.json and out/search.json.

    budgets: upper bounds by name, over the profile's own. With a budget the most accurate
    subnet within it wins; without one, the cheapest within half a point of the most accurate.
    Finalists are measured on validation images, as the integers that would be deployed.
    Raises InfeasibleError for a budget that no subnet reaches, ProfileError for a profile that
    its target refuses.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    rules = load_profile(profile)
    slow = accepted_refusals(exporter_of(rules), rules)
    limits = dict(rules.budgets) | dict(budgets or {})
    session = open_session(supernet, data, allow_code=allow_code)
    space = Space.of(Target.of(session.supernet.info, rules), session.identity)
    require_reachable(space, limits)
    cost = _cost(session, space, _folder(profile), progress)
    initial = _initial_genomes(space, limits, cost)
    predictor = _predictor(session, space, data, seed, allow_code, progress)
    scorer = Scorer(space, predictor, cost, limits)
    outcome = _explore(scorer, initial, generations, population, seed, progress)
    best = _choose(session, outcome.front, _baseline(scorer), progress, budgeted=bool(limits))
    report = SearchReport(
        profile=rules.name,
        supernet=session.label,
        budgets=limits,
        unit=rules.cost.unit,
        estimated=rules.cost.estimated,
        cost_in_float=_cost_in_float(session, rules),
        float_precision=rules.remainder,
        evaluations=len(scorer.scored),
        front=tuple(_point(candidate) for candidate in outcome.front),
        best=_scored(best, rules.cost.unit),
        seconds=time.perf_counter() - started,
        stop_reason=outcome.reason,
        judge=session.judge(session.dataset.validation()),
        slow=tuple(str(refusal) for refusal in slow),
        **_rank_quality(predictor),
    )
    subnet, whole = report.best.model_dump_json(indent=2), report.model_dump_json(indent=2)
    write_files({out / "subnet.json": subnet, out / "search.json": whole})
    return report


def _folder(profile: str) -> Path:
    path = Path(profile)
    return path.parent if path.suffix in (".yaml", ".yml") else profiles_dir()


def _initial_genomes(space: Space, limits: Mapping[str, float], cost: Cost) -> list[Genome]:
    """The uniform genomes; under a budget of cost the cheapest that is known of is the last."""
    genomes = space.uniform_genomes()
    if "cost" in limits:
        cheapest = require_cost(space, limits["cost"], cost)
        if cheapest in genomes:
            genomes.remove(cheapest)
        genomes.append(cheapest)
    return genomes


def _rank_quality(predictor: AccuracyModel) -> dict[str, Any]:
    """The report's fields on how well a predictor ranks; none where nothing is predicted."""
    header = predictor.header
    if header is None:
        return {}
    return {"kendall_tau": header.kendall_tau, "pearson": header.pearson}


def _predictor(
    session: Session,
    space: Space,
    data: Path | None,
    seed: int,
    allow_code: bool,
    progress: Progress,
) -> AccuracyModel:
    """The predictor beside the supernet; where there is none, a small space is measured whole,
    and for a large one a quick predictor is made there."""
    if not (session.folder / CQAP_FILE).is_file():
        if space.size() <= MEASURED_SPACE:
            return measure_space(session, space, progress)
        make_predictor(
            session.folder,
            data=data,
            subnets=QUICK_SUBNETS,
            images=QUICK_IMAGES,
            seed=seed,
            allow_code=allow_code,
            progress=progress,
        )
    return load_cqap(session.folder, session.identity, feature_size(session.supernet.info))


def _cost(session: Session, space: Space, folder: Path, progress: Progress) -> Cost:
    profile, info = space.target.profile, session.supernet.info
    wide, graphs = REMAINDER_BITS[profile.remainder], profile.graph_sha256()
    timed = partial(_timed, session, space, progress)
    return profile.cost.of(CostSite(info, wide, folder, timed, graphs))


def _cost_in_float(session: Session, profile: HardwareProfile) -> float | None:
    """What the cost's formula says of the float network, where it is a formula."""
    wide = REMAINDER_BITS[profile.remainder]
    site = CostSite(session.supernet.info, wide, Path(), lambda: lambda _: 0.0)
    return cost_in_float(profile.cost, site)


def _timed(session: Session, space: Space, progress: Progress) -> Cost:
    """Milliseconds in the profile's runtime: of a small space's subnets, all measured; of a large
    one's by the latency model beside the supernet, made where there is none of this machine."""
    profile = space.target.profile
    if space.size() > EXHAUSTIVE:
        return modelled_latency(session, profile, progress)
    specs = [space.subnet(genome) for genome in space.all_genomes()]
    exporter = exporter_of(profile)
    times = measure_latency(session.supernet, exporter, profile, specs, progress)
    found = {spec.sha256(): time for spec, time in zip(specs, times, strict=True)}
    return lambda spec: found[spec.sha256()]


class _Outcome(NamedTuple):
    front: list[Candidate]
    reason: str


def _explore(
    scorer: Scorer,
    initial: list[Genome],
    generations: int,
    population: int,
    seed: int,
    progress: Progress,
) -> _Outcome:
    space = scorer.space
    if space.size() <= EXHAUSTIVE:
        candidates = _feasible(scorer, list(space.all_genomes()))
        reason = f"all {space.size()} subnets of the space were tried"
    else:
        genomes = evolve(
            space.choices(),
            len(scorer.budgets),
            scorer.evaluate,
            given=initial,
            population=population,
            generations=generations,
            seed=seed,
            progress=progress,
        )
        # A crowded last population may have dropped an initial genome, or hold nothing feasible.
        feasible = _feasible(scorer, initial)
        candidates = scorer.score(genomes) + feasible
        reason = f"{generations} generations of {population} were done"
    if not candidates:
        limits = ", ".join(f"{name}={limit:g}" for name, limit in scorer.budgets.items())
        raise InfeasibleError(f"budgets {limits}: each can be met, but no subnet found meets all")
    return _Outcome(_front(candidates), reason)


def _feasible(scorer: Scorer, genomes: list[Genome]) -> list[Candidate]:
    return [candidate for candidate in scorer.score(genomes) if scorer.feasible(candidate)]


def _front(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates that no other dominates, cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda item: (item.cost, -item.accuracy)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return front


def _baseline(scorer: Scorer) -> list[Candidate]:
    """The most accurate uniform subnet within the budgets: a search must not end below it."""
    if not scorer.budgets:
        return []
    return _most_accurate(_feasible(scorer, scorer.space.uniform_genomes()), 1)


class _Winner(NamedTuple):
    candidate: Candidate
    accuracy: float
    images: int


_Accurate = TypeVar("_Accurate", Candidate, _Winner)


def _choose(
    session: Session,
    front: list[Candidate],
    baseline: list[Candidate],
    progress: Progress,
    *,
    budgeted: bool,
) -> _Winner:
    """Measure the most promising candidates on validation images and pick one.

    budgeted: the most accurate wins; without budgets, the cheapest of nearly the same accuracy.
    baseline: of a search with budgets, a candidate to beat where there is one.
    """
    if budgeted:
        accurate = _most_accurate(front, FINALISTS)
        finalists = {candidate.genome: candidate for candidate in accurate + baseline}
        measured = _measure(session, list(finalists.values()), progress)
        return max(measured, key=lambda finalist: (finalist.accuracy, -finalist.candidate.cost))
    close = _near_the_best(front, 2 * ACCURACY_SLACK)
    if len(close) > FINALISTS:  # the cheapest, and the one that they are compared with
        close = [*close[: FINALISTS - 1], close[-1]]
    near = _near_the_best(_measure(session, close, progress), ACCURACY_SLACK)
    return min(near, key=lambda finalist: finalist.candidate.cost)


def _most_accurate(candidates: list[Candidate], most: int) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.accuracy)[:most]


def _near_the_best(subnets: list[_Accurate], slack: float) -> list[_Accurate]:
    """Those whose accuracy is at most `slack` below the best."""
    best = max(subnet.accuracy for subnet in subnets)
    return [subnet for subnet in subnets if subnet.accuracy >= best - slack]


def _measure(session: Session, finalists: list[Candidate], progress: Progress) -> list[_Winner]:
    """Accuracy on validation images of the integers that would be deployed."""
    images = session.judged(session.dataset.validation())
    calibration = session.calibration()
    progress.start("measuring finalists", len(finalists))
    measured = []
    for candidate in finalists:
        session.settle(candidate.spec, calibration)
        share = accuracy(extract(session.supernet, candidate.spec), images)
        measured.append(_Winner(candidate, share, len(images)))
        progress.advance(accuracy=share)
    progress.finish()
    return measured


def _scored(winner: _Winner, unit: str) -> SubnetSpec:
    candidate = winner.candidate
    return candidate.spec.model_copy(
        update={
            "predicted": Score(accuracy=candidate.accuracy, cost=candidate.cost, unit=unit),
            "measured": Score(
                accuracy=winner.accuracy, images=winner.images, cost=candidate.cost, unit=unit
            ),
        }
    )


def _point(candidate: Candidate) -> FrontPoint:
    return FrontPoint(
        accuracy_predicted=candidate.accuracy,
        cost=candidate.cost,
        avg_weight_bits=candidate.spec.avg_weight_bits,
        avg_activation_bits=candidate.spec.avg_activation_bits,
        sha256=candidate.spec.sha256(),
    )
