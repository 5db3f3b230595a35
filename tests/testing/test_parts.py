"""The contract suite's own parts: covering pairs, what a tie is, and that broken exporters fail."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from hypothesis import given, settings
from hypothesis import strategies as st

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import quantizers
from eqnet.backend.protocol import Capabilities
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet.testing import checks
from eqnet.testing.nets.cases import (
    Case,
    all_cases,
    changed,
    executed,
    factors,
    pairwise_cases,
    undeclared,
)
from eqnet.testing.nets.networks import NETS, RECIPES
from eqnet.testing.oracle import TIE, Steps, compare_integers, different, prone, run_oracle
from eqnet.testing.pairwise import cover, pairs_of
from eqnet.testing.subnets import Point, Trace, subnet_of

EXPORTERS = ("onnxruntime", "lowbit", "openvino", "tensorrt")
EVERYWHERE = {"add": "both", "carriers": ["pool"]}
CASE = Case(
    "no_bias",
    Granularity.PER_CHANNEL,
    Symmetry.SYMMETRIC,
    Symmetry.ASYMMETRIC,
    "uint8",
    "free",
    (8, 8),
)


# Choosing cases.


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_every_pair_of_a_valid_row_is_covered(sizes, data):
    names = [f"f{index}" for index in range(len(sizes))]
    rows = [dict(zip(names, row, strict=True)) for row in itertools.product(*map(range, sizes))]
    kept = data.draw(st.lists(st.sampled_from(rows), unique_by=str, min_size=1))
    chosen = cover(kept)
    wanted = {pair for row in kept for pair in pairs_of(row)}
    assert {pair for index in chosen for pair in pairs_of(kept[index])} == wanted
    assert len(set(chosen)) == len(chosen)
    assert cover(kept) == chosen


def test_covering_takes_few_rows():
    rows = [dict(zip("abcdefgh", row, strict=True)) for row in itertools.product((0, 1), repeat=8)]
    assert len(cover(rows)) <= 10  # of 256; 6 is the least possible


@pytest.mark.parametrize("name", EXPORTERS)
def test_the_cases_of_an_exporter_hold_every_pair(name):
    can = executed(find_exporter(name).capabilities)
    cases, everything = pairwise_cases(can, NETS), all_cases(can, NETS)
    assert len(NETS) * 2 <= len(cases) <= 64
    assert pairwise_cases(can, NETS) == cases
    names = [name for name in factors(can, NETS) if name != "bits"]

    def pairs(chosen):
        rows = [{name: getattr(case, name) for name in names} for case in chosen]
        return {pair for row in rows for pair in pairs_of(row)}

    assert pairs(cases) == pairs(everything)
    assert len({str(case) for case in everything}) <= len(everything)


def test_a_low_bit_target_meets_every_width_on_either_side():
    cases = pairwise_cases(find_exporter("lowbit").capabilities, NETS)
    for side in (0, 1):
        assert {case.bits[side] for case in cases} == set(range(2, 9))


@pytest.mark.parametrize("name", EXPORTERS)
def test_an_undeclared_demand_changes_that_demand(name):
    exporter = find_exporter(name)
    accepted = pairwise_cases(exporter.capabilities, NETS)[0].profile(exporter, EVERYWHERE)
    for key, values in undeclared(exporter.capabilities).items():
        for value in values:
            found = changed(accepted, key, value).model_dump(mode="json")
            section, _, field = key.rpartition(".")
            found = found[section][field] if section else found[field]
            assert found == ([list(value)] if key == "bits" else value)


# The graph of a subnet by way of its template.


@pytest.mark.parametrize("net", ["no_bias", "transposed"])
def test_the_graph_from_the_template_is_the_exported_one(net):
    exporter = OnnxRuntimeExporter()
    subnet = subnet_of(net, replace(CASE, net=net).profile(exporter, EVERYWHERE))
    exported = to_onnx(subnet.net, RECIPES[net].shape)

    def nodes(model):
        # A node beside layers and quantizers is named after the tensor that it makes, if any.
        own = (*LAYER_OPS, "QuantizeLinear", "DequantizeLinear")
        return [
            (node.op_type, dict(node.attributes), node.name if node.op_type in own else None)
            for node in model.graph
        ]

    def constants(model):
        values = model.graph.initializers.values()
        return {value.name: value.const_value.numpy() for value in values}

    assert nodes(subnet.reference) == nodes(exported)
    found, expected = constants(subnet.reference), constants(exported)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# What is excused, and what is not.


def trace_of(*columns: list[float]) -> Trace:
    """Two quantizers in a row of scale 1, each of three images with one value."""
    points = [
        Point(f"t{i}.narrow", 1.0, np.array(column, np.float32), np.rint(column).astype(np.int32))
        for i, column in enumerate(columns)
    ]
    return Trace(tuple(points), np.array([[0, 1], [1, 0], [0, 1]], np.float32))


def compare(trace: Trace, changes: dict[tuple[int, int], int], scale: float = 1.0):
    found = {}
    for index, point in enumerate(trace.points):
        integers = point.integers.copy()
        for (where, image), by in changes.items():
            integers[image] += by if where == index else 0
        found[point.name] = Steps(scale, integers)
    return compare_integers(trace, found)


def test_equal_integers_are_right():
    result = compare(trace_of([0.5, 1.2, 3.0], [1.0, 2.0, 3.0]), {})
    assert (result.wrong, result.ties, result.touched.any()) == ([], 0, False)


def test_a_tie_is_counted_and_what_follows_in_its_image_is_excused():
    trace = trace_of([2.5 + TIE / 2, 1.2, 3.0], [1.0, 2.0, 3.0])
    result = compare(trace, {(0, 0): -1, (1, 0): 7})
    assert result.wrong == []
    assert result.ties == 1
    assert result.touched.tolist() == [True, False, False]


@pytest.mark.parametrize(
    "changes",
    [
        {(0, 1): 1},  # no value near the middle
        {(0, 0): 2},  # near the middle, but two steps off
        {(0, 0): 1, (1, 1): 1},  # another image than the tie's
        {(1, 0): 1},  # before any tie has touched the image
    ],
)
def test_any_other_difference_is_wrong(changes):
    assert compare(trace_of([2.5, 1.2, 3.0], [1.0, 2.0, 3.0]), changes).wrong


def test_another_scale_is_wrong():
    assert "scale" in compare(trace_of([1.0, 2.0, 3.0]), {}, scale=1.01).wrong[0]


def test_logits_differ_by_more_than_the_last_sums_rounding():
    logits = np.array([[1.0, -2.0], [3.0, 100.0]], np.float32)
    near = np.array([[1e-5, 0], [0, 1e-3]], np.float32)
    far = np.array([[1e-3, 0], [0, 1.0]], np.float32)
    assert different(logits + near, logits).tolist() == [False, False]
    assert different(logits + far, logits).tolist() == [True, True]


def test_a_runtime_that_is_off_without_a_tie_near_fails():
    subnet = subnet_of("no_bias", CASE.profile(OnnxRuntimeExporter(), EVERYWHERE))
    logits = subnet.trace.logits
    checks.executed(logits, subnet, 8, "equal")
    step = np.ptp(logits) / 255
    image = next(i for i in range(7) if not prone(subnet.trace)[i])
    wrong = logits.copy()
    wrong[image] += step
    cases: list[tuple[Any, str]] = [
        (wrong, "none of its values lies near"),
        (logits.astype(np.float64), "allowed: float32"),
        (logits[:, :4], "allowed"),
        (np.where(logits == logits.max(), np.nan, logits), "not finite"),
    ]
    for bad, text in cases:
        with pytest.raises(AssertionError, match=text):
            checks.executed(bad, subnet, 8, "wrong")


def test_the_evaluator_is_no_runtime_of_ours():
    """Its integers come from numpy: a quantizer's are those of its own float input."""
    subnet = subnet_of("no_bias", CASE.profile(OnnxRuntimeExporter(), EVERYWHERE))
    found = run_oracle(subnet.reference, subnet.images)
    first = subnet.trace.points[0]
    zero = next(q.zero_point for q in quantizers(subnet.reference))
    by_hand = np.clip(np.rint(subnet.images / np.float32(first.scale)) + zero, 0, 255) - zero
    np.testing.assert_array_equal(found.points[first.name].integers, by_hand)


def test_capabilities_that_call_a_key_slow_execute_all_of_its_values():
    can = Capabilities(
        frozenset(Granularity),
        frozenset({Symmetry.SYMMETRIC}),
        frozenset(Symmetry),
        frozenset({"uint8"}),
        8,
        frozenset({"float32"}),
        slow=frozenset({"bits"}),
        in_float=frozenset({"weights.symmetry"}),
    )
    wide = executed(can)
    assert (wide.min_bits, wide.weight_symmetries) == (2, frozenset(Symmetry))
    assert wide.storages == can.storages
    case = replace(CASE, weight_symmetry=Symmetry.ASYMMETRIC, bits=(4, 8))
    assert case.outside(can) == {"weights.symmetry", "bits"}
    assert CASE.outside(can) == set()
