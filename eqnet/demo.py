"""The main job, end to end: every profile from search to benchmark, and one report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from eqnet.backend.files import write_file
from eqnet.report import Row, load, report, require_plotting, summarize
from eqnet.spec.errors import EqnetError
from eqnet.spec.profiles import builtin_profiles
from eqnet.spec.progress import Progress, Silent, Stages
from eqnet.spec.scheme import Frozen

# Built-in profiles that differ from another in one respect: run when they are named.
VARIANTS = ("custom_pow2", "onnxruntime_arm", "onnxruntime_avx2", "openvino_avx2", "openvino_bf16")
GENERATIONS = 100
POPULATION = 100


class DemoResult(Frozen):
    """A row for each profile, and the page."""

    rows: tuple[Row, ...]
    report: Path


def demo_profiles() -> list[str]:
    """Names of the profiles that the demo runs where none are named."""
    return [name for name in builtin_profiles() if name not in VARIANTS]


def demo(
    out: Path,
    *,
    profiles: Sequence[str] | None = None,
    supernet: Path | None = None,
    data: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DemoResult:
    """Search, export, verify and bench each profile; write `out`/PROFILE and `out`/report.html.

    `profiles` defaults to `demo_profiles`, `supernet` to the bundled one. A profile that fails
    gets its reason in its row, and the others go on: a caller looks at the rows' verdicts.
    Raises OutputError when the report cannot be written, MissingExtraError at once when the
    packages that draw it are missing.
    """
    require_plotting()
    listener = progress or Silent()
    names = list(profiles or demo_profiles())
    failures: dict[str, str] = {}
    made: list[Path] = []
    searches: list[Path] = []
    for name in names:
        chain = _Chain(name, out, supernet, data, seed, listener)
        failure = _failure_of(chain.run)
        if failure is not None:
            failures[name] = failure
        made += [chain.artifact] if chain.exported else []
        searches += [chain.found] if chain.searched else []
    page = report([*made, *searches], out / "report.html", title="eqnet demo", failures=failures)
    artifacts = load(made).artifacts if made else ()
    return DemoResult(rows=tuple(summarize(artifacts, failures)), report=page)


class _Chain:
    """One profile's way; it remembers how far it came, so that no older result is shown."""

    def __init__(
        self,
        profile: str,
        out: Path,
        supernet: Path | None,
        data: Path | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self.profile, self.supernet, self.data = profile, supernet, data
        self.seed, self.progress = seed, progress
        self.artifact = out / profile
        self.found = out / "search" / profile
        self.searched = self.exported = False

    def run(self) -> None:
        """Search, export, verify, bench."""
        self._search()
        self._export()
        self._verify()
        self._bench()

    def _search(self) -> None:
        from eqnet.search.search import search

        search(
            profile=self.profile,
            supernet=self.supernet,
            budgets={},
            out=self.found,
            data=self.data,
            seed=self.seed,
            generations=GENERATIONS,
            population=POPULATION,
            allow_code=False,
            progress=self.progress,
        )
        self.searched = True

    def _export(self) -> None:
        from eqnet.export.export import export

        export(
            profile=self.profile,
            supernet=self.supernet,
            subnet=self.found / "subnet.json",
            out=self.artifact,
            data=self.data,
            allow_code=False,
            force=True,
            progress=self.progress,
        )
        self.exported = True

    def _verify(self) -> None:
        from eqnet.verify import verify

        stages = Stages(self.progress)
        made = verify(self.artifact, data=self.data, progress=stages)
        stages.close()
        write_file(self.artifact / "verify.json", made.model_dump_json(indent=2) + "\n")

    def _bench(self) -> None:
        from eqnet.bench import bench

        made = bench(self.artifact, seed=self.seed, progress=self.progress)
        write_file(self.artifact / "bench.json", made.model_dump_json(indent=2) + "\n")


def _failure_of(work: Callable[[], None]) -> str | None:
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
        return " ".join(f"unexpected {type(error).__name__}: {error}".split())
    return None
