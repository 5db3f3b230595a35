"""What every exporter refuses of a profile, because lowering would change or ignore it."""

from __future__ import annotations

from typing import Any

import pytest
from artifacts import profile

from eqnet.backend.discovery import find_exporter
from eqnet.backend.refusals import accepted_refusals, keeps_int8
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile

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
SHIFTED = {"symmetry": "symmetric", "scales": "power_of_two"}


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


@pytest.mark.parametrize("backend", ["onnxruntime", "lowbit"])
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


@pytest.mark.parametrize("backend", ACCEPTED)
def test_engines_where_none_is_built(backend):
    found = refusals(backend, engines={"targets": ["SM89"], "min_batch": 1})
    line = "engines: targets, but no engine is built (allowed: no engines)"
    assert found == ([] if backend == "tensorrt" else [line])


def test_a_pin_of_few_bits_is_accepted_where_they_run():
    assert refusals("lowbit", pinned=[{"layers": "first", "bits": 4}]) == []


def test_seven_bits_are_all_where_the_range_is_reduced():
    weights = {"granularity": "per_channel", "symmetry": "symmetric", "reduce_range": True}
    for backend in ACCEPTED:
        assert refusals(backend, weights=weights, bits=[[7, 8]]) == []
    (line,) = refusals("onnxruntime", weights=weights, bits=[[6, 8]])
    assert line == "bits: 6 (allowed: 8 or more)"


@pytest.mark.parametrize("backend", ACCEPTED)
def test_powers_of_two_are_scales_like_others(backend):
    weights = {"granularity": "per_channel", "symmetry": "symmetric", "scales": "power_of_two"}
    changes = ACCEPTED[backend]
    activations = {**changes.get("activations", {}), **SHIFTED}
    assert refusals(backend, weights=weights, activations=activations) == []


ASYMMETRIC = {"granularity": "per_channel", "symmetry": "asymmetric"}
# What each backend executes exactly, though slowly: the key, what the profile says, the kind.
EXACT = [
    ("onnxruntime", "placement.add", {"placement": {"add": "skip"}}, "float"),
    ("onnxruntime", "activations.storage", {"activations": SIGNED, "isa": "vnni"}, "slow"),
    ("onnxruntime", "weights.reduce_range", {"isa": "avx2"}, "slow"),
    ("onnxruntime", "bits", {"bits": [[4, 8], [8, 8]]}, "slow"),
    ("onnxruntime", "pinned", {"pinned": [{"layers": "first", "bits": 4}]}, "slow"),
]
# What would be computed wrongly, or not at all.
NEVER = [
    ("openvino", "weights.symmetry", {"weights": ASYMMETRIC}),
    ("openvino", "weights.reduce_range", {"isa": "avx2"}),
    ("openvino", "activations.storage", {"activations": SIGNED}),
    ("openvino", "placement.add", {"placement": {"add": "both"}}),
    ("openvino", "activations.zero_point", {"activations": {**SIGNED, "zero_point": "zero"}}),
    ("tensorrt", "weights.symmetry", {"weights": ASYMMETRIC}),
    ("tensorrt", "activations.zero_point", {"activations": SIGNED}),
    ("tensorrt", "bits", {"bits": [[4, 8]]}),
    ("lowbit", "remainder", {"remainder": "float16"}),
    ("onnxruntime", "opset", {"opset": 22}),
]


@pytest.mark.parametrize(("backend", "key", "changes", "kind"), EXACT)
def test_an_exact_demand_is_refused_until_it_is_accepted(backend, key, changes, kind):
    exporter, content = find_exporter(backend), {**ACCEPTED[backend], **changes}
    with pytest.raises(ProfileError, match=rf"; exact but slow, .* accept_slow: \[{key}\]$"):
        accepted_refusals(exporter, profile(backend, **content))
    (found,) = accepted_refusals(exporter, profile(backend, **content, accept_slow=[key]))
    assert (found.key, found.kind) == (key, kind)
    assert keeps_int8([found]) == (kind == "slow")


@pytest.mark.parametrize(("backend", "key", "changes"), NEVER)
def test_an_inexact_or_impossible_demand_is_never_accepted(backend, key, changes):
    content = {**ACCEPTED[backend], **changes}
    with pytest.raises(ProfileError) as error:
        accepted_refusals(find_exporter(backend), profile(backend, **content, accept_slow=[key]))
    assert f"{key}: " in str(error.value)
    assert f"[{key}" not in str(error.value)


def test_accepting_one_demand_accepts_no_other():
    changes = {"placement": {"add": "skip"}, "bits": [[4, 8]]}
    target = profile("onnxruntime", **changes, accept_slow=["bits"])
    with pytest.raises(ProfileError) as error:
        accepted_refusals(find_exporter("onnxruntime"), target)
    assert "placement.add: 'skip'" in str(error.value)
    assert "bits: 4" not in str(error.value)


def test_accepting_what_is_not_refused_changes_nothing():
    target = profile("onnxruntime", accept_slow=["weights.symmetry"])
    assert accepted_refusals(find_exporter("onnxruntime"), target) == ()


class Plain:
    """A third party's exporter, whose refusals are plain lines."""

    name = "plain"

    def refusals(self, target: HardwareProfile) -> list[str]:
        return ["weights.symmetry: symmetric (allowed: asymmetric)"]


def test_a_plain_line_is_final():
    plain: Any = Plain()  # no more of an exporter is asked
    with pytest.raises(ProfileError, match=r"'by_hand' on plain: weights\.symmetry: symmetric"):
        accepted_refusals(plain, profile(accept_slow=["weights.symmetry"]))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("onnxruntime_x86", "float"), ("openvino_asym", "float"), ("tensorrt_int8", "impossible")],
)
def test_integer_transposed_convolutions_are_refused_where_they_run_in_float(name, kind):
    profile = load_profile(name)
    asked = profile.placement.model_copy(update={"quantize": ("conv", "conv_transpose")})
    exporter = find_exporter(profile.backend)
    (line,) = exporter.refusals(profile.model_copy(update={"placement": asked}))
    assert "conv_transpose" in line
    assert getattr(line, "kind", "impossible") == kind
    assert not exporter.refusals(profile)
