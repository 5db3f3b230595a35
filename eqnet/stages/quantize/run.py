"""From a float classifier and images to verified, timed artifacts for several profiles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eqnet.backend.artifact import check_files, foreign_content, read_manifest
from eqnet.backend.discovery import exporter_of
from eqnet.backend.machine.host import describe_host
from eqnet.backend.refusals import accepted_refusals
from eqnet.chain import SEARCHES, Chain, Source, run_all
from eqnet.spec.errors import ArtifactError, OutputError, UsageError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.inputs import Inputs
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import BenchReport
from eqnet.spec.scheme import Frozen
from eqnet.stages.export.choose_subnet import DEFAULT, RACED
from eqnet.stages.quantize.search_or_default import (
    SearchMode,
    choose_for_profile,
    require_choosable,
    require_mode,
    searched_before,
)
from eqnet.stages.quantize.settings import Settings, read_record, write_record
from eqnet.stages.report import Row, require_plotting
from eqnet.stages.report.load import BENCH, SEARCH, read_model
from eqnet.supernet.session import Session, open_session

SUPERNET = "supernet"
PAGE = "report.html"
RESERVED = (SUPERNET, SEARCHES)


class QuantizeResult(Frozen):
    """A row for each profile, the page, and how they came about.

    supernet: its folder; reused: an earlier run had made it. training: the summary of
    `eqnet.stages.train.post_training.post_training`. subnets: for each profile how its subnet was
    chosen. seconds: of the whole run.
    """

    rows: tuple[Row, ...]
    report: Path
    supernet: Path
    reused: bool
    training: dict[str, Any]
    subnets: dict[str, str]
    seconds: float


def quantize(
    *,
    model: str,
    profiles: Sequence[str],
    out: Path,
    weights: Path | None = None,
    weights_key: str | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    inputs: Inputs | None = None,
    images: int = 256,
    reconstruct: bool = True,
    search: str = "auto",
    race: bool = True,
    seed: int = 0,
    device: str = "auto",
    allow_code: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Make one supernet of a float classifier; export, verify and bench it for every profile.

    Writes `out`/supernet, `out`/PROFILE for each profile, `out`/search/PROFILE where a search
    paid, and `out`/report.html. model, weights, weights_key, data, dataset, inputs, images,
    reconstruct, device: as of `eqnet.stages.train.post_training.post_training`. profiles: names of
    built-in ones, or paths of YAML files. search: "auto" searches where that is expected to
    take under a minute or the profile's budgets need it, and takes the profile's default subnet
    elsewhere; "always"; "never". race: as of `eqnet.stages.export.export.export`.

    A run with the settings of an earlier one goes on from it: its supernet is not made again,
    and its artifacts are only verified again. force: make all of it anew, also where `out` holds
    a supernet or artifacts of other settings.

    A profile that fails gets its reason in its row, and the others go on: a caller looks at the
    rows' verdicts. Raises before any work: UsageError, ProfileError for a profile that its
    target refuses, OutputError where `out` holds something else, and MissingExtraError when the
    packages that draw the report are missing; and then what `post_training` raises.
    """
    started = time.perf_counter()
    require_plotting()
    mode = require_mode(search)
    rules = _checked_profiles(profiles, mode)
    for profile in rules.values():
        _require_ours(out / profile.name)
    listener = progress or Silent()
    folder = out / SUPERNET
    settings = Settings.of(
        model=model,
        weights=weights,
        weights_key=weights_key,
        data=data,
        dataset=dataset,
        inputs=inputs or Inputs(),
        images=images,
        reconstruct=reconstruct,
        seed=seed,
    )
    record = None if force else read_record(folder, settings)
    reused = record is not None
    if record is None:
        from eqnet.stages.train.post_training import post_training

        summary = post_training(
            model=model,
            weights=weights,
            weights_key=weights_key,
            data=data,
            dataset=dataset,
            inputs=inputs,
            out=folder,
            images=images,
            reconstruct=reconstruct,
            seed=seed,
            device=device,
            allow_code=allow_code,
            progress=listener,
        )
        record = write_record(folder, settings, summary)
    source = Source(folder, data, seed, allow_code, listener)
    plan = _Plan(source, record.supernet, mode, force=force, race=race)
    chains = [_Chain(name, out, plan, profile) for name, profile in rules.items()]
    rows = run_all(chains, out / PAGE, "eqnet quantize")
    return QuantizeResult(
        rows=rows,
        report=out / PAGE,
        supernet=folder,
        reused=reused,
        training=record.summary,
        subnets={chain.name: chain.chosen for chain in chains if chain.chosen},
        seconds=time.perf_counter() - started,
    )


