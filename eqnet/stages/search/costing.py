"""What subnets cost in a search: the profile's cost model, and the float network beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eqnet.backend.discovery import exporter_of
from eqnet.spec.errors import EqnetError, UsageError
from eqnet.spec.hardware.costs import REMAINDER_BITS, Cost, CostSite
from eqnet.spec.hardware.load import profiles_dir
from eqnet.spec.progress import Progress
from eqnet.stages.search.journal import Journal
from eqnet.stages.search.modelled import modelled_latency
from eqnet.stages.search.space import EXHAUSTIVE, Space
from eqnet.subnets.budgets import COST, quantities
from eqnet.subnets.limits import Budget, Limit
from eqnet.supernet.latency import measure_latency
from eqnet.supernet.session import Session


def cost_of(
    session: Session,
    space: Space,
    profile: str,
    budgets: Mapping[str, Budget],
    journal: Journal,
    progress: Progress,
) -> Cost:
    """The cost function. `profile` is as the user gave it: a table is sought beside its file.

    What is timed for it is noted in the journal. Where a budget is a share of the float
    network's cost, that is timed too.
    """
    rules = space.target.profile

    def timed() -> Cost:
        if space.size() > EXHAUSTIVE:
            return modelled_latency(session, rules, progress)
        if journal.state.times is None:
            with_float = isinstance(budgets.get(COST), Limit)
            journal.state.times = _times(session, space, progress, with_float=with_float)
            journal.save()
        found = journal.state.times
        return lambda spec: found[spec.sha256()]

    path = Path(profile)
    folder = path.parent if path.suffix in (".yaml", ".yml") else profiles_dir()
    wide = REMAINDER_BITS[rules.remainder]
    return rules.cost.of(CostSite(space.target.info, wide, folder, timed, rules.graph_sha256()))


def _times(
    session: Session, space: Space, progress: Progress, *, with_float: bool
) -> dict[str, float]:
    """Milliseconds of every subnet of a space in the profile's runtime, by the subnet's sha256."""
    profile = space.target.profile
    specs = [space.subnet(genome) for genome in space.all_genomes()]
    if with_float:
        specs.append(space.target.all_float(space.supernet))
    exporter = exporter_of(profile)
    times = measure_latency(session.supernet, exporter, profile, specs, progress)
    return {spec.sha256(): time for spec, time in zip(specs, times, strict=True)}


def float_quantity(space: Space, name: str, cost: Cost | None, budget: Budget) -> float:
    """What the float network has of a quantity. Raises UsageError for a cost that is not known."""
    target = space.target
    spec = target.all_float(space.supernet)
    if name != COST:
        return quantities(target.info, target.profile, spec)[name]
    try:
        value = cost(spec) if cost is not None else 0.0
    except (EqnetError, KeyError) as error:
        raise UsageError(
            f"budget {COST}={budget}: what the float network costs is not known to cost model "
            f"'{target.profile.cost.model}': {error} (allowed: a number)"
        ) from error
    if not 0 < value < float("inf"):
        raise UsageError(
            f"budget {COST}={budget}: the float network costs {value:g} (allowed: a number)"
        )
    return value
