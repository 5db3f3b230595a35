"""What every exporter refuses of a profile, because lowering would change or ignore it."""

from __future__ import annotations

import pytest
from artifacts import profile

from eqnet.backend.discovery import find_exporter

ACCEPTED = {
    "onnxruntime": {},
    "lowbit": {},
    "openvino": {"placement": {"add": "skip"}},
    "tensorrt": {
        "activations": {"symmetry": "symmetric", "storage": "int8", "zero_point": "zero"},
        "placement": {"add": "skip"},
    },
}
SIGNED = {"symmetry": "symmetric", "storage": "int8"}


def refusals(backend: str, **changes: object) -> list[str]:
    target = profile(backend, **{**ACCEPTED[backend], **changes})
    return find_exporter(backend).refusals(target)


@pytest.mark.parametrize("backend", ACCEPTED)
def test_the_profiles_that_the_other_tests_change_are_accepted(backend):
    assert refusals(backend) == []


@pytest.mark.parametrize("backend", ACCEPTED)
@pytest.mark.parametrize("opset", [22, 24])
def test_an_opset_that_no_exporter_writes(backend, opset):
    assert refusals(backend, opset=opset) == [f"opset: {opset} (allowed: 21)"]


@pytest.mark.parametrize("backend", ["onnxruntime", "lowbit", "openvino"])
def test_a_zero_point_of_0_where_storage_would_move_it(backend):
    (line,) = refusals(backend, activations={**SIGNED, "zero_point": "zero"})
    assert line == "activations.zero_point: zero (allowed: free)"
    assert refusals(backend, activations=SIGNED) == []


def test_tensorrt_wants_a_zero_point_of_0():
    (line,) = refusals("tensorrt", activations=SIGNED)
    assert line == "activations.zero_point: free (allowed: zero)"


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_a_pin_of_fewer_bits_than_the_target_runs(backend):
    pinned = [
        {"layers": "first", "bits": 4},
        {"layers": "fc", "bits": 8},
        {"layers": "last", "bits": "remainder"},
    ]
    assert refusals(backend, pinned=pinned) == [
        "pinned.first: 4 bits (allowed: 8 or more, or 'remainder')"
    ]
    assert refusals(backend, pinned=pinned[1:]) == []


def test_a_pin_of_few_bits_is_accepted_where_they_run():
    assert refusals("lowbit", pinned=[{"layers": "first", "bits": 4}]) == []
