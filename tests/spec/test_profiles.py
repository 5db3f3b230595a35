"""Hardware profiles: the built-in ones, and one clear line for everything that can be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from eqnet.backend.discovery import exporter_names, find_exporter
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware import schema
from eqnet.spec.hardware.load import (
    MAX_BYTES,
    builtin_profiles,
    load_profile,
    profiles_dir,
    read_yaml,
)
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.scheme import Scales

BUILT_IN = [
    "custom_lowbit",
    "custom_lowbit_w4a8",
    "custom_pow2",
    "onnxruntime_arm",
    "onnxruntime_avx2",
    "onnxruntime_x86",
    "openvino_asym",
    "openvino_avx2",
    "openvino_bf16",
    "tensorrt_int8",
]
MINIMAL = """\
schema_version: 1
name: mine
backend: onnxruntime
weights: {granularity: per_channel, symmetry: symmetric}
activations: {symmetry: asymmetric}
cost: {model: size}
"""


def write(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problem(path: str) -> str:
    """The one line that loading says."""
    with pytest.raises(ProfileError) as error:
        load_profile(path)
    line = str(error.value)
    assert "\n" not in line
    assert error.value.exit_code == 3
    return line


def test_the_built_in_profiles_are_these():
    assert builtin_profiles() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profile_is_valid_named_and_served(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.backend in exporter_names()
    assert find_exporter(profile.backend).refusals(profile) == []


def test_built_in_profiles_are_visibly_different():
    told = {"name", "description", "bench", "isa", "cost"}
    profiles = [load_profile(name) for name in BUILT_IN]
    assert len({profile.model_dump_json(exclude=told) for profile in profiles}) == len(BUILT_IN)
    forms = {(p.form().label(), p.activations.storage, p.activations.zero_point) for p in profiles}
    assert len(forms) >= 5


def test_what_each_built_in_profile_is():
    tensorrt = load_profile("tensorrt_int8")
    assert (tensorrt.remainder, tensorrt.activations.zero_point) == ("float16", "zero")
    assert load_profile("openvino_asym").form().label() == "per_channel:symmetric/asymmetric"
    lowbit = load_profile("custom_lowbit")
    assert set(lowbit.bits) == {(w, a) for w in range(2, 9) for a in range(2, 9)}
    assert lowbit.cost.model == "bit_serial"
    assert lowbit.budgets == {"avg_weight_bits": 4, "avg_activation_bits": 4}
    assert {(pin.layers, pin.bits) for pin in lowbit.pinned} == {("first", 8), ("last", 8)}
    shifting = load_profile("custom_pow2")
    assert shifting.weights.scales is shifting.activations.scales is Scales.POWER_OF_TWO
    for narrow in (load_profile("onnxruntime_avx2"), load_profile("openvino_avx2")):
        assert (narrow.isa, narrow.bits, narrow.weights.storage_bits) == ("avx2", ((7, 8),), 7)
    arm = load_profile("onnxruntime_arm")
    assert (arm.isa, arm.activations.storage, arm.activations.zero_point) == (
        "dotprod",
        "int8",
        "free",
    )
    w4a8 = load_profile("custom_lowbit_w4a8")
    assert w4a8.bits == ((4, 8),)
    assert w4a8.form().label() == "per_tensor:asymmetric/asymmetric"


def test_unknown_profile_suggests_the_nearest():
    line = problem("tensorrt_int")
    assert line.startswith("unknown profile 'tensorrt_int'; did you mean 'tensorrt_int8'?")
    assert all(name in line for name in BUILT_IN)


def test_a_path_loads_without_being_built_in(tmp_path):
    assert load_profile(write(tmp_path, MINIMAL)).name == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("wieghts: 1\n", r"wieghts: Extra inputs are not permitted"),
        ("bench: {batches: 4}\n", r"bench\.batches: Extra inputs are not permitted"),
        ("opset: many\n", r"opset: Input should be a valid integer.*found: 'many'"),
        ("opset: 12\n", r"opset: Input should be greater than or equal to 21 \(found: 12\)"),
        ("bits: [[1, 8]]\n", r"bits: \[1, 8\] \(allowed: 2 to 8 bits each\)"),
        ("bits: [[8, 9]]\n", r"bits: \[8, 9\] \(allowed: 2 to 8 bits each\)"),
        ("bits: []\n", r"bits: no pair given"),
        ("bits: 8\n", r"bits: Input should be a valid (tuple|list)"),
        ("schema_version: 2\n", r"schema_version: found 2, made for a newer eqnet \(allowed: 1\)"),
        ("schema_version: 0\n", r"schema_version: Input should be 1 \(found: 0\)"),
        ("name: Not A Name\n", r"name: String should match pattern"),
        ("remainder: float8\n", r"remainder: Input should be 'float32', 'float16' or 'bfloat16'"),
        ("cost: {model: lookup}\n", r"cost\.lookup\.table: Field required"),
        ("cost: {model: guess}\n", r"cost\.model: Input should be 'bitops', .*found: 'guess'"),
        ("cost: {rows: 16}\n", r"cost\.model: Field required"),
        ("cost: {model: size, rows: 16}\n", r"cost\.size\.rows: Extra inputs"),
        ("budgets: {avg_wieght_bits: 4}\n", r"budgets\.avg_wieght_bits"),
        ("budgets: {avg_weight_bits: 0}\n", r"budgets\.avg_weight_bits.*greater than 0"),
        ("pinned: [{layers: first, bits: 1}]\n", r"pinned\.0\.bits: 1 bits \(allowed: 2 to 8"),
        (
            "activations: {symmetry: asymmetric, storage: int8, zero_point: zero}\n",
            r"activations: zero_point 'zero' needs symmetry 'symmetric'",
        ),
        (
            "weights: {granularity: per_channel, symmetry: symmetric, reduce_range: true}\n",
            r"bits: 8-bit weights with weights\.reduce_range \(allowed: 2 to 7\)",
        ),
        (
            "weights: {granularity: per_channel, symmetry: symmetric, scales: power_of_2}\n",
            r"weights\.scales: Input should be 'free' or 'power_of_two'",
        ),
        ("accept_slow: [weights.symetry]\n", r"accept_slow: unknown key 'weights\.symetry'; did"),
        ("accept_slow: [cost.model]\n", r"accept_slow: unknown key 'cost\.model'"),
        ("parity: {top1_agreement: 99.5}\n", r"parity\.top1_agreement.*less than or equal to 1"),
    ],
)
def test_a_wrong_value_names_file_key_found_and_allowed(tmp_path, change, said):
    key = change.split(":", 1)[0]
    kept = "".join(line + "\n" for line in MINIMAL.splitlines() if not line.startswith(f"{key}:"))
    path = write(tmp_path, kept + change)
    line = problem(path)
    assert line.startswith(f"{path}: ")
    assert re.search(said, line), line


NARROW = "weights: {granularity: per_channel, symmetry: symmetric, reduce_range: true}\n"


@pytest.mark.parametrize(("bits", "allowed"), [("7", True), ("8", False), ("remainder", True)])
def test_a_pin_fits_in_a_reduced_range(tmp_path, bits, allowed):
    text = re.sub("weights: .*\n", NARROW, MINIMAL)
    path = write(
        tmp_path, f"{text}bits: [[7, 8], [2, 8]]\npinned: [{{layers: last, bits: {bits}}}]\n"
    )
    if allowed:
        assert load_profile(path).pinned[0].bits == (7 if bits == "7" else "remainder")
    else:
        assert "pinned: 8-bit weights with weights.reduce_range (allowed: 2 to 7)" in problem(path)


def test_every_key_that_a_backend_refuses_can_be_accepted(tmp_path):
    keys = "weights.symmetry, placement.add, activations.storage, bits, pinned"
    path = write(tmp_path, MINIMAL + f"accept_slow: [{keys}]\n")
    assert load_profile(path).accept_slow == tuple(keys.split(", "))


def test_a_missing_key(tmp_path):
    assert "backend: Field required" in problem(
        write(tmp_path, MINIMAL.replace("backend: onnxruntime\n", ""))
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found NoneType (allowed: a mapping of keys)"),
        ("- 1\n- 2\n", "found list (allowed: a mapping of keys)"),
        ("a: [1\nb: 2\n", "not valid YAML: line 2"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML: line 1"),
        ("a: &x [1]\nb: *x\n", "not valid YAML: line 2: aliases are not allowed"),
        ("[" * 5000, "not valid YAML"),
        ("\0", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!float ''", "not valid YAML"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!timestamp never", "not valid YAML"),
        ("a: !!timestamp 2020-99-99", "not valid YAML"),
        ("a: 0x" + "f" * 6000, "line 1: an integer beyond 64 bits"),
        ("a: [1" + "0" * 400 + "]", "line 1: an integer beyond 64 bits"),
        ("a: " + "1" * 6000, "not valid YAML"),
        ("extends: " + "x" * 5000, "extends: found 'xxx"),
        ('extends: "a\\0b"', "extends: found"),
        ("extends: [openvino_asym]", "extends: found '['openvino_asym']'"),
    ],
)
def test_what_is_no_plain_mapping(tmp_path, text, said):
    assert said in problem(write(tmp_path, text))


def test_an_alias_bomb_stops_at_its_first_alias(tmp_path):
    levels = ["a0: &a0 [lol, lol]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = write(tmp_path, MINIMAL + "\n".join(levels) + "\n")
    assert "line 8: aliases are not allowed" in problem(path)


def test_a_huge_file_is_not_parsed(tmp_path):
    path = write(tmp_path, "#" * (MAX_BYTES + 1))
    assert problem(path) == f"{path}: too large (allowed: at most {MAX_BYTES} bytes)"


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
    (tmp_path / "mine.yaml").symlink_to("/dev/zero")
    assert "too large" in problem(str(tmp_path / "mine.yaml"))


def test_a_missing_file(tmp_path):
    assert "cannot read: No such file" in problem(str(tmp_path / "none.yaml"))


def test_extends_lays_keys_over_the_base(tmp_path):
    text = (
        "extends: openvino_asym\nname: mine\nbench: {batch: 8}\n"
        "placement: {carriers: []}\nbits: [[4, 8], [8, 8]]\n"
    )
    base, mine = load_profile("openvino_asym"), load_profile(write(tmp_path, text))
    assert (mine.name, mine.bench.batch, mine.bench.threads) == ("mine", 8, base.bench.threads)
    assert (mine.placement.carriers, mine.placement.add) == ((), base.placement.add)
    assert mine.bits == ((4, 8), (8, 8))
    assert mine.sha256() != base.sha256()


def test_extends_finds_a_profile_beside_the_file_first(tmp_path):
    write(tmp_path, MINIMAL.replace("name: mine", "name: tensorrt_int8"), "tensorrt_int8")
    path = write(tmp_path, "extends: tensorrt_int8\nname: child\n", "child")
    assert load_profile(path).backend == "onnxruntime"


def test_extends_in_a_circle_ends(tmp_path):
    write(tmp_path, "extends: b\n", "a")
    write(tmp_path, "extends: a\n", "b")
    assert "extends: more than 8 levels, or a circle" in problem(str(tmp_path / "a.yaml"))


def test_extends_an_unknown_profile(tmp_path):
    line = problem(write(tmp_path, "extends: openvino_asim\nname: x\n"))
    assert "extends: unknown profile 'openvino_asim'; did you mean 'openvino_asym'?" in line


def test_the_committed_schema_is_up_to_date():
    committed = (profiles_dir() / schema.SCHEMA).read_text(encoding="utf-8")
    assert committed == schema.schema_text(), "run: python -m eqnet.spec.hardware.schema"


def test_the_schema_knows_every_key_of_a_profile():
    known = set(schema.profile_schema()["properties"])
    assert known == set(HardwareProfile.model_fields) | {"extends"}
    for name in BUILT_IN:
        assert set(read_yaml(profiles_dir() / f"{name}.yaml")) <= known
    assert schema.profile_schema()["additionalProperties"] is False


def test_the_schema_command_writes_where_it_is_told(tmp_path, capsys):
    target = tmp_path / "out.json"
    assert schema.main([str(target)]) == 0
    assert json.loads(target.read_text()) == schema.profile_schema()
    assert schema.main(["a", "b"]) == 2
    assert schema.main([str(tmp_path / "out.json" / "below.json")]) == 9
    assert capsys.readouterr().err.count("error: ") == 2


def test_comments_of_the_built_in_files_survive_a_yaml_reader():
    for name in BUILT_IN:
        text = (profiles_dir() / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert yaml.safe_load(text) == read_yaml(profiles_dir() / f"{name}.yaml")
