"""The demo: a failing profile is told and the others go on; the stages are stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Stage, use_profiles
from report_samples import benched, manifest, search_report, subnet, verified, write_artifact

from eqnet.backend.machine.isa import Cpu
from eqnet.cli.main import main
from eqnet.demo import demo, demo_profiles
from eqnet.spec.errors import CheckpointError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.reports import BenchReport, VerifyReport


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_profiles(tmp_path / "profiles", monkeypatch)


def put_stages(stage: Stage, broken: str) -> None:
    """Stand-ins for a whole chain, in which the profile 'beta' fails at `broken`."""

    def fails(name: str, at: str) -> None:
        if name == "beta" and at == broken:
            raise CheckpointError(f"{at} broke")

    def search(**options: Any) -> None:
        fails(options["profile"], "search")
        options["out"].mkdir(parents=True)
        (options["out"] / "search.json").write_text(search_report().model_dump_json())

    def export(**options: Any) -> None:
        fails(options["profile"], "export")
        made = manifest(options["profile"], "lowbit", subnet(4))
        write_artifact(options["out"], made, None, None)

    def verify(folder: Path, **options: Any) -> VerifyReport:
        fails(folder.name, "verify")
        return verified(folder.name, "lowbit", "passed", 0.93)

    def bench(folder: Path, **options: Any) -> BenchReport:
        if folder.name == "beta" and broken == "bench":
            raise ZeroDivisionError("no runs")
        return benched(folder.name, "lowbit", 0.5)

    stage("eqnet.stages.search.search.search", search)
    stage("eqnet.stages.export.export.export", export)
    stage("eqnet.stages.verify.verify", verify)
    stage("eqnet.stages.bench.bench", bench)


@pytest.mark.parametrize("broken", ["search", "export", "verify", "bench"])
def test_demo_reports_a_failing_profile_and_goes_on(
    broken: str,
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_stages(stage, broken)
    out = tmp_path / "artifacts"
    assert main(["demo", "--out", str(out), "--json"]) == 11
    captured = capsys.readouterr()
    rows = {row["profile"]: row for row in json.loads(captured.out)["rows"]}
    assert rows["alpha"]["verdict"] == "passed"
    assert rows["beta"]["verdict"] == "failed"
    told = "unexpected ZeroDivisionError: no runs" if broken == "bench" else f"{broken} broke"
    assert told in rows["beta"]["reasons"][0]
    assert told in (out / "report.html").read_text()
    assert captured.err.endswith("error: failed: beta (the table says why)\n")


def test_demo_without_the_plotting_packages_stops_at_once(
    tmp_path: Path,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_stages(stage, "nothing")
    monkeypatch.setattr("eqnet.stages.report.page.find_spec", lambda name: None)
    assert main(["demo", "--out", str(tmp_path / "artifacts")]) == 10
    assert "eqnet[report]" in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()


def test_demo_that_passes(
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_stages(stage, "nothing")
    out = tmp_path / "artifacts"
    assert main(["demo", "--out", str(out), "--profiles", "beta,alpha"]) == 0
    text = capsys.readouterr().out
    assert text.index("beta") < text.index("alpha")
    assert (out / "alpha" / "bench.json").is_file()
    assert "Accuracy against each cost" in (out / "report.html").read_text()


def test_demo_shows_no_artifact_of_an_earlier_run(tmp_path: Path, stage: Stage) -> None:
    made = manifest("beta", "lowbit", subnet(8))
    passed = verified("beta", "lowbit", "passed", 0.94)
    write_artifact(tmp_path / "beta", made, passed, None)
    put_stages(stage, "search")
    result = demo(tmp_path, profiles=["beta"])
    assert [row.accuracy_runtime for row in result.rows] == [None]
    assert result.rows[0].verdict == "failed"


@pytest.mark.parametrize(
    ("flags", "vnni"),
    [({"avx2"}, False), ({"avx2", "avx512f"}, False), ({"avx2", "avx_vnni"}, True)],
)
def test_a_cpu_without_vnni_gets_the_profiles_that_are_right_there(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], vnni: bool
) -> None:
    monkeypatch.undo()  # the real built-in profiles
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    names = demo_profiles(Cpu(frozenset(flags)))
    isas = {load_profile(name).isa for name in names}
    assert ("vnni" in isas) == vnni
    assert ("avx2" in isas) == (not vnni)
    assert len(names) == len(set(names)) == 5
