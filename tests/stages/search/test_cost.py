"""Cost models against sums done by hand, and lookup tables that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import pytest
from artifacts import profile
from nets import small_supernet
from pydantic import Field, ValidationError
from search_tools import cost_function, lowbit

from eqnet.spec.errors import MissingExtraError, ProfileError
from eqnet.spec.hardware.costs import (
    REMAINDER_BITS,
    CostModel,
    CostSite,
    size_kib,
)
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.progress import Silent
from eqnet.spec.scheme import Frozen
from eqnet.subnets.target import Target
from eqnet.supernet import latency

# Of the small network: weights, multiply-adds, elements read and elements written.
WEIGHTS = {"stem": 216, "conv1": 576, "depthwise": 72, "conv2": 48, "head": 70}
MACS = {"stem": 7776, "conv1": 20736, "depthwise": 2592, "conv2": 1728, "head": 70}
READ = {"stem": 432, "conv1": 288, "depthwise": 288, "conv2": 288, "head": 14}
WRITTEN = {"stem": 288, "conv1": 288, "depthwise": 288, "conv2": 216, "head": 5}
PAIRS = {"stem": (8, 8), "conv1": (4, 3), "depthwise": (2, 5), "conv2": (6, 2), "head": (8, 8)}


@pytest.fixture(scope="module")
def info():
    return small_supernet().info


@pytest.fixture(scope="module")
def mixed(info):
    return Target.of(info, lowbit()).subnet(PAIRS)


@pytest.fixture(scope="module")
def partly_float(info):
    return Target.of(info, lowbit()).subnet(PAIRS, float_groups=frozenset({"depthwise_conv"}))


def cost_of(info, spec, folder=None, **cost):
    rules = lowbit(cost=cost, remainder="float16")
    return cost_function(info, rules, folder)(spec)


def test_a_parameter_of_another_model_is_refused():
    with pytest.raises(ValidationError, match="rows"):
        lowbit(cost={"model": "size", "rows": 16})


def test_a_manifest_of_an_earlier_version_held_the_parameters_of_all_models():
    earlier = {"table": None, "rows": 16, "columns": 16, "tops": 100.0, "gbps": 300.0}
    for model in ("bitops", "size", "measured", "roofline", "bit_serial"):
        read = lowbit(cost={"model": model, **earlier})
        assert read == lowbit(cost={"model": model})
        assert read.sha256() == lowbit(cost={"model": model}).sha256()


def test_the_hash_of_a_profile_outlives_the_models_parameters():
    assert load_profile("openvino_asym").sha256().startswith("e79d0e2799499cf2")
    assert load_profile("custom_lowbit").sha256().startswith("f3b84113f9e87fd8")


def test_a_new_cost_model_is_one_class(info, mixed):
    class Layers(Frozen):
        model: Literal["layers"]
        unit: ClassVar[str] = "layers"

        def of(self, site):
            return lambda spec: float(len(site.info.layers))

    class Profile(HardwareProfile):
        cost: Annotated[CostModel | Layers, Field(discriminator="model")]  # type: ignore[assignment]  # wider

    content = lowbit().model_dump() | {"cost": {"model": "layers"}}
    assert cost_function(info, Profile.model_validate(content))(mixed) == len(PAIRS)


def test_bitops_are_macs_times_bits(info, mixed, partly_float):
    exact = sum(MACS[name] * w * a for name, (w, a) in PAIRS.items())
    assert cost_of(info, mixed, model="bitops") == pytest.approx(exact / 1e9)
    wide = exact + MACS["depthwise"] * (16 * 16 - 2 * 5)
    assert cost_of(info, partly_float, model="bitops") == pytest.approx(wide / 1e9)


def test_size_counts_every_weight(info, mixed, partly_float):
    bits = sum(WEIGHTS[name] * w for name, (w, _) in PAIRS.items())
    assert cost_of(info, mixed, model="size") == pytest.approx(bits / 8 / 1024)
    assert size_kib(info, partly_float, 16) == pytest.approx((bits + 72 * 14) / 8 / 1024)
    assert size_kib(info, partly_float, 32) == pytest.approx((bits + 72 * 30) / 8 / 1024)


@pytest.mark.parametrize(
    ("rows", "columns", "tiles"),
    [
        # Of each layer: ceil(depth / rows) x ceil(channels / columns).
        (16, 16, {"stem": 2, "conv1": 5, "depthwise": 1, "conv2": 1, "head": 1}),
        (9, 4, {"stem": 3 * 2, "conv1": 8 * 2, "depthwise": 1 * 2, "conv2": 2, "head": 2 * 2}),
        (1000, 1000, dict.fromkeys(PAIRS, 1)),
    ],
)
def test_bit_serial_pays_for_whole_tiles(info, mixed, rows, columns, tiles):
    positions = {name: MACS[name] // WEIGHTS[name] for name in PAIRS}
    cycles = sum(positions[name] * tiles[name] * w * a for name, (w, a) in PAIRS.items())
    found = cost_of(info, mixed, model="bit_serial", rows=rows, columns=columns)
    assert found == pytest.approx(cycles / 1e6)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (9, 4)])
def test_energy_is_that_of_products_sums_and_memories(info, mixed, rows, columns):
    """By hand: weights once from DRAM, inputs once for each tile of columns, outputs once."""
    depth = {"stem": 27, "conv1": 72, "depthwise": 9, "conv2": 8, "head": 14}
    channels = {"stem": 8, "conv1": 8, "depthwise": 8, "conv2": 6, "head": 5}
    parts = dict.fromkeys(("product_pj", "sum_pj", "sram_bit_pj", "dram_bit_pj"), 0.0)
    for name, (w, a) in PAIRS.items():
        positions = MACS[name] // WEIGHTS[name]
        row_tiles, column_tiles = -(-depth[name] // rows), -(-channels[name] // columns)
        parts["product_pj"] += MACS[name] * w * a
        parts["sum_pj"] += positions * channels[name] * row_tiles * w * a
        parts["sram_bit_pj"] += positions * (column_tiles * depth[name] + channels[name]) * a
        parts["dram_bit_pj"] += WEIGHTS[name] * w
    array = {"model": "bit_serial_energy", "rows": rows, "columns": columns}
    for part, count in parts.items():
        alone = dict.fromkeys(parts, 0.0) | {part: 2.0}
        assert cost_of(info, mixed, **array, **alone) == pytest.approx(2 * count / 1e6)
    horowitz = {"product_pj": 0.2 / 64, "sum_pj": 0.1, "sram_bit_pj": 20 / 64}
    horowitz["dram_bit_pj"] = 1300 / 64
    total = sum(parts[part] * picojoules for part, picojoules in horowitz.items())
    assert cost_of(info, mixed, **array) == pytest.approx(total / 1e6)


def test_a_formula_knows_the_float_network_too(info):
    def in_float(remainder, **cost):
        rules = lowbit(cost=cost, remainder=remainder)
        wide = REMAINDER_BITS[rules.remainder]
        return rules.cost.of(CostSite(info, wide, Path()))(Target.of(info, rules).all_float(""))

    assert in_float("float32", model="size") == pytest.approx(sum(WEIGHTS.values()) * 32 / 8192)
    limits = {"model": "roofline", "tops": 1, "gbps": 1e9}
    twice = 2 * 2 * sum(MACS.values()) / 1e12 * 1e3
    assert in_float("float16", **limits) == pytest.approx(twice)
    assert in_float("float32", **limits) == pytest.approx(2 * twice)


def test_only_the_roofline_is_an_estimate():
    table = {"lookup": {"table": "t.json"}}
    for model in get_args(get_args(CostModel)[0]):
        (name,) = get_args(model.model_fields["model"].annotation)
        made = model(model=name, **table.get(name, {}))
        assert made.estimated == (name == "roofline") == ("estimated" in made.unit)


def test_roofline_is_the_longer_of_arithmetic_and_memory(info, mixed):
    def memory(name):
        w, a = PAIRS[name]
        return (WEIGHTS[name] * w + (READ[name] + WRITTEN[name]) * a) / 8

    slow_memory = cost_of(info, mixed, model="roofline", tops=1e9, gbps=1)
    assert slow_memory == pytest.approx(sum(memory(name) for name in PAIRS) / 1e9 * 1e3)
    slow_sums = cost_of(info, mixed, model="roofline", tops=1, gbps=1e9)
    assert slow_sums == pytest.approx(2 * sum(MACS.values()) / 1e12 * 1e3)
    both = cost_of(info, mixed, model="roofline", tops=0.01, gbps=1)
    each = [max(2 * MACS[name] / 1e10, memory(name) / 1e9) * 1e3 for name in PAIRS]
    assert both == pytest.approx(sum(each))


def test_roofline_of_float16_is_twice_the_arithmetic(info, mixed, partly_float):
    limits = {"model": "roofline", "tops": 1, "gbps": 1e9}
    more = cost_of(info, partly_float, **limits) - cost_of(info, mixed, **limits)
    assert more == pytest.approx(2 * MACS["depthwise"] / 1e12 * 1e3)


TABLE = {
    "stem": {"w8a8": 1.0},
    "conv1": {"w4a3": 0.5, "w8a8": 2},
    "depthwise": {"w2a5": 0.25, "remainder": 4.0},
    "conv2": {"w6a2": 0.125},
    "head": {"w8a8": 0},
}


def looked_up(info, spec, folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "t.json").write_text(text)
    return cost_of(info, spec, folder, model="lookup", table="t.json")


def test_lookup_sums_the_table(info, mixed, partly_float, tmp_path):
    assert looked_up(info, mixed, tmp_path, TABLE) == pytest.approx(1.875)
    assert looked_up(info, partly_float, tmp_path, TABLE) == pytest.approx(5.625)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not a lookup table"),
        ("[1]", "found list"),
        ("[" * 100_000, "not a lookup table"),
        ({}, "'stem'"),
        ({**TABLE, "conv2": None}, "'conv2'"),
        ({**TABLE, "conv2": {"w6a2": "fast"}}, "'conv2'"),
        ({**TABLE, "conv2": {"w6a2": -1}}, "'conv2'"),
        ({**TABLE, "conv2": {"w6a2": True}}, "'conv2'"),
        (json.dumps({**TABLE, "conv2": {"w6a2": 1e999}}), "'conv2'"),
        (json.dumps({**TABLE, "conv2": {"w6a2": float("nan")}}), "'conv2'"),
        ({**TABLE, "conv2": {"w4a4": 1}}, r"no 'w6a2' \(it has: w4a4\)"),
    ],
)
def test_a_bad_table_is_one_line(info, mixed, tmp_path, content, told):
    with pytest.raises(ProfileError, match=told) as caught:
        looked_up(info, mixed, tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_one_line(info, mixed, tmp_path):
    with pytest.raises(ProfileError, match=r"absent\.json"):
        cost_of(info, mixed, tmp_path, model="lookup", table="absent.json")


class FakeTarget:
    """An exporter whose graphs "run" on a clock of their own: int8 layers take 1, others 3 ms."""

    name = "fake"

    def __init__(self, reason=None):
        self.reason, self.now, self.inputs = reason, 0.0, []

    def unavailable(self, profile=None):
        return self.reason

    def lower(self, reference, rules):
        return reference

    def open(self, path, *, threads, profile):
        import onnx

        kinds = [node.op_type for node in onnx.load(path).graph.node]
        weights = kinds.count("DequantizeLinear") - kinds.count("QuantizeLinear")
        self.threads = threads

        def run(inputs):
            self.inputs.append(inputs)
            self.now += (weights + 3 * (5 - weights)) / 1e3

        return run

    def in_turns(self, runs, repeats, warm_up):
        """The real timing loop's form, on the fake clock."""
        samples: list[list[float]] = [[] for _ in runs]
        for index in range(repeats + warm_up):
            for run, kept in zip(runs, samples, strict=True):
                before = self.now
                run()
                if index >= warm_up:
                    kept.append((self.now - before) * 1e3)
        return samples


def test_measured_latency_is_of_each_subnet_in_the_targets_own_runtime(monkeypatch):
    supernet = small_supernet()
    rules = profile(bench={"batch": 2, "threads": 3}, search_groups=["conv", "linear"])
    target = Target.of(supernet.info, rules)
    names = dict.fromkeys(target.free_layers(), (8, 8))
    groups: tuple[list[str], ...] = ([], ["conv", "linear"])
    specs = [target.subnet(names, float_groups=frozenset(dropped)) for dropped in groups]
    fake: Any = FakeTarget()
    monkeypatch.setattr(latency, "in_turns", fake.in_turns)
    found = latency.measure_latency(supernet, fake, rules, specs, Silent())
    assert found == pytest.approx([5, 13])
    assert fake.threads == 3
    assert {item.shape for item in fake.inputs} == {(2, 3, 12, 12)}
    assert fake.inputs[0].dtype == np.float32


def test_measured_latency_needs_a_runtime_that_executes():
    supernet = small_supernet()
    fake: Any = FakeTarget("no such chip")
    with pytest.raises(MissingExtraError, match="'measured' needs fake: no such chip"):
        latency.measure_latency(supernet, fake, profile(), [], Silent())
