"""The race before an export: what slows a network down stays in float."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import quantizers
from eqnet.backend.machine import float_twin
from eqnet.backend.machine.isa import Cpu
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import ALL_FLOAT, DEFAULT, FLOAT
from eqnet.spec.progress import Silent
from eqnet.stages.bench import bench
from eqnet.stages.export import race as module
from eqnet.stages.export.choose_subnet import ChosenSubnet
from eqnet.stages.export.export import checked_exporter, export, export_in
from eqnet.stages.export.race import can_race, race
from eqnet.stages.verify import verify
from eqnet.subnets.target import Target
from eqnet.supernet.session import open_session


@pytest.fixture(scope="module")
def session():
    return open_session(None)


class Runs:
    """A loaded graph that takes so long, and that nobody calls: the clock is the test's."""

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        raise AssertionError("nothing runs here")


class Rival:
    """An exporter whose runtime takes as long as `time_of` says of a graph.

    time_of: milliseconds by the graph and whether the float model runs.
    """

    name = "rival"
    capabilities = SimpleNamespace(remainders=frozenset({"float32"}))

    def __init__(self, time_of) -> None:
        self.time_of = time_of
        self.opened: list[str] = []

    def unavailable(self, profile=None) -> None:
        return None

    def lower(self, reference, profile):
        return reference

    def open(self, model, *, optimize=True, threads=None, profile=None):
        self.opened.append(model.name)
        milliseconds = self.time_of(ir.load(model), model.name == "float.onnx")
        if profile.remainder == "bfloat16":
            milliseconds /= 4

        return Runs(milliseconds)


@pytest.fixture
def clock(monkeypatch):
    """Times as the rival says, with a hundredth of noise."""
    rng = np.random.default_rng(0)

    def in_turns(runs, repeats, warmup):
        return [
            list(run.func.milliseconds * rng.normal(1.0, 0.01, max(repeats, 15))) for run in runs
        ]

    monkeypatch.setattr(module, "in_turns", in_turns)


def raced(session, exporter, profile="openvino_asym"):
    rules = load_profile(profile)
    target = Target.of(session.supernet.info, rules)
    return target, race(session, rules, exporter, target.default(session.identity), Silent())


def added_by(model: ir.Model) -> int:
    """Quantizers in front of sums."""
    return sum(
        reader.op_type == "Add"
        for quantizer in quantizers(model)
        for reader in quantizer.output.consumers()
    )


def is_integer(node: ir.Node) -> bool:
    """Whether a node is a layer with integer weights."""
    return node.op_type in LAYER_OPS and node.inputs[1].producer() is not None


def test_a_default_subnet_that_is_clearly_faster_is_taken_at_once(session, clock):
    exporter = Rival(lambda model, plain: 10.0 if plain else 5.0)
    target, (spec, told) = raced(session, exporter)
    assert spec == target.default(session.identity)
    assert told.chosen == DEFAULT
    assert [entry.name for entry in told.entries] == [DEFAULT, FLOAT]
    assert told.winner.to_float == pytest.approx(0.5, rel=0.02)
    assert not told.slower_than_float
    assert exporter.opened == ["float.onnx", "0.onnx"]


def test_what_makes_it_slow_stays_in_float(session, clock):
    def time_of(model, plain):
        floats = sum(node.op_type in LAYER_OPS and not is_integer(node) for node in model.graph)
        return 10.0 if plain else 9.0 + added_by(model) + floats

    exporter = Rival(time_of)
    target, (spec, told) = raced(session, exporter)
    assert told.chosen == "float add"
    assert spec.carriers != target.default(session.identity).carriers
    assert {entry.name for entry in told.entries} >= {FLOAT, DEFAULT, ALL_FLOAT, "float add"}
    assert not told.slower_than_float


def test_two_parts_that_help_are_left_together(session, clock):
    def time_of(model, plain):
        if plain:
            return 70.0
        name = session.supernet.info.layers[-1].name
        integer = [node.name for node in model.graph if is_integer(node)]
        return 60.0 - len(integer) + 8.0 * (name in integer) + 4.0 * added_by(model)

    _, (_, told) = raced(session, Rival(time_of))
    assert set(told.chosen.split(" and ")) == {"float add", "float linear"}


def test_where_integers_never_pay_all_stays_in_float(session, clock):
    exporter = Rival(lambda model, plain: 10.0 + len(list(quantizers(model))))
    _, (spec, told) = raced(session, exporter)
    assert told.chosen == ALL_FLOAT
    assert not spec.quantized_layers()
    assert not spec.carriers
    assert not told.slower_than_float


def test_a_runtime_whose_own_float_is_faster_still_is_told(session, clock):
    """As OpenVINO's, which runs a float model in bfloat16 and the artifact's in float32."""
    exporter = Rival(lambda model, plain: 2.0 if plain else 3.0)
    _, (_, told) = raced(session, exporter)
    assert told.chosen == DEFAULT
    assert told.slower_than_float


@pytest.mark.parametrize("native", [True, False])
def test_the_float_model_runs_in_the_fastest_precision(session, clock, monkeypatch, native):
    exporter = Rival(lambda model, plain: 10.0 if plain else 3.0)
    exporter.capabilities = SimpleNamespace(remainders=frozenset({"float32", "bfloat16"}))
    cpu = Cpu(frozenset({"avx512_bf16"} if native else {"avx2"}))
    monkeypatch.setattr(float_twin, "cpu_of", lambda _: cpu)
    _, (_, told) = raced(session, exporter)
    assert told.float_precision == ("bfloat16" if native else "float32")
    assert told.slower_than_float == native


@pytest.mark.parametrize("profile", ["tensorrt_int8", "custom_lowbit", "onnxruntime_arm"])
def test_only_a_profile_whose_cost_is_time_here_is_raced(profile):
    rules = load_profile(profile)
    assert not can_race(find_exporter(rules.backend), rules)


def test_a_race_is_run_and_written_down(tmp_path):
    made = export(profile="onnxruntime_x86", out=tmp_path / "made", searches=None)
    assert made.race is not None
    assert {FLOAT, DEFAULT} <= {entry.name for entry in made.race.entries}
    assert all(entry.milliseconds > 0 for entry in made.race.entries)
    assert (made.subnet_origin == "default") == (made.race.chosen == DEFAULT)


def test_without_a_race_the_default_is_taken(tmp_path):
    made = export(profile="onnxruntime_x86", out=tmp_path / "made", searches=None, race=False)
    assert made.race is None
    assert made.subnet_origin == "default"


@pytest.mark.parametrize("profile", ["onnxruntime_x86", "openvino_asym"])
def test_a_network_all_in_float_is_an_artifact_like_others(session, profile, tmp_path):
    rules = load_profile(profile)
    exporter = checked_exporter(rules)
    if (reason := exporter.unavailable(rules)) is not None:
        pytest.skip(reason)
    spec = Target.of(session.supernet.info, rules).all_float(session.identity)
    made = export_in(session, rules, exporter, ChosenSubnet(spec, "race"), tmp_path / "made")
    assert made.int8_layers == ()
    checked = verify(tmp_path / "made")
    assert checked.verdict == "passed", checked
    assert bench(tmp_path / "made", repeats=5).verdict == "passed"
