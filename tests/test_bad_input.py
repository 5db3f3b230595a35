"""Bad input through the command line: one line, the documented code, nothing half-written."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from artifacts import profile as hand_profile
from artifacts import write_artifact
from cli_tools import PROFILE
from graphs import residual_net
from safetensors.numpy import load_file, save_file

import eqnet.export.export as export_module
from eqnet.cli.main import main
from eqnet.search.cqap import FILE as CQAP_FILE
from eqnet.spec.errors import EqnetError
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY, REFERENCE
from eqnet.supernet.checkpoint import FILE, bundled_supernet
from eqnet.supernet.session import Session

pytestmark = pytest.mark.usefixtures("bundled_data_only")


def tree(folder):
    """Every path below a folder, with the content of files; byte code does not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command that must fail in `tmp_path` and leave it exactly as it was."""
    monkeypatch.chdir(tmp_path)

    def run(arguments, code, *told):
        before = tree(tmp_path)
        found = main([str(item) for item in arguments])
        captured = capsys.readouterr()
        assert found == code, captured.err
        assert captured.out == ""
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err
        assert "unexpected" not in captured.err
        assert len(captured.err) < 800
        for part in told:
            assert str(part) in captured.err
        assert tree(tmp_path) == before
    return run


# ---- profiles


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "-p", "tensorrt_int9"],
        ["export", "-p", "tensorrt-int8"],
        ["profiles", "show", "tensorrt_int"],
        ["profiles", "validate", "tensorrt_int"],
        ["eval", "--placement", "tensorrtint8"],
    ],
)
def test_unknown_profile_suggests_the_nearest(refused, arguments):
    refused(arguments, 3, "tensorrt_int8")


def test_unknown_profile_of_the_demo(refused):
    refused(["demo", "--profiles", "openvino_asim"], 2, "did you mean 'openvino_asym'")


@pytest.mark.parametrize("command", ["search", "export"])
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("backend: lowbit", "backend: lowbit\ncolour: red", "colour"),
        ("bits: [[4, 8], [8, 8]]", "bits: many", "bits"),
        ("[[4, 8], [8, 8]]", "[[4, 9]]", "allowed: 2 to 8"),
        ("schema_version: 1", "schema_version: 9", "newer eqnet"),
        ("name: my_chip", "name: &a my_chip\ndescription: *a", "aliases are not allowed"),
        ("backend: lowbit", "backend: lowbitt", "did you mean 'lowbit'"),
    ],
)
def test_a_wrong_profile(refused, tmp_path, command, old, new, told):
    (tmp_path / "my_chip.yaml").write_text(PROFILE.replace(old, new))
    code = 2 if "lowbitt" in new else 3
    refused([command, "-p", "my_chip.yaml", "-q"], code, told)
    refused([command, "-p", "none.yaml", "-q"], 3, "none.yaml")


@pytest.mark.parametrize("command", ["search", "export"])
def test_an_alias_bomb(refused, tmp_path, command):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    refused([command, "-p", "bomb.yaml", "-q"], 3, "aliases are not allowed")


def test_a_lookup_profile_without_its_table(refused, tmp_path):
    text = PROFILE.replace("{model: size}", "{model: lookup, table: times.json}")
    (tmp_path / "my_chip.yaml").write_text(text)
    refused(["search", "-p", "my_chip.yaml", "-q"], 3, "times.json")


def test_a_pin_that_matches_no_layer(refused, tmp_path):
    (tmp_path / "my_chip.yaml").write_text(PROFILE + "pinned: [{layers: 'no.*'}]\n")
    refused(["export", "-p", "my_chip.yaml", "-q"], 3, "matches no layer")


def test_unknown_budget(refused):
    refused(["search", "-p", "custom_lowbit", "--budget", "avg_wieght_bits=4"], 2,
            "did you mean 'avg_weight_bits'")  # fmt: skip


# ---- supernets, predictors, subnets


@pytest.fixture
def supernet(tmp_path):
    """A copy of the bundled supernet that a test may damage."""
    folder = tmp_path / "net"
    folder.mkdir()
    for name in (FILE, CQAP_FILE):
        shutil.copy(bundled_supernet() / name, folder / name)
    return folder


COMMANDS = {
    "export": ["export", "-p", "custom_lowbit_w4a8", "-q"],
    "search": ["search", "-p", "custom_lowbit_w4a8", "-q"],
    "eval": ["eval", "-q"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_supernet_that_is_none(refused, supernet, tmp_path, command):
    arguments = [*COMMANDS[command], "--supernet"]
    path = supernet / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused([*arguments, supernet], 4, path, "damaged or not safetensors")
    path.write_bytes(b"\x80\x04\x95pickle")
    refused([*arguments, supernet], 4, path, "damaged or not safetensors")
    save_file({"x": np.zeros(2, np.float32)}, path)
    refused([*arguments, supernet], 4, path, "not an eqnet supernet")
    path.unlink()
    refused([*arguments, supernet], 4, path, "no such checkpoint")
    refused([*arguments, tmp_path / "nowhere"], 4, "no such folder")


def test_a_predictor_that_is_none(refused, supernet):
    arguments = [*COMMANDS["search"], "--supernet", supernet]
    path = supernet / CQAP_FILE
    tensors = load_file(path)
    path.write_bytes(path.read_bytes()[:1000])
    refused(arguments, 4, path, "damaged or not safetensors")
    save_file(tensors, path)
    refused(arguments, 4, path, "not a predictor")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a subnet file"),
        (b"{", "not a subnet file"),
        (b"[" * 10_000, "not a subnet file"),
        (b"\xff\xfe", "not a subnet file"),
        (b'{"schema_version": 7}', "schema_version"),
    ],
)
def test_a_subnet_that_is_none(refused, tmp_path, content, told):
    path = tmp_path / "subnet.json"
    path.write_bytes(content)
    refused([*COMMANDS["export"], "--subnet", path], 4, path, told)


def test_a_missing_subnet(refused, tmp_path):
    refused([*COMMANDS["export"], "--subnet", tmp_path / "no.json"], 4, "no such file")


def test_a_damaged_search_result_is_not_passed_over(refused, tmp_path):
    folder = tmp_path / "runs/search/custom_lowbit_w4a8"
    folder.mkdir(parents=True)
    (folder / "subnet.json").write_text("{")
    refused(COMMANDS["export"], 4, "runs/search/custom_lowbit_w4a8/subnet.json")


# ---- artifacts


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "made"
    write_artifact(folder, residual_net(), hand_profile())
    return folder


@pytest.mark.parametrize("command", ["verify", "bench"])
@pytest.mark.parametrize("name", [MODEL, REFERENCE, PARITY])
def test_an_artifact_with_a_changed_or_missing_file(refused, artifact, command, name):
    if (command, name) == ("bench", PARITY):
        pytest.skip("bench does not read the parity set")
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


# ---- data


@pytest.mark.parametrize("command", [*COMMANDS, "train", "verify"])
def test_an_empty_or_wrong_data_folder(refused, tmp_path, artifact, command):
    extra = {
        "train": ["train", "--post-training", "--model", "resnet20", "--out", "new", "-q"],
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


# ---- output


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "-p", "custom_lowbit_w4a8", "-q"],
        ["search", "-p", "custom_lowbit_w4a8", "-q"],
        ["train", "--post-training", "--model", "resnet20", "-q"],
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
    refused([*COMMANDS["export"], "--out", "mine"], 9, "other content")


def quick_export(monkeypatch):
    """Leave out the costly steps of an export that a test lets fail later."""
    import onnx_ir as ir

    monkeypatch.setattr(Session, "settle", lambda *_: None)
    monkeypatch.setattr(export_module, "to_onnx", lambda *_: ir.from_proto(residual_net()))


@pytest.mark.parametrize("error", [EqnetError("odd graph"), OSError(28, "No space left")])
def test_a_failing_export_leaves_the_old_artifact(refused, artifact, monkeypatch, error):
    quick_export(monkeypatch)

    def fail(*_):
        raise error

    monkeypatch.setattr(export_module, "_write_parity", fail)
    code = 9 if isinstance(error, OSError) else 1
    refused([*COMMANDS["export"], "--out", artifact], code)
    refused([*COMMANDS["export"], "--out", "new/one"], code)


def test_an_interrupted_export_leaves_nothing(tmp_path, artifact, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick_export(monkeypatch)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "_write_parity", interrupt)
    before = tree(tmp_path)
    assert main([*COMMANDS["export"], "--out", str(artifact)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert tree(tmp_path) == before


# ---- models

MODELS = """\
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.middle(self.conv(x)).mean((2, 3)))


