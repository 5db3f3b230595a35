"""`eqnet profiles`: every wrong file is refused in one line, every right one is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import PROFILE, one_line, write_profile

from eqnet.cli.main import main
from eqnet.spec.hardware.load import load_profile


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write_profile(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("backend: lowbit", "backend: lowbit\ncolour: red", "colour"),
        ("backend: lowbit", "backend: [1]", "backend"),
        ("[[4, 8], [8, 8]]", "[[1, 8]]", "allowed: 2 to 8"),
        ("[[4, 8], [8, 8]]", "[[4, 8, 8]]", "bits"),
        ("[[4, 8], [8, 8]]", "[]", "no pair given"),
        ("schema_version: 1", "schema_version: 2", "newer eqnet"),
        ("per_channel", "per_group", "granularity"),
        ("cost: {model: size}", "cost: {model: guess}", "cost.model"),
        ("cost: {model: size}", "cost: {model: lookup}", "cost.lookup.table: Field required"),
        ("cost: {model: size}", "cost: {model: size", "not valid YAML"),
        ("name: my_chip", "name: &a my_chip\ndescription: *a", "aliases are not allowed"),
        ("name: my_chip", "name: !!python/name:os.system x", "not valid YAML"),
        ("name: my_chip", "name: My Chip", "name"),
        ("name: my_chip", "name: my_chip\nextends: nothing", "extends"),
    ],
)
def test_validate_refuses_in_one_line(
    profile: Path, old: str, new: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in PROFILE
    profile.write_text(PROFILE.replace(old, new))
    assert main(["profiles", "validate", str(profile)]) == 3
    line = one_line(capsys)
    assert told in line
    assert str(profile) in line


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\xff\xfe\x00", b"a: " + b"[" * 5000])
def test_validate_refuses_what_is_no_mapping(
    profile: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.write_bytes(content)
    assert main(["profiles", "validate", str(profile)]) == 3
    assert str(profile) in one_line(capsys)


def test_alias_bomb_is_refused_at_once(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    profile.write_text("\n".join(lines))
    assert main(["profiles", "validate", str(profile)]) == 3
    assert "aliases are not allowed" in one_line(capsys)


def test_profile_that_extends_itself(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.write_text("extends: my_chip\n" + PROFILE)
    assert main(["profiles", "validate", str(profile)]) == 3
    assert "a circle" in one_line(capsys)


def test_validate_missing_file_and_wrong_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profiles", "validate", str(tmp_path / "no.yaml")]) == 3
    assert "cannot read" in one_line(capsys)
    assert main(["profiles", "validate", str(tmp_path / "my_chip")]) == 3
    assert "allowed: .yaml" in one_line(capsys)


def test_validate_accepts_and_says_so(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "validate", str(profile)]) == 0
    assert "'my_chip' for backend 'lowbit' is valid" in capsys.readouterr().out
    assert main(["profiles", "validate", str(profile), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("backend: lowbit", "backend: lowbitt", "unknown backend 'lowbitt'; did you mean 'lowbit'"),
        ("backend: lowbit", "backend: tensorrt", "activations.symmetry: asymmetric (allowed: sym"),
        (
            "backend: lowbit",
            "backend: onnxruntime",
            "accepted with accept_slow: [bits, placement.add]",
        ),
        ("bits:", "opset: 22\nbits:", "opset: 22 (allowed: 21)"),
        ("bits:", "engines: {targets: [SM89], max_batch: 4}\nbits:", "engines: targets, max_batch"),
    ],
)
def test_validate_asks_the_backend(
    profile: Path, old: str, new: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.write_text(PROFILE.replace(old, new))
    assert main(["profiles", "validate", str(profile)]) == 3
    line = one_line(capsys)
    assert line.startswith(f"error: {profile}: ")
    assert told in line


def test_validate_tells_what_was_accepted_as_slow(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PROFILE.replace("lowbit", "onnxruntime") + "placement: {add: both}\n"
    profile.write_text(text + "accept_slow: [bits]\n")
    assert main(["profiles", "validate", str(profile)]) == 0
    assert "accepted as slow: bits: 4 (allowed: 8 or more)" in capsys.readouterr().out
    assert main(["profiles", "validate", str(profile), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slow"] == ["bits: 4 (allowed: 8 or more)"]


def test_shown_profile_is_a_valid_profile(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profiles", "show", str(profile)]) == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(capsys.readouterr().out)
    assert load_profile(str(copy)) == load_profile(str(profile))


def test_profiles_list_as_json_and_as_table(
    profile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eqnet.spec.hardware.load.profiles_dir", lambda: profile.parent)
    assert main(["profiles", "list", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == ["my_chip"]
    assert main(["profiles", "list"]) == 0
    text = capsys.readouterr().out
    assert "my_chip" in text
    assert "w4-8 a8" in text
