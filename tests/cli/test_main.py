"""The command line: its help, what it refuses, and what it reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import REPO, one_line, write_profile
from report_samples import five_artifacts

from eqnet.cli.main import main
from eqnet.cli.options import require_writable
from eqnet.spec.errors import EqnetError, OutputError

COMMANDS = (
    *("profiles", "inspect", "quantize", "train", "eval", "search", "explain", "export", "verify"),
    *("bench", "compare", "report", "demo"),
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write_profile(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    captured = capsys.readouterr()
    assert "Usage: eqnet" in captured.out
    if command != "profiles":
        assert f"eqnet {command} " in captured.out.split("Usage:")[1].split("\n", 1)[1]
        assert "--json" in captured.out


@pytest.mark.parametrize("command", ["list", "show", "validate"])
def test_help_of_profiles_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", command, "--help"]) == 0
    assert f"eqnet profiles {command}" in capsys.readouterr().out


def test_root_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command in text
    for error in EqnetError.__subclasses__():
        assert f" {error.exit_code}  " in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from eqnet.cli.main import main\n"
        "main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'pydantic', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False
    )
    assert done.returncode == 0, done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from eqnet import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"eqnet {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense"),
        (["search"], "--profile"),
        (["eval", "--bits", "w9a4"], "w9a4"),
        (["eval", "--bits", "4"], "such as w4a4"),
        (["eval", "--weights", "per_tensro:symmetric"], "did you mean 'per_tensor'"),
        (["eval", "--weights", "per_tensor:odd"], "allowed: asymmetric, symmetric"),
        (["eval", "--activations", "odd"], "--activations"),
        (["eval", "--split", "tests"], "did you mean 'test'"),
        (["eval", "--seed", "-1"], "'--seed'"),
        (["search", "-p", "x", "--budget", "avg_weight_bit=4"], "did you mean 'avg_weight_bits'"),
        (["search", "-p", "x", "--budget", "speed=4"], "allowed: avg_activation_bits"),
        (["search", "-p", "x", "--budget", "cost"], "a number above 0"),
        (["search", "-p", "x", "--budget", "cost=nan"], "a number above 0"),
        (["search", "-p", "x", "--budget", "cost=-1"], "a number above 0"),
        (["search", "-p", "x", "--budget", "cost=1", "--budget", "cost=2"], "given twice"),
        (["bench", "x", "--max-regression", "5"], "such as 5%"),
        (["bench", "x", "--max-regression", "many"], "such as 5%"),
        (["bench", "x", "--format", "benchr"], "did you mean 'bencher'"),
        (["bench", "x", "--format", "bencher", "--json"], "allowed: one of them"),
        (["train", "--out", "x"], "either --recipe"),
        (["train", "--out", "x", "--post-training"], "--model"),
        (["train", "--out", "x", "--recipe", "a", "--post-training"], "either --recipe"),
        (["train", "--out", "x", "--recipe", "a.yaml", "--images", "9"], "--images has no meaning"),
        (
            ["train", "--out", "x", "--post-training", "--model", "resnet20", "--resume"],
            "--resume has no meaning",
        ),
        (["demo", "--profiles", ","], "none given"),
    ],
)
def test_wrong_use_is_one_line_and_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line = one_line(capsys)
    assert line.startswith("error: ")
    assert told in line


def test_unknown_profile_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "eqnet.spec.hardware.load.builtin_profiles", lambda: ["openvino_asym", "other"]
    )
    for command in (["export", "--profile", "openvino_asim"], ["profiles", "show", "openvinoasym"]):
        assert main(command) == 3
        assert "did you mean 'openvino_asym'" in one_line(capsys)


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_missing_artifact(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "none")]) == 6
    assert "no such folder" in one_line(capsys)
    assert main([command, str(tmp_path)]) == 6
    assert "manifest.json" in one_line(capsys)


@pytest.mark.parametrize("command", [["search", "-p"], ["export", "-p"]])
def test_wrong_supernet_data_and_out(
    command: list[str], profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("x")
    base = [*command, str(profile)]
    assert main([*base, "--supernet", str(tmp_path / "no")]) == 4
    assert "--supernet" in one_line(capsys)
    assert main([*base, "--data", str(blocker)]) == 5
    assert "not a folder" in one_line(capsys)
    assert main([*base, "--out", str(blocker / "below")]) == 9
    assert "cannot write" in one_line(capsys)
    assert main([*base, "--out", str(blocker)]) == 9
    assert "is a file" in one_line(capsys)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "my_chip.yaml"]


def test_bench_never_overwrites_its_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = five_artifacts(tmp_path)[0]
    before = (folder / "bench.json").read_bytes()
    assert main(["bench", str(folder), "--baseline", str(folder / "bench.json")]) == 2
    assert "would be overwritten" in one_line(capsys)
    assert (folder / "bench.json").read_bytes() == before
    assert main(["bench", str(folder), "--baseline", str(tmp_path / "no.json")]) == 2
    assert "no such file" in one_line(capsys)


def test_require_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b", folder=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="is a folder"):
        require_writable(tmp_path, folder=False)


def test_a_link_or_a_device_is_writable_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file/below")
    with pytest.raises(OutputError):
        require_writable(tmp_path / "link", folder=False)
    require_writable(Path("/dev/null"), folder=False)


def test_report_as_json_and_as_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in five_artifacts(tmp_path / "a")[:2]]
    page = tmp_path / "r.html"
    assert main(["report", *paths, "--out", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(page)
    assert [row["profile"] for row in told["rows"]] == ["custom_lowbit", "custom_lowbit_w4a8"]
    assert main(["report", *paths, "--out", str(page)]) == 0
    assert "1.41x faster" in capsys.readouterr().out
