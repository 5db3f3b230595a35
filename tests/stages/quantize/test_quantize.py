"""`eqnet quantize`: the whole way on a small network, going on, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_tools import one_line, write_profile
from nets import SmallNet, randomize

import eqnet.stages.export.export
import eqnet.stages.train.post_training
import eqnet.stages.verify
from eqnet.cli.main import main
from eqnet.latency.measure import HELD_OUT, SUBNETS
from eqnet.spec.errors import CheckpointError, OutputError, UsageError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.inputs import Inputs
from eqnet.stages.quantize import QuantizeResult, quantize
from eqnet.stages.quantize.search_or_default import choose_for_profile, require_choosable
from eqnet.stages.search.duration import expected_seconds, work_of
from eqnet.supernet.session import Session, open_session

PROFILES = ("custom_lowbit_w4a8", "onnxruntime_x86")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, weights, and a deployment for PROFILES."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("quantize")
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, rng.integers(32, 256), (24, 24, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    torch.save(randomize(SmallNet(classes=2)).state_dict(), folder / "w.pth")
    run(folder, folder / "deploy")
    return folder


@pytest.fixture
def deploy(home: Path, tmp_path: Path) -> Path:
    """A deployment that a test may change."""
    return Path(shutil.copytree(home / "deploy", tmp_path / "deploy"))


def run(home: Path, out: Path, **changes: Any) -> QuantizeResult:
    options: dict[str, Any] = {
        "model": "nets:SmallNet",
        "allow_code": True,
        "weights": home / "w.pth",
        "data": home / "photos",
        "inputs": Inputs(size=16),
        "reconstruct": False,
        "images": 16,
        "search": "never",
        "profiles": PROFILES,
    }
    return quantize(**{"race": False} | options | {"out": out} | changes)


def words(home: Path, out: Path, *more: str, profiles: tuple[str, ...] = PROFILES) -> list[str]:
    named = [word for profile in profiles for word in ("--profile", profile)]
    return [
        "quantize",
        "--model",
        "nets:SmallNet",
        "--allow-code",
        "--weights",
        str(home / "w.pth"),
        "--data",
        str(home / "photos"),
        "--size",
        "16",
        "--no-reconstruct",
        "--images",
        "16",
        "--search",
        "never",
        "--out",
        str(out),
        *named,
        *more,
    ]


def forbid(monkeypatch: pytest.MonkeyPatch, *functions: str) -> None:
    """Let functions fail the test where they are called."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("work that was done before is done again")

    for name in functions:
        monkeypatch.setattr(name, refuse)


TRAIN, EXPORT = (
    "eqnet.stages.train.post_training.post_training",
    "eqnet.stages.export.export.export",
)


def test_one_run_leaves_everything_and_a_second_only_verifies(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "deploy"
    for profile in PROFILES:
        assert {"model.onnx", "verify.json", "bench.json"} <= {
            path.name for path in (out / profile).iterdir()
        }
    forbid(monkeypatch, TRAIN, EXPORT, "eqnet.stages.bench.bench")
    for profile in PROFILES:
        (out / profile / "verify.json").unlink()
    assert main(words(home, out, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reused"]
    assert [row["profile"] for row in result["rows"]] == list(PROFILES)
    for row in result["rows"]:
        assert row["top1_agreement"] == 1.0
        assert row["against_float"]["agreement"] is not None
        assert row["ratio"] > 0
        assert (out / row["profile"] / "verify.json").is_file()
        assert row["profile"] in (out / "report.html").read_text()


def test_the_table_tells_what_quantization_costs_and_gains(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(home, home / "deploy")) == 0
    captured = capsys.readouterr()
    for header in ("bits", "int8", "size", "SNR", "verdict", "inputs from"):
        assert header in captured.out
    assert "default subnet: exported before" in captured.out
    assert "of an earlier run" in captured.out


def test_an_interrupted_run_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = eqnet.stages.export.export.export
    exported: list[str] = []

    def interrupted(**options: Any) -> Any:
        if len(exported) == 1:
            raise KeyboardInterrupt
        exported.append(options["profile"])
        return real(**options)

    monkeypatch.setattr(EXPORT, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(home, tmp_path / "deploy")
    exported.clear()
    forbid(monkeypatch, TRAIN)
    result = run(home, tmp_path / "deploy")
    assert exported == [PROFILES[1]]
    assert {row.verdict for row in result.rows} <= {"passed", "skipped"}


def test_a_damaged_artifact_is_exported_again(home: Path, deploy: Path) -> None:
    model = deploy / PROFILES[1] / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    run(home, deploy)
    assert model.stat().st_size == len(content)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 3}, "seed"),
        ({"images": 9}, "images"),
        ({"inputs": Inputs(size=17)}, "inputs"),
        ({"reconstruct": True}, "reconstruct"),
        ({"weights": None}, "weights"),
        ({"model": "eqnet:resnet20"}, "model"),
    ],
)
def test_other_settings_do_not_replace_a_supernet(
    changes: dict[str, Any], named: str, home: Path, deploy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, TRAIN)
    with pytest.raises(OutputError, match=f"other settings: {named} .*--force") as caught:
        run(home, deploy, **changes)
    assert "\n" not in str(caught.value)


