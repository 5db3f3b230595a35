"""A profile's way from a supernet to a verified and timed artifact, and one report over several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eqnet.backend.files import write_file
from eqnet.spec.errors import EqnetError, one_line
from eqnet.spec.progress import Progress, Silent, Stages
from eqnet.stages.report import Row, load, report, summarize

GENERATIONS = 100
POPULATION = 100
SEARCHES = "search"


class Source(NamedTuple):
    """What every profile's way begins from. supernet: None is the bundled one."""

    supernet: Path | None = None
    data: Path | None = None
    seed: int = 0
    allow_code: bool = False
    progress: Progress = Silent()


class Chain:
    """One profile's way; it remembers how far it came, so that no older result is shown."""

    def __init__(self, profile: str, out: Path, source: Source, *, name: str | None = None) -> None:
        """`profile`: a name or a YAML file's path; `name`: its name, where that is a path."""
        self.profile, self.name, self.source = profile, name or profile, source
        self.artifact = out / self.name
        self.searches = out / SEARCHES / self.name
        self.searched = self.exported = False

    def run(self) -> None:
        """Search, export, verify, bench."""
        self.search()
        self.export(self.searches / "subnet.json", force=True)
        self.verify(self.source.data)
        self.bench()

    def search(self) -> None:
        """Write the profile's best subnet, and how it was chosen, to `searches`."""
        from eqnet.stages.search.search import search

        search(
            profile=self.profile,
            supernet=self.source.supernet,
            budgets={},
            out=self.searches,
            data=self.source.data,
            seed=self.source.seed,
            generations=GENERATIONS,
            population=POPULATION,
            allow_code=self.source.allow_code,
            progress=self.source.progress,
        )
        self.searched = True

    def export(self, subnet: Path | None, *, force: bool, race: bool = True) -> None:
        """Write the artifact of a subnet file; None is the profile's default subnet, or where
        `race` what is faster."""
        from eqnet.stages.export.export import export

        export(
            profile=self.profile,
            supernet=self.source.supernet,
            subnet=subnet,
            out=self.artifact,
            data=self.source.data,
            allow_code=self.source.allow_code,
            searches=None,
            force=force,
            race=race,
            progress=self.source.progress,
        )
        self.exported = True

    def verify(self, test_set: Path | None = None) -> None:
        """Check the artifact and leave verify.json in it; `test_set`: classify all of it too."""
        from eqnet.stages.verify import verify

        stages = Stages(self.source.progress)
        checked = verify(self.artifact, data=test_set, progress=stages)
        stages.close()
        write_file(self.artifact / "verify.json", checked.model_dump_json(indent=2) + "\n")

    def bench(self) -> None:
        """Time the artifact and leave bench.json in it."""
        from eqnet.stages.bench import bench

        timed = bench(self.artifact, seed=self.source.seed, progress=self.source.progress)
        write_file(self.artifact / "bench.json", timed.model_dump_json(indent=2) + "\n")


def run_all(chains: Sequence[Chain], page: Path, title: str) -> tuple[Row, ...]:
    """Run every chain and write the page about what they wrote; a row for each profile.

    A profile that fails gets its reason in its row, and the others go on. Raises OutputError
    when the page cannot be written.
    """
    failures: dict[str, str] = {}
    artifacts: list[Path] = []
    searches: list[Path] = []
    for chain in chains:
        failure = failure_of(chain.run)
        if failure is not None:
            failures[chain.name] = failure
        if chain.exported:
            artifacts.append(chain.artifact)
        if chain.searched:
            searches.append(chain.searches)
    report([*artifacts, *searches], page, title=title, failures=failures)
    exported = load(artifacts).artifacts if artifacts else ()
    return tuple(summarize(exported, failures))


def failure_of(work: Callable[[], None]) -> str | None:
    """Why a profile's work failed, in one line; None when it did not.

    Any exception ends one profile only: a fault of one target must not hide the others' results.
    """
    try:
        work()
    except EqnetError as error:
        return str(error)
    except Exception as error:
        if os.environ.get("EQNET_DEBUG") == "1":
            raise
        return one_line(f"unexpected {type(error).__name__}: {error}")
    return None
