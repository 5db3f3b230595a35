"""Bad artifacts, data and outputs through the command line: nothing is left half-written."""

from __future__ import annotations

import json
import shutil

import pytest
from artifacts import profile as hand_profile
from artifacts import write_artifact
from graphs import residual_net

import eqnet.stages.export.export as export_module
from eqnet.cli.main import main
from eqnet.spec.errors import EqnetError
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY, REFERENCE
from eqnet.supernet.session import Session

pytestmark = pytest.mark.usefixtures("bundled_data_only")

EXPORT = ["export", "-p", "custom_lowbit_w4a8", "-q"]
COMMANDS = {
    "export": EXPORT,
    "search": ["search", "-p", "custom_lowbit_w4a8", "-q"],
    "eval": ["eval", "-q"],
}


@pytest.mark.parametrize(
    ("command", "name"),  # bench does not read the parity set
    [
        ("verify", MODEL),
        ("verify", REFERENCE),
        ("verify", PARITY),
        ("bench", MODEL),
        ("bench", REFERENCE),
    ],
)
def test_an_artifact_with_a_changed_or_missing_file(refused, artifact, command, name):
    content = (artifact / name).read_bytes()
    (artifact / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused([command, artifact, "-q"], 6, name, "sha256")
    (artifact / name).write_bytes(content[: len(content) // 3])
    refused([command, artifact, "-q"], 6, name)
    (artifact / name).unlink()
    refused([command, artifact, "-q"], 6, name)


@pytest.mark.parametrize("command", [["verify"], ["bench"], ["report", "--out", "page.html"]])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema_version": 99}'])
def test_an_artifact_with_a_wrong_manifest(refused, artifact, command, content):
    (artifact / MANIFEST).write_bytes(content)
    refused([*command, artifact], 6, artifact / MANIFEST)


def test_report_of_what_is_no_artifact(refused, tmp_path):
    refused(["report", tmp_path / "nothing"], 6, "nothing")


@pytest.mark.parametrize("command", [*COMMANDS, "train", "verify"])
def test_an_empty_or_wrong_data_folder(refused, tmp_path, artifact, command):
    extra = {
        "train": ["train", "--post-training", "--model", "eqnet:resnet20", "--out", "new", "-q"],
        "verify": ["verify", artifact, "-q"],
    }
    if command == "verify":  # an artifact of a known dataset
        shutil.rmtree(artifact)
        write_artifact(artifact, residual_net(), hand_profile(), dataset="fashion_mnist")
    arguments = [*(COMMANDS | extra)[command], "--data"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    refused([*arguments, tmp_path / "empty"], 5, "empty")
    refused([*arguments, tmp_path / "file"], 5, "file")
    refused([*arguments, tmp_path / "none"], 5, "none")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (wrong / f"{part}-{kind}-ubyte").write_bytes(b"not an IDX file at all")
    if command not in ("export",):  # export reads only the bundled slices
        refused([*arguments, wrong], 5, "not an IDX file")
    (wrong / "t10k-labels-idx1-ubyte").unlink()
    refused([*arguments, wrong], 5, "t10k-labels-idx1-ubyte is missing")


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "-p", "custom_lowbit_w4a8", "-q"],
        ["search", "-p", "custom_lowbit_w4a8", "-q"],
        ["train", "--post-training", "--model", "eqnet:resnet20", "-q"],
        ["demo", "-q"],
        ["verify", "made", "-q"],
        ["bench", "made", "-q"],
        ["report", "made"],
    ],
)
def test_an_output_that_cannot_be_written(refused, tmp_path, artifact, arguments):
    (tmp_path / "file").write_text("x")
    refused([*arguments, "--out", tmp_path / "file" / "below"], 9, "file/below")


def test_a_folder_with_other_files_is_never_replaced(refused, tmp_path, monkeypatch):
    quick_export(monkeypatch)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused([*EXPORT, "--out", "mine"], 9, "other content")


def quick_export(monkeypatch):
    """Leave out the costly steps of an export that a test lets fail later."""
    import onnx_ir as ir

    monkeypatch.setattr(Session, "settle", lambda *_: None)
    monkeypatch.setattr(export_module, "to_onnx", lambda *_: ir.from_proto(residual_net()))
    monkeypatch.setattr(export_module, "check_reference", lambda *_: None)


@pytest.mark.parametrize("error", [EqnetError("odd graph"), OSError(28, "No space left")])
def test_a_failing_export_leaves_the_old_artifact(refused, artifact, monkeypatch, error):
    quick_export(monkeypatch)

    def fail(*_):
        raise error

    monkeypatch.setattr(export_module, "write_parity", fail)
    code = 9 if isinstance(error, OSError) else 1
    refused([*EXPORT, "--force", "--out", artifact], code)
    refused([*EXPORT, "--out", "new"], code)


def test_an_interrupted_export_leaves_nothing(tmp_path, artifact, unchanged, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick_export(monkeypatch)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "write_parity", interrupt)
    assert main([*EXPORT, "--force", "--out", str(artifact)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_artifact_of_another_digest_than_expected(refused, artifact):
    other = "0123456789abcdef" * 4
    refused(["verify", artifact, "--expect", other, "-q"], 6, "digest", other)
    refused(["verify", artifact, "--expect", other[:12], "-q"], 2, "--expect", "64")
    refused(["verify", artifact, "--expect", "", "-q"], 2, "--expect", "64")


def test_verify_prints_the_digest_that_it_expects(artifact, capsys):
    assert main(["verify", str(artifact), "--json", "-q"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert main(["verify", str(artifact), "--expect", digest, "-q"]) == 0
    assert digest in capsys.readouterr().out
