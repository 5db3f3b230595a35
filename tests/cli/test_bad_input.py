"""Bad profiles, budgets, supernets and subnets through the command line."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from cli_tools import PROFILE
from safetensors.numpy import load_file, save_file

from eqnet.cli.main import main
from eqnet.stages.search.accuracy.cqap import CQAP_FILE
from eqnet.supernet.checkpoint import SUPERNET_FILE, bundled_supernet

pytestmark = pytest.mark.usefixtures("bundled_data_only")

COMMANDS = {
    "export": ["export", "-p", "custom_lowbit_w4a8", "-q"],
    "search": ["search", "-p", "custom_lowbit_w4a8", "-q"],
    "eval": ["eval", "-q"],
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "-p", "tensorrt_int9"],
        ["export", "-p", "tensorrt-int8"],
        ["profiles", "show", "tensorrt_int"],
        ["eval", "--placement", "tensorrtint8"],
    ],
)
def test_unknown_profile_suggests_the_nearest(refused, arguments):
    refused(arguments, 3, "tensorrt_int8")


def test_a_recipe_that_is_not_there(refused):
    refused(["train", "--out", "x", "--recipe", "fine_tunin"], 3, "did you mean 'fine_tuning'")
    refused(["train", "--out", "x", "--recipe", "no.yaml"], 3, "no.yaml")


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
    refused([command, "-p", "my_chip.yaml", "-q"], 3, told)
    refused([command, "-p", "none.yaml", "-q"], 3, "none.yaml")


def test_a_value_of_a_file_is_shown_shortly(tmp_path, capsys):
    path = tmp_path / "my_chip.yaml"
    path.write_text(PROFILE.replace("{model: size}", "{model: " + "x" * 3000 + "}"))
    assert main(["profiles", "validate", str(path)]) == 3
    told = capsys.readouterr().err
    assert "cost.model: Input should be" in told
    assert len(told) < 600


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
    refused(
        ["search", "-p", "custom_lowbit", "--budget", "avg_wieght_bits=4"],
        2,
        "did you mean 'avg_weight_bits'",
    )


@pytest.fixture
def supernet(tmp_path):
    """A copy of the bundled supernet that a test may damage."""
    folder = tmp_path / "net"
    folder.mkdir()
    for name in (SUPERNET_FILE, CQAP_FILE):
        shutil.copy(bundled_supernet() / name, folder / name)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_supernet_that_is_none(refused, supernet, tmp_path, command):
    arguments = [*COMMANDS[command], "--supernet"]
    path = supernet / SUPERNET_FILE
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
