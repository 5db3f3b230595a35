"""Which subnet `eqnet export` takes: within the profile's budgets, and one of the profile's."""

from __future__ import annotations

import contextlib
import itertools
import json
import random

import pytest
import torch
from gated_nets import Gated, SqueezeNet
from nets import small_supernet, supernet_of
from search_tools import ALL_PAIRS, IDENTITY, lowbit, session_of, space_of

from eqnet.spec.errors import CheckpointError, InfeasibleError, UsageError
from eqnet.spec.hardware.load import load_profile
from eqnet.stages.export.choose_subnet import choose_subnet
from eqnet.subnets.membership import first_difference
from eqnet.subnets.target import Target

SEARCHED = {"search_groups": ["conv", "linear", "add", "stem", "activated"]}
SIGNED = {
    "bits": [[8, 8], [4, 8], [2, 2], [2, 3]],
    "activations": {"symmetry": "symmetric", "storage": "int8", "zero_point": "zero"},
}


@pytest.fixture(scope="module")
def supernet():
    return small_supernet()


def default(supernet, **changes):
    return Target.of(supernet.info, lowbit(**changes)).default(IDENTITY)


def test_a_budget_of_size_is_kept(supernet):
    whole = default(supernet)
    small = default(supernet, budgets={"size_kib": 0.7})
    bits = sum(layer.weights * small.weights[layer.name] for layer in supernet.info.layers)
    assert bits / 8192 <= 0.7
    assert small.avg_weight_bits < whole.avg_weight_bits == 8


@pytest.mark.parametrize(
    ("budgets", "said"),
    [
        ({"avg_weight_bits": 1.5}, "budget avg_weight_bits=1.5: no subnet .*nearest reachable: 3."),
        ({"size_kib": 0.1}, r"budget size_kib=0\.1: no subnet .*nearest reachable: 0\.4"),
    ],
)
def test_a_budget_that_nothing_meets_is_infeasible(supernet, budgets, said):
    with pytest.raises(InfeasibleError, match=said):
        default(supernet, budgets=budgets)


def test_budgets_that_only_a_mixture_meets(supernet):
    budgets = {"avg_weight_bits": 6, "avg_activation_bits": 6}
    with pytest.raises(InfeasibleError, match=r"one pair of bits throughout .*`eqnet search`"):
        default(supernet, bits=[[2, 8], [8, 2]], budgets=budgets)


def test_a_budget_of_cost_asks_for_a_search(supernet):
    with pytest.raises(UsageError, match=r"budgets: cost=2: .*`eqnet search`"):
        default(supernet, budgets={"cost": 2})


@pytest.mark.parametrize("name", ["openvino_asym", "tensorrt_int8", "custom_lowbit", "custom_pow2"])
def test_the_default_subnet_is_the_profiles(name):
    supernet = supernet_of(Gated().eval(), (3, 16, 16))
    target = Target.of(supernet.info, load_profile(name))
    assert first_difference(target, target.default(IDENTITY)) is None


@pytest.mark.parametrize("net", ["small", "gated", "squeeze"])
@pytest.mark.parametrize("changes", [{}, SIGNED, {"pinned": [{"layers": "*", "bits": 4}]}])
def test_every_subnet_of_a_search_is_the_profiles(net, changes):
    torch.manual_seed(0)
    info = {
        "small": small_supernet,
        "gated": lambda: supernet_of(Gated().eval(), (3, 16, 16)),
        "squeeze": lambda: supernet_of(SqueezeNet()),
    }[net]().info
    rng = random.Random(1)
    for pins in ([], [{"layers": "last", "bits": "remainder"}, {"layers": "first", "bits": 5}]):
        space = space_of(info, lowbit(**{**SEARCHED, "pinned": pins, **changes}))
        for _ in range(25):
            genome = [rng.randrange(count) for count in space.choices()]
            assert first_difference(space.target, space.subnet(genome)) is None


def edited(content, **fields):
    for path, value in fields.items():
        *parents, last = path.split("__")
        place = content
        for name in parents:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"form__weight_granularity": "per_tensor"}, "form: per_tensor:symmetric/asymmetric (allo"),
        ({"weight_scales": "power_of_two"}, "weight_scales: power_of_two (allowed: free)"),
        ({"activation_scales": "power_of_two"}, "activation_scales: power_of_two (allowed: free)"),
        (
            {"weight_storage_bits": 7, "weights__stem": 7, "weights__head": 7},
            "weight_storage_bits: 7 (allowed: 8)",
        ),
        ({"weights__conv1": 3}, "weights.conv1: 3 bits with 4-bit activations (allowed: w4a4, w8"),
        ({"weights__stem": 4}, "weights.stem: 4 bits (allowed: 8 bits)"),
        ({"weights__conv1": "remainder"}, "weights.conv1: "),
        ({"weights__conv1": None}, "weights: lacks layer 'conv1'"),
        ({"weights__conv9": 4}, "weights: 'conv9' is not of this network"),
        ({"activations__act": 6}, "4 bits with 6-bit activations (allowed: w4a4, w8a8)"),
        ({"activations__act": None}, "4 bits with float activations"),
        ({"activations__x": 4}, "activations: 'x' is not of this network"),
        ({"carriers__act": None}, "carriers.act: nothing (allowed: 8 bits)"),
        ({"carriers__act": 4}, "carriers.act: 4 bits (allowed: 8 bits)"),
        ({"avg_weight_bits": 2.0}, "avg_weight_bits: 2 (allowed: 5.16"),
        ({"avg_activation_bits": 9.5}, "avg_activation_bits: 9.5 (allowed: "),
        ({"avg_weight_bits": float("inf")}, "avg_weight_bits: Input should be a finite number"),
    ],
)
@pytest.mark.parametrize("searched", [False, True])
def test_a_subnet_that_was_changed_is_refused_with_its_field(
    supernet, tmp_path, fields, said, searched
):
    rules = lowbit(bits=[[4, 4], [8, 8]], placement={"add": "both", "carriers": ["pool"]})
    session = session_of(tmp_path, supernet)
    path = tmp_path / rules.name / "subnet.json"
    path.parent.mkdir()
    spec = Target.of(supernet.info, rules).uniform((4, 4), supernet=IDENTITY)
    path.write_text(spec.model_dump_json())
    given = None if searched else path
    assert choose_subnet(session, rules, given, tmp_path).spec == spec
    content = json.loads(path.read_text())
    edited(content, **fields)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as error:
        choose_subnet(session, rules, given, tmp_path)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_float_layers_are_those_that_the_groups_leave_together(supernet):
    target = Target.of(supernet.info, lowbit(search_groups=["conv"]))
    pairs = dict.fromkeys(target.free_layers(), (4, 4))
    whole = target.subnet(pairs, float_groups=frozenset({"conv"}))
    assert first_difference(target, whole) is None
    half = whole.model_copy(update={"weights": {**whole.weights, "conv2": 4}})
    assert "weights.conv" in str(first_difference(target, half))


def test_the_default_subnet_is_never_over_a_budget(supernet):
    rng, met = random.Random(4), 0
    for weight, activation in itertools.product((4.5, 6, 7), repeat=2):
        budgets = {"avg_weight_bits": weight, "avg_activation_bits": activation}
        with contextlib.suppress(InfeasibleError):
            spec = default(supernet, bits=rng.sample(ALL_PAIRS, 5), budgets=budgets)
            assert spec.avg_weight_bits <= weight
            assert spec.avg_activation_bits <= activation
            met += 1
    assert met