class Functional(Base):
    def middle(self, x):
        return nn.functional.conv2d(x, self.conv.weight.transpose(0, 1).repeat(1, 4, 1, 1))


class Branch(Base):
    def middle(self, x):
        if x.sum() > 0:  # the branch
            return x
        return -x


class Shared(Base):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(1, 10)

    def middle(self, x):
        return self.conv(x)


class Pixels(Base):
    def forward(self, x):
        return self.conv(x)


def functional(): return Functional()
def branch(): return Branch()
def shared(): return Shared()
def pixels(): return Pixels()
def no_module(): return "net"
def fails(): raise ValueError("two\\nlines")
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The user's own module in the current folder, forgotten after the test."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_models.py").write_text(MODELS)
    yield ["train", "--post-training", "--out", "new", "-q", "--model"]
    sys.modules.pop("own_models", None)


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("functional", 7, ["conv2d", "allowed: nn.Conv2d and nn.Linear"]),
        ("branch", 7, ["own_models.py:2", "torch.fx"]),
        ("shared", 7, ["'conv' is called more than once"]),
        ("pixels", 7, ["logits [N, classes]"]),
        ("no_module", 2, ["returned str"]),
        ("fails", 2, ["ValueError: two lines"]),
        ("functionel", 2, ["did you mean 'functional'"]),
    ],
)
def test_a_model_that_capture_cannot_take_names_the_operation(refused, models, name, code, told):
    refused([*models, f"own_models:{name}", "--allow-code"], code, *told)


def test_own_code_is_not_run_unasked(refused, models, tmp_path):
    (tmp_path / "own_models.py").write_text("raise SystemExit('it ran')")
    refused([*models, "own_models:branch"], 2, "--allow-code")


def test_unknown_models_and_weights(refused, models, tmp_path):
    refused([*models, "torchvision:resnet81"], 2, "resnet81")
    refused([*models, "resnet21"], 2, "resnet21")
    refused([*models, "no_module_here:build", "--allow-code"], 2, "no_module_here")
    refused([*models, "resnet20", "--weights", tmp_path / "no.pt"], 4, "no.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 20)
    refused([*models, "resnet20", "--weights", tmp_path / "bad.safetensors"], 4, "bad.safetensors")


@pytest.mark.parametrize(
    "content", ["", "[]", "a: &a [1]\nb: *a", "colour: red", "model: 7", "{"], ids=repr
)
def test_a_wrong_recipe(refused, tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(content)
    refused(["train", "--recipe", "recipe.yaml", "--out", "new", "-q"], 2, "recipe.yaml")