def test_another_image_makes_another_supernet(home: Path, deploy: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(home / "photos", tmp_path / "photos"))
    with pytest.raises(OutputError, match="data"):
        run(home, deploy, data=photos)
    shutil.copy(photos / "cat/0.png", photos / "cat/new.png")
    run(home, deploy, data=photos, force=True, profiles=PROFILES[:1])
    (photos / "cat/new.png").unlink()
    with pytest.raises(OutputError, match="files"):
        run(home, deploy, data=photos)


def test_force_makes_all_of_it_anew(home: Path, deploy: Path) -> None:
    before = (deploy / "supernet/quantize.json").read_text()
    result = run(home, deploy, seed=1, force=True)
    assert not result.reused
    assert (deploy / "supernet/quantize.json").read_text() != before
    assert run(home, deploy, seed=1).reused


def test_a_supernet_of_another_origin_is_kept(home: Path, deploy: Path) -> None:
    (deploy / "supernet/quantize.json").unlink()
    with pytest.raises(OutputError, match="not the record"):
        run(home, deploy)


def test_a_failing_export_is_told_and_the_others_go_on(
    home: Path,
    deploy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(deploy / PROFILES[0])

    def fails(**options: Any) -> None:
        raise CheckpointError("no such kernel")

    monkeypatch.setattr(EXPORT, fails)
    assert main(words(home, deploy, "--json")) == 11
    captured = capsys.readouterr()
    rows = {row["profile"]: row for row in json.loads(captured.out)["rows"]}
    assert rows[PROFILES[0]]["reasons"] == ["no such kernel"]
    assert rows[PROFILES[1]]["verdict"] != "failed"
    assert captured.err.endswith(f"error: failed: {PROFILES[0]} (the table says why)\n")


def test_a_failed_verification_ends_with_11(
    home: Path, deploy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = eqnet.stages.verify.verify

    def fails(artifact: Path, **options: Any) -> Any:
        failed = {"verdict": "failed"} if artifact.name == PROFILES[0] else {}
        return real(artifact, **options).model_copy(update=failed)

    monkeypatch.setattr("eqnet.stages.verify.verify", fails)
    assert main(words(home, deploy, "--quiet")) == 11
    assert (deploy / PROFILES[1] / "verify.json").is_file()


@pytest.mark.parametrize("name", ["nothing", "openvino_asymm"])
def test_an_unknown_profile_ends_before_anything_is_computed(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deploy"
    assert main(words(home, out, profiles=(PROFILES[0], name))) == 3
    assert name in one_line(capsys)
    assert not out.exists()


def test_a_profile_that_its_target_refuses_ends_before_anything_is_computed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text("extends: openvino_asym\nname: slow\nplacement: {carriers: [other]}\n")
    assert main(words(home, tmp_path / "deploy", profiles=(PROFILES[0], str(path)))) == 3
    assert "slow" in one_line(capsys)
    assert not (tmp_path / "deploy").exists()


def test_names_of_profiles_are_folders_of_their_own(home: Path, tmp_path: Path) -> None:
    twins = [str(write_profile(tmp_path / side, "chip")) for side in "ab"]
    with pytest.raises(UsageError, match="both named 'chip'"):
        run(home, tmp_path / "deploy", profiles=twins)
    with pytest.raises(UsageError, match="'supernet'"):
        run(home, tmp_path / "deploy", profiles=[str(write_profile(tmp_path, "supernet"))])
    with pytest.raises(UsageError, match="no profile"):
        run(home, tmp_path / "deploy", profiles=[])
    assert not (tmp_path / "deploy").exists()


def test_a_folder_of_other_content_is_not_replaced(home: Path, tmp_path: Path) -> None:
    (tmp_path / "deploy" / PROFILES[0]).mkdir(parents=True)
    (tmp_path / "deploy" / PROFILES[0] / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="other content"):
        run(home, tmp_path / "deploy", force=True)


def test_a_wanted_search_is_done_once(
    home: Path, deploy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eqnet.supernet.latency.REPEATS", 5)
    profile = PROFILES[1]
    result = run(home, deploy, search="always", profiles=[profile])
    assert result.subnets == {profile: "searched: as wanted"}
    assert (deploy / "search" / profile / "search.json").is_file()
    manifest = json.loads((deploy / profile / "manifest.json").read_text())
    assert manifest["subnet_origin"].endswith("subnet.json")
    monkeypatch.setattr("eqnet.stages.search.search.search", None)
    assert run(home, deploy, search="auto", profiles=[profile]).subnets == {
        profile: "searched: exported before"
    }
    shutil.rmtree(deploy / profile)
    assert run(home, deploy, search="always", profiles=[profile]).subnets == {
        profile: "searched: before"
    }
    assert run(home, deploy, search="never", profiles=[profile]).subnets == {
        profile: "default subnet: no search was wanted"
    }


def test_a_default_subnet_is_raced_and_the_table_says_so(home: Path, deploy: Path) -> None:
    profile = PROFILES[1]
    shutil.rmtree(deploy / profile)
    told = run(home, deploy, race=True, profiles=[profile]).subnets[profile]
    assert re.fullmatch(
        r"default subnet: no search was wanted; raced: .+, \d\.\d\d of float's time", told
    )
    manifest = json.loads((deploy / profile / "manifest.json").read_text())
    assert manifest["race"]["chosen"] in told
    again = run(home, deploy, race=True, profiles=[profile])
    assert again.subnets == {profile: "default subnet: exported before"}


@pytest.fixture
def session(home: Path) -> Session:
    return open_session(home / "deploy/supernet", home / "photos", allow_code=True)


def test_search_pays_where_it_is_expected_to_be_short(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("onnxruntime_x86")
    told = {}
    for seconds in (5.0, 90.0, 600.0, 90_000.0):
        monkeypatch.setattr(
            "eqnet.stages.quantize.search_or_default.expected_seconds",
            lambda *_, seconds=seconds: seconds,
        )
        told[seconds] = choose_for_profile("auto", session, profile)
    assert [choice.search for choice in told.values()] == [True, False, False, False]
    assert "5 s" in told[5.0].reason
    assert "10 min" in told[600.0].reason
    assert "25 h" in told[90_000.0].reason


def test_a_runtime_that_is_missing_is_no_reason_to_fail(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = SimpleNamespace(unavailable=lambda profile: "it is not installed")
    monkeypatch.setattr(
        "eqnet.stages.quantize.search_or_default.exporter_of", lambda profile: absent
    )
    choice = choose_for_profile("auto", session, load_profile("onnxruntime_x86"))
    assert not choice.search
    assert "not installed" in choice.reason


def test_a_budget_of_cost_needs_a_search(session: Session) -> None:
    profile = load_profile("onnxruntime_x86").model_copy(update={"budgets": {"cost": 5.0}})
    assert choose_for_profile("auto", session, profile).search
    with pytest.raises(UsageError, match="cost"):
        require_choosable("never", profile)


def test_the_work_of_a_search_follows_from_its_space(session: Session) -> None:
    small = work_of(session, load_profile("onnxruntime_x86"))
    large = work_of(session, load_profile("custom_lowbit"))
    assert small.graphs > 1
    assert small.places == 0
    # Each layer and tensor at a few bits, which takes parts of passes.
    assert large.places > len(session.supernet.info.layers)
    assert large.graphs == 0
    lowbit = load_profile("custom_lowbit")
    timed = lowbit.model_copy(update={"cost": load_profile("onnxruntime_x86").cost})
    assert work_of(session, timed).graphs == SUBNETS + HELD_OUT  # by a latency model
    validation, calibration = len(session.dataset.validation()), len(session.calibration())
    # Every subnet of the space on few images, then the finalists on all of them.
    whole, finalists = (validation + calibration), 4
    assert finalists * whole < small.images <= (finalists + 16) * whole


def test_the_expected_time_grows_with_what_a_pass_takes(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("onnxruntime_x86")
    found = []
    for seconds in (1.0, 2.0):
        monkeypatch.setattr(
            "eqnet.stages.search.duration._seconds_per_image",
            lambda session, seconds=seconds: seconds,
        )
        found.append(expected_seconds(session, profile, patience=0.0))
    work = work_of(session, profile)
    assert found == [work.images, 2 * work.images]
