"""The snippets of the documents are run, so that they stay true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from eqnet.backend.discovery import exporter_names, find_exporter
from eqnet.backend.protocol import Exporter
from eqnet.backend.refusals import accepted_refusals
from eqnet.cli.app import app
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.costs import CostModel
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import ActivationRules, HardwareProfile, Placement

DOCS = Path(__file__).parents[2] / "docs"
PROFILES = DOCS / "writing-a-profile.md"


def snippets(path: Path, language: str) -> list[str]:
    """The fenced code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def names(values) -> set[str]:
    return set(values.__args__)


YAML = snippets(PROFILES, "yaml")


def test_the_document_has_snippets():
    assert len(YAML) >= 7


@pytest.mark.parametrize("number", range(len(YAML)))
def test_every_profile_of_the_document_loads_and_is_accepted(number, tmp_path):
    path = tmp_path / "snippet.yaml"
    path.write_text(YAML[number], encoding="utf-8")
    profile = load_profile(str(path))
    assert isinstance(profile, HardwareProfile)
    accepted = accepted_refusals(find_exporter(profile.backend), profile)
    assert tuple(one.key for one in accepted) == profile.accept_slow


def test_the_quoted_refusal_is_the_real_one(tmp_path):
    (snippet,) = (text for text in YAML if "accept_slow" in text)
    path = tmp_path / "my_asym.yaml"
    path.write_text(re.sub(r"accept_slow.*\n", "", snippet), encoding="utf-8")
    profile = load_profile(str(path))
    with pytest.raises(ProfileError) as error:
        accepted_refusals(find_exporter(profile.backend), profile)
    assert str(error.value) in " ".join(PROFILES.read_text(encoding="utf-8").split())


def test_the_keys_that_can_be_accepted_are_those_of_the_exporters():
    text = PROFILES.read_text(encoding="utf-8").partition("## What the target runs slowly")[2]
    rows = re.findall(r"^\| `(\w+)` \| (`[\w.`, ]+`) \|", text, re.M)
    told = {(backend, key) for backend, keys in rows for key in re.findall(r"[\w.]+", keys)}
    found = {name: find_exporter(name).capabilities for name in exporter_names()}
    declared = {(name, key) for name, can in found.items() for key in can.slow | can.in_float}
    keys = ("placement.add", "activations.storage", "weights.reduce_range")
    own = {("onnxruntime", key) for key in keys}
    assert told == declared | own


def test_the_python_snippet_says_what_its_comment_says(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_board.yaml").write_text(YAML[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (code,) = snippets(PROFILES, "python")
    exec(compile(code, str(PROFILES), "exec"), {})
    (said,) = re.findall(r"# (per_.*)$", code, re.M)
    assert capsys.readouterr().out.strip() == said


def test_extends_behaves_as_described(tmp_path):
    path = tmp_path / "my_xeon.yaml"
    path.write_text(YAML[1], encoding="utf-8")
    base, mine = load_profile("openvino_asym"), load_profile(str(path))
    assert mine.bench.max_seconds == base.bench.max_seconds
    assert mine.bench.batch == 8
    assert mine.search_groups == ("linear",)


def test_the_tables_list_every_value():
    text = PROFILES.read_text(encoding="utf-8")
    for one in get_args(get_args(CostModel)[0]):
        (model,) = names(one.model_fields["model"].annotation)
        assert f"| `{model}` |" in text
    for key in Placement.model_fields:
        assert f"| `{key}` |" in text
    for key in ("storage", "zero_point"):
        values = names(ActivationRules.model_fields[key].annotation)
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        assert all(value in line for value in values)


def test_the_quoted_errors_are_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PROFILES.read_text(encoding="utf-8")
    for change in ("bits: [[1, 8]]", "bench: {batches: 4}"):
        Path("my_board.yaml").write_text(YAML[0] + change + "\n", encoding="utf-8")
        with pytest.raises(ProfileError) as error:
            load_profile("my_board.yaml")
        assert f"    {error.value}\n" in text
    with pytest.raises(ProfileError) as error:
        load_profile("tensorrt_int")
    assert str(error.value).split(" (allowed", 1)[0] in text


def test_the_commands_of_the_document_exist():
    from typer.main import get_command

    command = get_command(app)
    for line in re.findall(r"^    eqnet (.+)$", PROFILES.read_text(encoding="utf-8"), re.M):
        words = line.split()
        found = command
        while words and hasattr(found, "commands"):
            found = found.commands[words.pop(0)]
        flags = {word for word in words if word.startswith("--")}
        assert flags <= {option for param in found.params for option in param.opts}


def test_the_entry_point_snippet_names_the_real_group():
    (text,) = snippets(PROFILES, "toml")
    groups = tomllib.loads(text)["project"]["entry-points"]
    assert set(groups) == {"eqnet.exporters"}
    assert Exporter.__name__ in PROFILES.read_text(encoding="utf-8")
