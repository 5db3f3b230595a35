"""Several artifacts as one gate: verdicts, baselines, and what CI services read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from artifacts import profile, write_artifact
from graphs import residual_net

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.cli.main import main
from eqnet.spec.errors import UsageError
from eqnet.spec.reports import BenchReport, Check, GateReport
from eqnet.stages.bench import to_markdown as bench_markdown
from eqnet.stages.gate import gate, to_markdown
from eqnet.stages.verify import to_junit, verify
from eqnet.stages.verify import to_markdown as verify_markdown

ROOT = Path(__file__).resolve().parents[3]
ACTION = ROOT / ".github" / "actions" / "eqnet-gate" / "action.yml"
BENCH = {"batch": 1, "threads": 1, "repeats": 5}


@pytest.fixture
def good(tmp_path):
    write_artifact(tmp_path / "good", residual_net(), profile(bench=BENCH))
    return tmp_path / "good"


@pytest.fixture
def bad(tmp_path):
    write_artifact(tmp_path / "bad", residual_net(), profile(bench=BENCH), shift=50.0)
    return tmp_path / "bad"


def test_one_that_fails_keeps_none_of_the_others_back(good, bad, tmp_path):
    report = gate([bad, good], reports=tmp_path / "reports")
    assert report.verdict == "failed"
    first, second = report.rows
    assert (first.verdict, first.exit_code, first.bench) == ("failed", 11, None)
    assert "top1_agreement" in (first.failure or "")
    assert second.verdict == "passed"
    assert second.bench is not None
    made = {path.name for path in (tmp_path / "reports").iterdir()}
    assert made == {
        *("bad.verify.json", "bad.junit.xml"),
        *("good.verify.json", "good.junit.xml", "good.bench.json"),
    }


def test_a_damaged_artifact_is_a_row_of_its_own(good, bad, tmp_path):
    (bad / "model.onnx").write_bytes(b"")
    report = gate([bad, good], reports=tmp_path / "reports")
    assert [(row.verdict, row.exit_code) for row in report.rows] == [("failed", 6), ("passed", 0)]
    assert "model.onnx" in report.rows[0].why


def test_the_first_runs_artifact_is_the_baseline_and_stays_it(good, tmp_path):
    kept = tmp_path / "baselines" / "good"
    (good / "bench.json").write_text("{}")  # a report, which is no part of it
    first = gate([good], reports=tmp_path / "one", baselines=kept.parent)
    assert first.rows[0].baseline == "the first: the artifact is kept as the baseline"
    manifest = read_manifest(good)
    assert read_manifest(kept) == manifest
    assert {path.name for path in kept.iterdir()} == {"manifest.json", *manifest.files}
    check_files(kept, manifest)
    times = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    second = gate([good], reports=tmp_path / "two", baselines=kept.parent, max_regression=100.0)
    assert second.rows[0].baseline == "compared"
    assert second.verdict == "passed"
    timed = second.rows[0].bench
    assert timed is not None
    assert timed.baseline is not None
    assert timed.baseline.kind == "artifact"
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == times


def test_the_first_run_of_a_machine_is_the_baseline_and_stays_it(good, tmp_path):
    kept = tmp_path / "baselines" / "good.bench.json"
    first = gate([good], reports=tmp_path / "one", baselines=kept.parent, keep="report")
    assert "kept as the baseline" in first.rows[0].baseline
    content = kept.read_bytes()
    second = gate([good], reports=tmp_path / "two", baselines=kept.parent, max_regression=100.0)
    assert second.rows[0].baseline == "compared"
    assert second.verdict == "passed"
    assert kept.read_bytes() == content


def test_what_a_first_run_keeps_is_one_of_two(good, tmp_path):
    with pytest.raises(UsageError, match=r"unknown baseline 'all' \(allowed: artifact, report\)"):
        gate([good], reports=tmp_path / "reports", baselines=tmp_path, keep="all")  # type: ignore[arg-type]
    assert main(["gate", str(good), "--keep", "all"]) == 2


def test_a_damaged_artifact_as_the_baseline_fails(good, tmp_path):
    folder = tmp_path / "baselines"
    gate([good], reports=tmp_path / "before", baselines=folder)
    (folder / "good" / "model.onnx").write_bytes(b"")
    row = gate([good], reports=tmp_path / "now", baselines=folder).rows[0]
    assert (row.verdict, row.exit_code) == ("failed", 6)
    assert "baselines/good/model.onnx" in row.why


def changed_baseline(good, tmp_path, **changes) -> Path:
    """The folder of a baseline that this run made, changed."""
    folder = tmp_path / "baselines"
    gate([good], reports=tmp_path / "before", baselines=folder, keep="report")
    path = folder / "good.bench.json"
    report = BenchReport.model_validate_json(path.read_bytes())
    path.write_text(report.model_copy(update=changes).model_dump_json())
    return folder


def test_what_became_slower_fails(good, tmp_path):
    folder = changed_baseline(good, tmp_path)
    path = folder / "good.bench.json"
    content = json.loads(path.read_text())
    content["quantized"]["samples"] = [x / 20 for x in content["quantized"]["samples"]]
    path.write_text(json.dumps(content))
    report = gate([good], reports=tmp_path / "now", baselines=folder)
    assert (report.verdict, report.rows[0].exit_code) == ("failed", 12)
    assert "slower than the baseline" in report.rows[0].why


def test_a_baseline_of_another_machine_is_passed_over(good, tmp_path):
    folder = changed_baseline(good, tmp_path, host={"cpu": "another", "machine": "x86_64"})
    content = (folder / "good.bench.json").read_bytes()
    row = gate([good], reports=tmp_path / "now", baselines=folder).rows[0]
    assert row.verdict == "passed"
    assert "another machine, another: not compared" in row.baseline
    assert (folder / "good.bench.json").read_bytes() == content


def test_a_damaged_baseline_fails(good, tmp_path):
    folder = changed_baseline(good, tmp_path)
    (folder / "good.bench.json").write_text("{")
    row = gate([good], reports=tmp_path / "now", baselines=folder).rows[0]
    assert (row.verdict, row.exit_code) == ("failed", 2)


def test_what_did_not_run_is_skipped_with_its_reason(good, tmp_path):
    passed = gate([good], reports=tmp_path / "reports").rows[0]
    checks = [Check(name="runtime", verdict="skipped", reason="no GPU here")]
    skipped = passed.verify.model_copy(update={"verdict": "skipped", "checks": tuple(checks)})
    assert passed.bench is not None
    timed = passed.bench.model_copy(update={"reason": ""})  # which may tell of this CPU
    passed = passed.model_copy(update={"bench": timed})
    row = passed.model_copy(update={"verify": skipped})
    assert row.verdict == "skipped"
    assert row.why == "no GPU here"
    assert GateReport(rows=(row,)).verdict == "skipped"
    assert passed.why == ""


def test_two_artifacts_of_one_name_are_refused(good, tmp_path):
    with pytest.raises(UsageError, match="two artifacts are named 'good'"):
        gate([good, good], reports=tmp_path / "reports")


def test_the_command_ends_with_the_first_failures_code(good, bad, tmp_path, capsys, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    reports = str(tmp_path / "reports")
    assert main(["gate", str(good), str(bad), "--reports", reports, "--quiet", "--json"]) == 11
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["artifact"] for row in rows] == ["good", "bad"]
    text = summary.read_text()
    assert text.startswith("before\n### eqnet: ❌ failed")
    assert "| bad | ❌ failed |" in text


def test_junit_has_a_case_for_each_check(bad):
    report = verify(bad)
    suite = ElementTree.fromstring(to_junit(report))[0]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert set(cases) == {check.name for check in report.checks}
    for check in report.checks:
        found = cases[check.name].find("failure")
        assert (found is not None) == (check.verdict == "failed")
        if found is not None:
            assert found.get("message") == check.reason
    assert int(suite.get("failures", "")) == sum(c.verdict == "failed" for c in report.checks)


def test_markdown_is_one_line_a_row(good, bad, tmp_path):
    report = gate([good, bad], reports=tmp_path / "reports")
    table = [line for line in to_markdown(report).splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    verified, timed = report.rows[1].verify, report.rows[0].bench
    assert verified is not None
    assert timed is not None
    assert "❌ verify" in verify_markdown(verified)
    assert f"**{timed.ratio:.3f}** of the float model's time" in bench_markdown(timed)


def test_the_actions_own_step_runs(good, tmp_path):
    """The shell of the composite action, as a runner would run it."""
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    output, summary = tmp_path / "output", tmp_path / "summary.md"
    environment = {
        **os.environ,
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "ARTIFACTS": f"{tmp_path}/go*",
        "PYTHON": sys.executable,
        "REPORTS": str(tmp_path / "reports"),
        "BASELINES": str(tmp_path / "baselines"),
        "KEEP": "artifact",
        "MAX_REGRESSION": "10%",
        "OPTIONS": "--repeats 6 --threads 1",
    }
    for step in steps:
        if "run" in step:
            subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
                env=environment, check=True, timeout=300, cwd=tmp_path, capture_output=True,
            )  # fmt: skip
    (line,) = output.read_text().splitlines()
    assert line.startswith("cpu=")
    assert " " not in line
    assert "✅ passed" in summary.read_text()
    assert (tmp_path / "baselines" / "good" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("github-workflows", ".github/workflows/ci.yml"),
        ("github-workflows", "examples/ci/github.yml"),
        ("github-actions", ".github/actions/eqnet-gate/action.yml"),
        ("gitlab-ci", "examples/ci/gitlab.yml"),
    ],
)
def test_what_users_copy_fits_the_services_schemas(schema, file):
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", file],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_what_users_copy_names_options_that_exist():
    """Each `eqnet gate` in the examples, taken apart by the command's own parser."""
    from typer.main import get_command

    from eqnet.cli.app import app

    known = {
        name
        for parameter in get_command(app).commands["gate"].params  # type: ignore[attr-defined]
        for name in parameter.opts
    }
    for file in (ACTION, ROOT / "examples" / "ci" / "gitlab.yml"):
        words = file.read_text().split("-m eqnet gate", 1)[1].split("artifacts:", 1)[0].split()
        used = {word for word in words if word.startswith("--")}
        assert used
        assert used <= known
