"""Whether a search pays: the subnet that it finds against simpler ways to the same budget.

    python benchmarks/search_pays.py [--json FILE] [--budgets 3 4] [--seeds 3] [--measured 16]

On a supernet with an accuracy predictor (the bundled one), at equal average bits (of weights and of
activations alike) and, with --bitops, at the BitOPs of the uniform subnet of so many bits:

- searched: as `eqnet search`: NSGA-II over predicted accuracy, three quarters of the subnets
  measured in rounds to correct the predictor, the rest after the last search, and the uniform
  subnet as one to beat
- searched once: with the predictor as it is
- uniform: these bits everywhere (first and last layer 8)
- random: random subnets within the budget
- greedy: bits by what each layer costs alone, predicted, over a range of exchange rates
- integer programming: the least sum of what each layer costs alone (scipy's HiGHS)

Each may measure as many subnets (KL to the 8-bit network, on validation images) and takes its
best; the test images only report. Differences to `searched` have a 95% bootstrap interval, paired
image by image.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from eqnet.backend.decisions import decide
from eqnet.backend.machine.host import describe_host
from eqnet.spec.hardware.costs import BitOps, CostSite
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.progress import Silent
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.cqap import load_cqap
from eqnet.stages.search.accuracy.features import encode, feature_size
from eqnet.stages.search.accuracy.refined import Point, Refined
from eqnet.stages.search.evolution.explore import explore
from eqnet.stages.search.evolution.refining import refined_search
from eqnet.stages.search.evolution.seeds import Sensitivities
from eqnet.stages.search.fronts.choosing import most_accurate
from eqnet.stages.search.journal import Journal
from eqnet.stages.search.reachable import within_all
from eqnet.stages.search.scoring import Scorer, matrix, rows
from eqnet.stages.search.space import Genome, Space
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import Batches, kl_divergence, logits
from eqnet.supernet.session import Session, open_session

PROFILE = "custom_lowbit"
POPULATION, GENERATIONS = 100, 100
RESAMPLES = 2000
WAYS = ("searched", "searched once", "uniform", "random", "greedy", "integer programming")


class Row(NamedTuple):
    """One way to one budget, on the test images.

    points, nats: accuracy in points and KL of `searched` minus those of this way.
    """

    budget: str
    seed: int
    way: str
    measured: int
    weight_bits: float
    activation_bits: float
    accuracy: float
    kl: float
    points: float
    points_interval: tuple[float, float]
    nats: float
    nats_interval: tuple[float, float]
    seconds: float


@dataclass
class Judge:
    """What subnets are worth, on one set of images; each is settled and run once.

    reference: logits [N, K] that KL is taken to.
    """

    session: Session
    images: Batches
    known: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reference = self.session.reference_logits(self.images)

    def __call__(self, spec: SubnetSpec) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """KL in nats, and whether the class is right, of each image [N]."""
        key = spec.sha256()
        if key not in self.known:
            self.session.settle(spec, self.session.calibration())
            found = logits(extract(self.session.supernet, spec), self.images).cpu()
            right = decide(found.numpy()) == self.images.labels.cpu().numpy()
            self.known[key] = kl_divergence(self.reference, found).numpy(), right
        return self.known[key]

    def point(self, spec: SubnetSpec) -> Point:
        """What a predictor is corrected by."""
        kl, right = self(spec)
        features = encode(self.session.supernet.info, spec)
        return Point(features, float(kl.mean()), float(right.mean()))


def proposals(
    way: str,
    scorer: Scorer,
    point: Callable[[SubnetSpec], Point],
    bits: int,
    count: int,
    seed: int,
) -> list[Genome]:
    """At most `count` genomes within the budgets, to be measured. point: measures a subnet."""
    space = scorer.space
    uniform = uniform_of(space, bits)
    if way == "uniform":
        return [uniform]
    sensitivities = Sensitivities.of(scorer)
    if way == "integer programming":
        return [programmed(scorer, sensitivities)]
    if way == "random":
        return random_genomes(scorer, count, seed)
    if way == "greedy":
        greedy = sensitivities.greedy(scorer)
        greedy = greedy[scorer.feasible(greedy)]
        best = np.argsort(-scorer.score(greedy).accuracy, kind="stable")[:count]
        return rows(greedy[best])
    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal.open(Path(scratch), resume=False)
        find = partial(
            explore,
            anchor=within_all(space, scorer.budgets, scorer.totals.cost),
            journal=journal,
            generations=GENERATIONS,
            population=POPULATION,
            seed=seed,
            progress=Silent(),
        )
        if way == "searched once":
            found = [one.genome for one in most_accurate(find(scorer).candidates, count - 1)]
            return list(dict.fromkeys([*found, uniform]))
        assert isinstance(scorer.predictor, Refined)
        known: dict[Genome, None] = {}

        def measured(genomes: Sequence[Genome]) -> list[Point]:
            known.update(dict.fromkeys(genomes))
            return [point(space.subnet(genome)) for genome in genomes]

        last = refined_search(
            scorer.predictor,
            scorer,
            find,
            measured,
            journal,
            count=3 * count // 4,
            first=[uniform],
        )
    ordered = most_accurate(last.outcome.candidates, len(last.outcome.candidates))
    fresh = [one.genome for one in ordered if one.genome not in known]
    return [*known, *fresh][:count]


def uniform_of(space: Space, bits: int) -> Genome:
    """The genome with `bits` for every weight and activation."""
    index = space.target.profile.bits.index((bits, bits))
    return (index,) * len(space.layers) + (0,) * len(space.groups)


def random_genomes(scorer: Scorer, count: int, seed: int) -> list[Genome]:
    """Genomes within the budgets: of random ones around random averages, those that are."""
    rng = np.random.default_rng(seed)
    choices = np.asarray(scorer.space.choices())
    bits = np.asarray(scorer.space.target.profile.bits)
    found: list[Genome] = []
    while len(found) < count:
        low, high = sorted(rng.integers(2, 9, 2))
        allowed = np.flatnonzero(((bits >= low) & (bits <= high)).all(1))
        genome = rng.choice(allowed, (1, len(choices)))
        if (genome < choices).all() and scorer.feasible(genome)[0]:
            found.append(tuple(genome[0].tolist()))
    return found


def programmed(scorer: Scorer, sensitivities: Sensitivities) -> Genome:
    """The genome with the least sum of single losses within the budgets, as a binary program.

    Quantities are linear in single changes but where tensors are shared; what exceeds a budget by
    that is mended by tightening it a little.
    """
    choices, loss = scorer.space.choices(), sensitivities.loss
    one_each = np.zeros((len(choices), len(loss)))
    start = 0
    for row, count in enumerate(choices):
        one_each[row, start : start + count] = 1
        start += count
    base = scorer.score(matrix(scorer.space, [sensitivities.base])).quantities
    for tighter in np.linspace(1.0, 0.8, 21):
        constraints = [LinearConstraint(one_each, 1, 1)]
        for name, limit in scorer.budgets.items():
            whole = float(base[name][0])
            saved = sensitivities.savings[name] * whole
            constraints.append(LinearConstraint(saved[None], whole - limit * tighter, np.inf))
        solved = milp(loss, constraints=constraints, integrality=1, bounds=Bounds(0, 1))
        if solved.x is None:
            break
        genome = one_hot_genome(solved.x, choices)
        if scorer.feasible(matrix(scorer.space, [genome]))[0]:
            return genome
    raise RuntimeError("integer programming found nothing within the budgets")


def one_hot_genome(solution: NDArray[np.float64], choices: tuple[int, ...]) -> Genome:
    """The genome of a solution with one 1 in each gene's values."""
    genes, start = [], 0
    for count in choices:
        genes.append(int(solution[start : start + count].argmax()))
        start += count
    return tuple(genes)


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95% bootstrap interval of a mean over images."""
    picks = np.random.default_rng(0).integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def scorer_of(session: Session, bits: int, kind: str) -> Scorer:
    """The scorer of a budget: average bits, or the BitOPs of the uniform subnet."""
    rules = load_profile(PROFILE)
    info = session.supernet.info
    space = Space.of(Target.of(info, rules), session.identity)
    cost = BitOps(model="bitops").of(CostSite(info, 32, Path()))
    uniform = space.subnet(uniform_of(space, bits))
    budgets: Mapping[str, float] = {
        "avg_weight_bits": uniform.avg_weight_bits,
        "avg_activation_bits": uniform.avg_activation_bits,
    }
    if kind == "bitops":
        budgets = {"cost": cost(uniform)}
    cqap = load_cqap(session.folder, session.identity, feature_size(info))
    return Scorer(space, Refined(cqap), cost, budgets)


def compare(
    session: Session,
    validation: Judge,
    test: Judge,
    options: argparse.Namespace,
    tell: Callable[[Row], None],
) -> None:
    """A row for each budget, seed and way."""
    for kind in ("bits", "bitops") if options.bitops else ("bits",):
        for bits in options.budgets:
            for seed in range(options.seeds):
                scorer = scorer_of(session, bits, kind)
                searched: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None
                for way in WAYS:
                    started = time.perf_counter()
                    genomes = proposals(way, scorer, validation.point, bits, options.measured, seed)
                    specs = [scorer.space.subnet(genome) for genome in genomes]
                    best = min(specs, key=lambda spec: float(validation(spec)[0].mean()))
                    kl, right = test(best)
                    searched = searched or (kl, right)
                    points = 100 * (searched[1].astype(float) - right)
                    nats = searched[0] - kl
                    tell(
                        Row(
                            budget=f"{bits} bits" if kind == "bits" else f"{bits} bits' BitOPs",
                            seed=seed,
                            way=way,
                            measured=len(specs),
                            weight_bits=best.avg_weight_bits,
                            activation_bits=best.avg_activation_bits,
                            accuracy=float(right.mean()),
                            kl=float(kl.mean()),
                            points=float(points.mean()),
                            points_interval=interval(points),
                            nats=float(nats.mean()),
                            nats_interval=interval(nats),
                            seconds=time.perf_counter() - started,
                        )
                    )


def main() -> None:
    """Print a Markdown table; with --json also a line for each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="rows are added to it")
    parser.add_argument("--supernet", type=Path, help="with a predictor; default: the bundled one")
    parser.add_argument("--budgets", type=int, nargs="+", default=[3, 4], help="bits")
    parser.add_argument("--bitops", action="store_true", help="at equal BitOPs as well")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--measured", type=int, default=16, help="subnets that each may measure")
    parser.add_argument("--validation", type=int, default=2000, help="images")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    options = parser.parse_args()
    session = open_session(options.supernet)
    validation = Judge(session, session.batches(session.dataset.validation(), options.validation))
    test = Judge(session, session.batches(session.dataset.test(), options.images))
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {describe_host()['cpu']}")
    print("| budget | seed | way | measured | accuracy | KL | searched - this, points | KL |")
    print("|---|---|---|---|---|---|---|---|")

    def tell(row: Row) -> None:
        (low, high), (down, up) = row.points_interval, row.nats_interval
        print(
            f"| {row.budget} | {row.seed} | {row.way} | {row.measured} | {row.accuracy:.2%} "
            f"| {row.kl:.5f} | {row.points:+.2f} ({low:+.2f} to {high:+.2f}) "
            f"| {row.nats:+.5f} ({down:+.5f} to {up:+.5f}) |",
            flush=True,
        )
        if options.json is not None:
            with options.json.open("a") as stream:
                stream.write(json.dumps(row._asdict()) + "\n")

    compare(session, validation, test, options, tell)


if __name__ == "__main__":
    main()
