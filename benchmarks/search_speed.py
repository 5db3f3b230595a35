"""How fast the genetic search is: 50,000 predicted subnets of the bundled supernet.

`python benchmarks/search_speed.py [PROFILE]`; nothing is measured, as in the search itself before
its finalists.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from eqnet.spec.hardware.costs import REMAINDER_BITS, CostSite
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.progress import Silent
from eqnet.stages.search.accuracy.cqap import load_cqap
from eqnet.stages.search.accuracy.features import feature_size
from eqnet.stages.search.evolution.explore import record
from eqnet.stages.search.evolution.genetic import Breeding, evolve
from eqnet.stages.search.evolution.seeds import Sensitivities, seeds
from eqnet.stages.search.reachable import within_all
from eqnet.stages.search.scoring import Scorer, matrix
from eqnet.stages.search.space import Space
from eqnet.subnets.target import Target
from eqnet.supernet.session import open_session

SHAPES = ((100, 100), (100, 500), (500, 100))
"""Population and generations."""


def main(profile: str) -> None:
    """Print a line for each shape."""
    session, rules = open_session(None), load_profile(profile)
    info = session.supernet.info
    space = Space.of(Target.of(info, rules), session.identity)
    budgets = {str(name): limit for name, limit in rules.budgets.items()}
    cost = rules.cost.of(CostSite(info, REMAINDER_BITS[rules.remainder], profiles_dir()))
    cqap = load_cqap(session.folder, session.identity, feature_size(info))
    for population, generations in SHAPES:
        started, busy = time.perf_counter(), time.process_time()
        scorer = Scorer(space, cqap, cost, budgets)
        anchor = within_all(space, budgets, cost)
        given = seeds(scorer, Sensitivities.of(scorer), anchor)
        last = evolve(
            Breeding(space.choices(), len(budgets), scorer.evaluate, scorer.excess),
            given=given,
            population=population,
            generations=generations,
            seed=0,
            progress=Silent(),
        )
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        uniform = scorer.evaluate(matrix(space, space.uniform_genomes())).objectives
        end = record(last, np.asarray(uniform.max(0)))
        print(
            f"{generations} generations of {population}: {scorer.predicted} subnets in "
            f"{seconds:.2f} s ({busy:.2f} s of CPU time); best {100 * (end.accuracy or 0):.2f} %, "
            f"hypervolume {end.hypervolume:.4f}"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "custom_lowbit")
