"""From a search to an artifact on the bundled supernet: what is searched is what is exported."""

from __future__ import annotations

import json
import shutil

import pytest
from search_tools import lowbit

import eqnet.stages.export.parity_set as parity_module
import eqnet.stages.search.search as search_module
from eqnet.cli.main import main
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import MANIFEST, Manifest
from eqnet.spec.reports import SearchReport
from eqnet.spec.subnet import load_subnet
from eqnet.stages.export.choose_subnet import choose_subnet
from eqnet.stages.search.fronts import choosing
from eqnet.supernet.session import open_session

NAME = "custom_lowbit"
FEW = ["--generations", "3", "--population", "12", "--refine", "2", "-q"]


def run_search(folder, seed):
    """Search with few subnets and one finalist beside the uniform baseline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(choosing, "FINALISTS", 1)
        assert main(["search", "-p", NAME, "--seed", str(seed), *FEW]) == 0
    return folder / "runs/search" / NAME


@pytest.fixture(scope="module")
def searched(tmp_path_factory, bundled_data_only):
    """A folder in which the command line searched custom_lowbit."""
    folder = tmp_path_factory.mktemp("searched")
    run_search(folder, seed=5)
    return folder


@pytest.fixture(scope="module")
def session(bundled_data_only):
    return open_session(None)


def test_search_meets_the_profiles_budgets_and_pins(searched, session):
    folder = searched / "runs/search" / NAME
    assert sorted(path.name for path in folder.iterdir()) == ["search.json", "subnet.json"]
    report = SearchReport.model_validate_json((folder / "search.json").read_bytes())
    best, rules = load_subnet(folder / "subnet.json"), load_profile(NAME)
    assert report.best == best
    assert report.budgets == rules.budgets
    assert best.avg_weight_bits <= 4
    assert best.avg_activation_bits <= 4
    layers = [layer.name for layer in session.supernet.info.layers]
    assert list(best.weights) == layers
    assert best.weights[layers[0]] == best.weights[layers[-1]] == 8
    assert (best.supernet, best.profile_sha256) == (session.identity, rules.sha256())
    assert best.measured.images == 1000
    assert best.measured.accuracy > 0.85
    assert abs(best.measured.accuracy - best.predicted.accuracy) < 0.05


def test_the_same_seed_searches_the_same_subnet(searched, tmp_path):
    again = run_search(tmp_path, seed=5)
    first = searched / "runs/search" / NAME / "subnet.json"
    assert (again / "subnet.json").read_bytes() == first.read_bytes()


def test_export_takes_the_search_result_and_says_so(searched, monkeypatch, capsys):
    monkeypatch.chdir(searched)
    monkeypatch.setattr(parity_module, "PARITY_BYTES", 0)  # 256 images, to be quick
    assert main(["export", "-p", NAME, "-q"]) == 0
    told = capsys.readouterr().out
    assert "search: " in told
    assert "default" not in told
    folder = searched / "artifacts" / NAME
    made = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    assert made.subnet_origin == "search"
    assert made.subnet == load_subnet(searched / "runs/search" / NAME / "subnet.json")
    assert [path.name for path in (searched / "artifacts").iterdir()] == [NAME]
    assert main(["verify", str(folder), "--threads", "1", "-q"]) == 0
    assert json.loads((folder / "verify.json").read_text())["verdict"] == "passed"


def test_a_result_of_another_supernet_or_profile_is_not_taken(searched, session, tmp_path):
    rules = load_profile(NAME)
    searches = tmp_path / "search"
    shutil.copytree(searched / "runs/search", searches)
    assert choose_subnet(session, rules, None, searches).origin == "search"
    changed = rules.model_copy(update={"description": "other"})
    assert choose_subnet(session, changed, None, searches).origin == "default"
    path = searches / NAME / "subnet.json"
    other = load_subnet(path).model_copy(update={"supernet": "0" * 64})
    path.write_text(other.model_dump_json())
    assert choose_subnet(session, rules, None, searches).origin == "default"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"supernet": "0" * 64}, "searched in supernet 000000000000 (allowed: this one"),
        ({"profile_sha256": "0" * 64}, "in another form (allowed: 'custom_lowbit' as it is now)"),
    ],
)
def test_a_subnet_of_another_supernet_or_profile_is_refused(
    searched, tmp_path, capsys, change, told
):
    spec = load_subnet(searched / "runs/search" / NAME / "subnet.json")
    path = tmp_path / "subnet.json"
    path.write_text(spec.model_copy(update=change).model_dump_json())
    out = tmp_path / "out"
    assert main(["export", "-p", NAME, "--subnet", str(path), "--out", str(out), "-q"]) == 4
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert told in captured.err
    assert [item.name for item in tmp_path.iterdir()] == ["subnet.json"]


def test_a_subnet_under_another_profile_is_refused(searched, tmp_path, capsys):
    path = searched / "runs/search" / NAME / "subnet.json"
    arguments = ["--subnet", str(path), "--out", str(tmp_path / "out"), "-q"]
    assert main(["export", "-p", "onnxruntime_x86", *arguments]) == 4
    assert "searched under profile 'custom_lowbit'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_infeasible_budget_predicts_nothing(tmp_path, bundled_data_only, monkeypatch, capsys):
    monkeypatch.setattr(search_module, "load_cqap", lambda *_: pytest.fail("predictor loaded"))
    arguments = ["--budget", "avg_weight_bits=1", "--out", str(tmp_path / "out"), "-q"]
    assert main(["search", "-p", NAME, *arguments]) == 8
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "avg_weight_bits=1" in captured.err
    nearest = float(captured.err.rpartition("nearest reachable: ")[2].rstrip(")\n"))
    assert 2 < nearest < 2.1  # pinned layers are a hundredth of the weights
    assert list(tmp_path.iterdir()) == []


def test_default_without_a_search_keeps_to_the_budgets(session, tmp_path):
    made = choose_subnet(session, load_profile(NAME), None, tmp_path)
    assert made.origin == "default"
    assert made.spec.avg_weight_bits <= 4
    assert made.spec.avg_activation_bits <= 4
    loose = lowbit(name="loose")
    assert choose_subnet(session, loose, None, tmp_path).spec.avg_weight_bits == 8