def _checked_profiles(profiles: Sequence[str], mode: SearchMode) -> dict[str, HardwareProfile]:
    """The profiles by what the caller calls them. Raises ProfileError or UsageError."""
    if not profiles:
        raise UsageError("no profile given (allowed: one or more)")
    rules = {name_or_path: load_profile(name_or_path) for name_or_path in profiles}
    names: dict[str, str] = {}
    for name_or_path, profile in rules.items():
        if profile.name in RESERVED:
            raise UsageError(
                f"{name_or_path}: profile name '{profile.name}' (allowed: all but "
                f"{', '.join(RESERVED)}, which are folders of --out)"
            )
        if profile.name in names:
            raise UsageError(
                f"{names[profile.name]} and {name_or_path} are both named '{profile.name}' "
                "(allowed: a name of its own for each profile)"
            )
        names[profile.name] = name_or_path
        accepted_refusals(exporter_of(profile), profile)
        require_choosable(mode, profile)
    return rules


def _require_ours(folder: Path) -> None:
    """An artifact's folder is to be: absent, empty or an artifact. Raises OutputError."""
    if not folder.exists():
        return
    what = None
    if not folder.is_dir():
        what = "a file"
    elif any(folder.iterdir()):
        foreign = foreign_content(folder)
        if foreign is not None:
            what = f"a folder with {foreign}"
    if what is not None:
        raise OutputError(f"{folder}: {what} (allowed: a new path, or an earlier artifact)")


class _Plan:
    """What all chains of a run share; the supernet is opened where it is first asked for.

    identity: its sha256.
    """

    def __init__(
        self, source: Source, identity: str, mode: SearchMode, *, force: bool, race: bool
    ) -> None:
        self.source, self.identity, self.mode = source, identity, mode
        self.force, self.race = force, race

    @cached_property
    def session(self) -> Session:
        """The supernet and its data."""
        source = self.source
        return open_session(source.supernet, source.data, allow_code=source.allow_code)


class _Chain(Chain):
    """A chain that goes on where an earlier run ended, and searches where that pays."""

    def __init__(self, name_or_path: str, out: Path, plan: _Plan, profile: HardwareProfile) -> None:
        super().__init__(name_or_path, out, plan.source, name=profile.name)
        self._plan, self._profile = plan, profile
        self.chosen = ""

    def run(self) -> None:
        """Export what is not exported yet; verify it in any case; bench it once on a machine."""
        if not self._is_exported():
            self._export()
        self.verify()
        if not self._is_timed():
            self.bench()

    def _is_exported(self) -> bool:
        """Whether an earlier run left the whole artifact that this one would make."""
        if self._plan.force:
            return False
        try:
            manifest = read_manifest(self.artifact)
            check_files(self.artifact, manifest)
        except ArtifactError:
            return False
        if manifest.subnet.supernet != self._plan.identity or manifest.profile != self._profile:
            return False
        searched = manifest.subnet_origin not in (DEFAULT, RACED)
        other_mode = "never" if searched else "always"
        if self._plan.mode == other_mode:
            return False
        self.exported, self.searched = True, searched and (self.searches / SEARCH).is_file()
        self.chosen = f"{_origin(searched)}: exported before"
        return True

    def _export(self) -> None:
        subnet = self.searches / "subnet.json"
        if self._is_searched(subnet):
            self.searched, self.chosen = True, "searched: before"
        else:
            choice = choose_for_profile(self._plan.mode, self._plan.session, self._profile)
            self.chosen = f"{_origin(choice.search)}: {choice.reason}"
            if choice.search:
                self.search()
        chosen = subnet if self.searched else None
        self.export(chosen, force=self._plan.force, race=self._plan.race)
        race = read_manifest(self.artifact).race
        if race is not None:
            self.chosen += f"; raced: {race.chosen}, {race.winner.to_float:.2f} of float's time"

    def _is_searched(self, subnet: Path) -> bool:
        """Whether an earlier run left the subnet of a search as this one would do it."""
        if self._plan.force or self._plan.mode == "never":
            return False
        return (self.searches / SEARCH).is_file() and searched_before(
            subnet, self._plan.identity, self._profile
        )

    def _is_timed(self) -> bool:
        """Whether this machine has timed this very artifact."""
        if not (self.artifact / BENCH).is_file():
            return False
        try:
            return read_model(self.artifact / BENCH, BenchReport).host == describe_host()
        except ArtifactError:
            return False


def _origin(searched: bool) -> str:
    return "searched" if searched else "default subnet"
