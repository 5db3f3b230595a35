"""From a supernet, or a folder of graphs on a board without torch, to a latency file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from artifacts import profile
from latency_tools import rules, small_subject

from eqnet.cli.main import main
from eqnet.latency.folder import read_graphs, write_graphs
from eqnet.latency.whole_graph import cut
from eqnet.spec.errors import ArtifactError, OutputError, UsageError
from eqnet.spec.latency.file import latency_name, read_latency
from eqnet.stages.profile_device import profile_device
from eqnet.supernet.checkpoint import bundled_supernet, load_supernet

FEW = ["--subnets", "9", "--held-out", "3", "-q"]
BOARD = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
from eqnet.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried") / "board"
    write_graphs(folder, small_subject())
    return folder


def test_a_folder_of_graphs_is_read_as_it_was_written(graphs):
    subject, ours = read_graphs(graphs), small_subject()
    assert (subject.info, subject.profile, subject.supernet) == (
        ours.info,
        ours.profile,
        ours.supernet,
    )
    spec = subject.target.uniform((8, 8))
    names = [node.name for node in cut(subject.whole, subject.info, spec).graph]
    assert names == [node.name for node in cut(ours.whole, ours.info, spec).graph]


def test_a_board_without_torch_makes_the_file(graphs, tmp_path):
    arguments = ["profile-device", "--graphs", str(graphs), "--out", "l.json", "--json", *FEW]
    done = subprocess.run(
        [sys.executable, "-c", BOARD, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    file = read_latency(tmp_path / "l.json")
    assert len(file.samples) == 12
    assert file.fit is not None
    said = json.loads(done.stdout)
    assert "samples" not in said
    assert said["fit"]["held_out"]["subnets"] == 3
    assert said["setting"]["profile"] == rules().name
    assert set(file.host) >= {"cpu", "flags", "cores", "numpy"}


def test_the_bundled_supernet_by_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "deep" / "l.json"
    command = ["profile-device", "-p", "onnxruntime_x86", "--threads", "1", "--out", str(out)]
    assert main([*command, *FEW]) == 0
    shown = capsys.readouterr().out
    _, _, identity = load_supernet(bundled_supernet())
    file = read_latency(out)
    assert (file.setting.supernet, file.setting.threads) == (identity, 1)
    for layer in file.layers:
        assert layer.name in shown
        assert layer.integer > 0
        assert layer.floating > 0
    assert "Kendall tau" in shown
    assert "on 3 subnets" in shown
    slower = [n for n, ms in file.fit.coefficients.items() if n.startswith("layer") and ms < 0]
    assert shown.count("int8 is slower here") == len(slower)


def test_graphs_are_written_by_the_command_line(tmp_path, capsys):
    folder = tmp_path / "board"
    command = ["profile-device", "-p", "onnxruntime_x86", "--write-graphs", str(folder)]
    assert main(command) == 0
    assert "--graphs" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["network.json", "whole.onnx"]
    assert read_graphs(folder).profile.name == "onnxruntime_x86"
    assert main(command) == 0  # an earlier one is replaced
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"'mine\.txt'"):
        write_graphs(folder, small_subject())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("network.json", "{", "not a folder of graphs"),
        ("network.json", "[1]", "not a folder of graphs"),
        ("whole.onnx", "other", "not the file that network.json was written with"),
        ("whole.onnx", None, "cannot read"),
        ("network.json", None, "cannot read"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, graphs, name, content, told):
    for path in graphs.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match=told) as caught:
        read_graphs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [{}, {"profile": "a", "graphs": "b"}, {"graphs": "b", "supernet": "c"}]
)
def test_one_network_is_named(given):
    with pytest.raises(UsageError, match="graphs"):
        profile_device(**given)


@pytest.mark.parametrize(
    "arguments",
    [[], ["-p", "onnxruntime_x86", "--graphs", "."], ["--graphs", ".", "--write-graphs", "x"]],
)
def test_the_command_line_says_what_is_missing(refused, arguments):
    refused(["profile-device", *arguments], 2, "--graphs")


def test_the_name_beside_a_supernet_has_the_profile():
    assert latency_name(profile().name) == "latency.by_hand.json"
