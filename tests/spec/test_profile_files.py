"""Profile files that YAML and JSON would let pass: keys given twice, no numbers, lost tables."""

from __future__ import annotations

import json

import pytest
from artifacts import profile as by_hand
from cli_tools import PROFILE, one_line
from nets import small_supernet
from search_tools import cost_function

from eqnet.cli.main import main
from eqnet.cli.output import print_json
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.load import load_profile
from eqnet.subnets.target import Target

LOOKUP = PROFILE.replace("{model: size}", "{model: lookup, table: times.json}")
TIMES = {"w4a8": 1.0, "w8a8": 2.0}


def write(folder, text, name="my_chip"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "key",
    [
        "parity: {logit_error_steps: %s}",
        "budgets: {size_kib: %s}",
        "cost: {model: roofline, gbps: %s}",
    ],
)
def test_what_json_cannot_hold_is_refused(tmp_path, capsys, key, number):
    text = PROFILE.replace("cost: {model: size}\n", "") if "cost" in key else PROFILE
    path = write(tmp_path, text + key % number + "\n")
    for command in (["validate"], ["show", "--json"]):
        assert main(["profiles", *command, str(path)]) == 3
        assert "finite number" in one_line(capsys)


def test_no_command_prints_what_json_cannot_hold(capsys):
    with pytest.raises(ValueError, match="JSON compliant"):
        print_json({"loss": float("nan")})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (PROFILE + "bits: [[2, 2]]\n", 8, "bits"),
        (PROFILE + "parity:\n  accuracy_drop: 1\n  'accuracy_drop': 9\n", 10, "accuracy_drop"),
        (PROFILE + "bench: {batch: 1, batch: 8}\n", 8, "batch"),
    ],
)
def test_a_key_that_is_given_twice_is_named_with_its_line(tmp_path, text, line, key):
    path = write(tmp_path, text)
    with pytest.raises(ProfileError) as error:
        load_profile(str(path))
    assert str(error.value) == f"{path}: not valid YAML: line {line}: key '{key}' is given twice"


@pytest.mark.parametrize(
    ("device", "right"),
    [
        ("CPU", True),
        ("GPU", True),
        ("NPU", True),
        ("GPU.0", True),
        ("NPU.1", True),
        ("AUTO", True),
        ("AUTO:GPU.1,CPU", True),
        ("HETERO:NPU,CPU", True),
        ("MULTI:CPU", True),
        ("CPU.0", False),
        ("CPU.1", False),
        ("MULTI:CPU.0", False),
        ("HETERO:GPU,CPU.1", False),
        ("GPU.", False),
        ("AUTO:", False),
        ("TPU", False),
    ],
)
def test_devices_are_those_that_runtimes_have(tmp_path, device, right):
    path = write(tmp_path, PROFILE + f"device: '{device}'\n")
    if right:
        assert load_profile(str(path)).device == device
    else:
        with pytest.raises(ProfileError, match=f"device: '{device}' is no device name"):
            load_profile(str(path))


@pytest.mark.parametrize("base", [".", "boards"])
def test_a_lookup_table_lies_beside_the_file_that_names_it(tmp_path, base):
    info = small_supernet().info
    write(tmp_path / base, LOOKUP, "base")
    table = {layer.name: TIMES for layer in info.layers}
    (tmp_path / base / "times.json").write_text(json.dumps(table))
    path = write(tmp_path, f"extends: {base}/base\nname: mine\nbits: [[8, 8]]\n", "mine")
    profile = load_profile(str(path))
    cost = cost_function(info, profile, path.parent)
    assert cost(Target.of(info, profile).uniform((8, 8))) == 2.0 * len(info.layers)


def test_a_table_of_the_file_itself_keeps_its_name(tmp_path):
    path = write(tmp_path, LOOKUP)
    child = write(tmp_path, "extends: my_chip\nname: child\n", "child")
    assert load_profile(str(path)).cost.table == load_profile(str(child)).cost.table == "times.json"


def test_a_table_that_cannot_be_read_is_one_plain_line(tmp_path):
    rules = by_hand(cost={"model": "lookup", "table": "none.json"})
    with pytest.raises(ProfileError) as error:
        cost_function(small_supernet().info, rules, tmp_path)
    assert str(error.value).startswith(
        f"{tmp_path / 'none.json'}: cannot read the lookup table: No such file or directory (allow"
    )
