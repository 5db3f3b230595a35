"""What commands print, write and return for results; the stages themselves are stand-ins here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_tools import Stage, use_profiles
from report_samples import (
    benched,
    manifest,
    search_report,
    subnet,
    verified,
    write_artifact,
)

from eqnet.cli.main import main
from eqnet.spec.errors import InfeasibleError
from eqnet.spec.progress import Stages
from eqnet.spec.reports import BenchReport, EvalReport, SearchReport, Verdict, VerifyReport
from eqnet.spec.scheme import Form, Granularity, Symmetry


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_profiles(tmp_path / "profiles", monkeypatch)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "mine", manifest("mine", "onnxruntime", subnet(8)), None, None)


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("skipped", 0), ("failed", 11)])
def test_verify_writes_prints_and_exits(
    verdict: Verdict,
    code: int,
    artifact: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = verified("mine", "onnxruntime", verdict, 0.94, "it is odd")

    def verify(folder: Path, **options: Any) -> VerifyReport:
        assert folder == artifact
        assert (options["data"], options["threads"]) == (None, 3)
        options["progress"]("images", 1, 2)
        return made

    stage("eqnet.stages.verify.verify", verify)
    assert main(["verify", str(artifact), "--threads", "3", "--json"]) == code
    captured = capsys.readouterr()
    assert VerifyReport.model_validate_json(captured.out) == made
    assert VerifyReport.model_validate_json((artifact / "verify.json").read_text()) == made
    if code:
        assert captured.err.endswith(f"error: {artifact}: verification failed: execution\n")
    assert main(["verify", str(artifact), "--threads", "3", "-q"]) == code
    assert "it is odd" in capsys.readouterr().out


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("skipped", 0), ("failed", 12)])
def test_bench_writes_prints_and_exits(
    verdict: Verdict,
    code: int,
    artifact: Path,
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    baseline = tmp_path / "old.json"
    baseline.write_text("{}")
    made = benched("mine", "onnxruntime", 0.5).model_copy(
        update={"verdict": verdict, "reason": "slower by 9 %"}
    )

    def bench(folder: Path, **options: Any) -> BenchReport:
        assert (options["baseline"], options["max_regression"]) == (baseline, 0.07)
        assert (options["repeats"], options["seed"]) == (9, 4)
        return made

    stage("eqnet.stages.bench.bench", bench)
    arguments = ["bench", str(artifact), "--baseline", str(baseline), "--max-regression", "7%"]
    arguments += ["--repeats", "9", "--seed", "4"]
    assert main([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert BenchReport.model_validate_json(captured.out) == made
    assert BenchReport.model_validate_json((artifact / "bench.json").read_text()) == made
    if code:
        assert captured.err == f"error: {artifact}: slower by 9 %\n"
    assert main(arguments) == code
    assert "2.00x faster" in capsys.readouterr().out
    assert main([*arguments, "--format", "github-action"]) == code
    assert json.loads(capsys.readouterr().out)[0]["value"] == 0.5


def test_bench_passes_on_how_to_measure(
    artifact: Path, tmp_path: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    first = benched("mine", "onnxruntime", 0.5)
    made = first.model_copy(update={"more": (first.model_copy(update={"batch": 8}),)})
    asked: dict[str, Any] = {}

    def bench(folder: Path, **options: Any) -> BenchReport:
        asked.update(options)
        return made

    stage("eqnet.stages.bench.bench", bench)
    (tmp_path / "main").mkdir()
    arguments = ["bench", str(artifact), "--baseline", str(tmp_path / "main"), "--batch", "1,8"]
    arguments += ["--precision", "1%", "--max-seconds", "3", "--no-pin", "--allow-other-machine"]
    assert main(arguments) == 0
    expected = {
        "baseline": tmp_path / "main",
        "batch": [1, 8],
        "precision": 0.01,
        "max_seconds": 3.0,
        "repeats": None,
        "pin": False,
        "allow_other_machine": True,
    }
    assert {name: asked[name] for name in expected} == expected
    printed = capsys.readouterr().out
    assert "2.00x faster" in printed
    assert "batch 8" in printed
    assert main(["bench", str(artifact), "--baseline", str(tmp_path / "none")]) == 2
    assert "none: no such file or folder" in capsys.readouterr().err


def test_eval_passes_the_form_on(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluate(**options: Any) -> EvalReport:
        form = Form(
            weight_granularity=Granularity.PER_TENSOR,
            weight_symmetry=Symmetry.ASYMMETRIC,
            activation_symmetry=Symmetry.SYMMETRIC,
        )
        assert options["form"] == form
        return EvalReport(
            supernet="bundled",
            form=form,
            weight_bits=options["weight_bits"],
            activation_bits=options["activation_bits"],
            placement=options["placement"],
            dataset="fashion-mnist",
            split=options["split"],
            images=10,
            accuracy=0.9,
            interval=(0.7, 1.0),
        )

    stage("eqnet.stages.evaluate.evaluate.evaluate", evaluate)
    arguments = ["eval", "--bits", "w4a6", "--weights", "per_tensor:asymmetric"]
    arguments += ["--activations", "symmetric", "--placement", "paper"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["activation_bits"] == 6
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "90.00 %" in text
    assert "w4a6 per_tensor:asymmetric/symmetric" in text


def test_interrupted_work_is_130(
    artifact: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(folder: Path, **options: Any) -> VerifyReport:
        raise KeyboardInterrupt

    stage("eqnet.stages.verify.verify", verify)
    assert main(["verify", str(artifact)]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert not (artifact / "verify.json").exists()


def test_search_passes_budgets_and_marks_the_chosen(
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def search(**options: Any) -> SearchReport:
        assert options["budgets"] == {"avg_weight_bits": 4.0, "cost": 2.5}
        assert options["out"] == tmp_path / "found"
        return search_report()

    stage("eqnet.stages.search.search.search", search)
    arguments = ["search", "-p", "alpha", "--budget", "avg_weight_bits=4", "--budget", "cost=2.5"]
    arguments += ["--out", str(tmp_path / "found")]
    assert main([*arguments, "--json"]) == 0
    assert SearchReport.model_validate_json(capsys.readouterr().out) == search_report()
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("chosen") == 2


def test_infeasible_search_is_8(
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def search(**options: Any) -> SearchReport:
        raise InfeasibleError("avg_weight_bits <= 1: nearest reachable is 2.1")

    stage("eqnet.stages.search.search.search", search)
    assert main(["search", "-p", "alpha", "--out", str(tmp_path / "found")]) == 8
    assert capsys.readouterr().err == "error: avg_weight_bits <= 1: nearest reachable is 2.1\n"


def test_export_says_which_subnet_it_took(
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage(
        "eqnet.stages.export.export.export",
        lambda **options: manifest("alpha", "lowbit", subnet(4)),
    )
    arguments = ["export", "-p", "alpha", "--out", str(tmp_path / "made")]
    assert main(arguments) == 0
    assert "search: 4.00 weight bits" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["subnet_origin"] == "search"


def test_export_warns_of_random_weights(
    tmp_path: Path,
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = manifest("alpha", "lowbit", subnet(4))
    untrained = made.model_copy(
        update={"model": made.model.model_copy(update={"random_weights": True})}
    )
    for one, told in ((made, False), (untrained, True)):
        stage("eqnet.stages.export.export.export", lambda one=one, **options: one)
        for more in ([], ["--json"]):
            assert main(["export", "-p", "alpha", "--out", str(tmp_path / "made"), *more]) == 0
            assert ("warning: the supernet has random weights" in capsys.readouterr().err) == told


def test_stages_become_tasks() -> None:
    seen: list[tuple[object, ...]] = []
    listener = SimpleNamespace(
        start=lambda task, total: seen.append(("start", task, total)),
        advance=lambda n=1, **info: seen.append(("advance", n)),
        finish=lambda: seen.append(("finish",)),
    )
    stages = Stages(listener)
    stages("a", 2, 4)
    stages("a", 4, 4)
    stages("b", 1, 1)
    stages.close()
    stages.close()
    assert seen == [
        ("start", "a", 4),
        ("advance", 2),
        ("advance", 2),
        ("finish",),
        ("start", "b", 1),
        ("advance", 1),
        ("finish",),
    ]
