"""Genomes and subnets, and what a profile leaves to choose in a network."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from nets import small_supernet, supernet_of
from search_tools import ALL_PAIRS, IDENTITY, PINNED, lowbit, space_of

from eqnet.models import load_model
from eqnet.spec.errors import ProfileError
from eqnet.stages.search.space import Space
from eqnet.subnets.target import Target


@pytest.fixture(scope="module")
def info():
    return small_supernet().info


@pytest.fixture(scope="module")
def resnet20():
    return supernet_of(load_model("eqnet:resnet20"), (1, 28, 28), calibrated=False).info


def target(info, **changes) -> Target:
    return Target.of(info, lowbit(**changes))


def test_pins_take_first_last_and_patterns(info):
    pinned = target(info, pinned=[*PINNED, {"layers": "conv*", "bits": "remainder"}]).pinned
    assert pinned == {"stem": 8, "head": 8, "conv1": "remainder", "conv2": "remainder"}


def test_a_later_pin_wins_over_an_earlier_one(info):
    found = target(info, pinned=[{"layers": "*", "bits": 4}, {"layers": "conv1", "bits": 2}])
    assert found.pinned == {"stem": 4, "conv1": 2, "depthwise": 4, "conv2": 4, "head": 4}
    assert found.free_layers() == []


def test_a_pin_that_matches_nothing_is_one_line_with_names(info):
    with pytest.raises(ProfileError, match=r"pinned: 'cnov\*' matches no layer .*stem") as caught:
        target(info, pinned=[{"layers": "cnov*"}])
    assert "\n" not in str(caught.value)


def test_a_genome_is_one_subnet_and_each_subnet_one_genome(info):
    space = space_of(info, lowbit(bits=[[2, 3], [4, 5]]))
    assert space.layers == ("conv1", "depthwise", "conv2")
    assert space.choices() == (2, 2, 2)
    genomes = list(space.all_genomes())
    assert len(genomes) == len(set(genomes)) == space.size() == 8
    specs = [space.subnet(genome) for genome in genomes]
    assert len({spec.sha256() for spec in specs}) == 8
    for genome, spec in zip(genomes, specs, strict=True):
        wanted = {name: (2, 4)[gene] for name, gene in zip(space.layers, genome, strict=True)}
        assert spec.weights == {"stem": 8, "head": 8} | wanted
        read = {"act": 0, "act_1": 1, "act_2": 2}
        bits = {tensor: (3, 5)[genome[gene]] for tensor, gene in read.items()}
        assert spec.activations == {"input": 8, "drop": 8} | bits
        assert spec.supernet == IDENTITY
        assert (spec.profile, spec.profile_sha256) == ("by_hand", space.target.profile.sha256())


def test_one_pair_leaves_no_gene_for_layers(info):
    space = space_of(info, lowbit(bits=[[4, 8]]))
    assert (space.choices(), space.size()) == ((), 1)
    assert space.uniform_genomes() == [()]
    assert space.subnet(()).weights["conv1"] == 4


def test_groups_are_left_in_the_remainder_by_genes(info):
    space = space_of(
        info, lowbit(bits=[[8, 8]], pinned=[], search_groups=["conv", "depthwise_conv", "add"])
    )
    assert space.groups == ("conv", "depthwise_conv", "add")
    quantized = space.subnet((0, 0, 0))
    assert set(quantized.weights.values()) == {8}
    assert "bn2" in quantized.carriers
    dropped = space.subnet((0, 1, 0))
    assert dropped.weights["depthwise"] == "remainder"
    assert "act_1" not in dropped.activations
    assert dropped.avg_weight_bits > 8
    no_conv = space.subnet((1, 0, 0)).weights
    assert [name for name, bits in no_conv.items() if bits == 8] == ["depthwise", "head"]
    assert "bn2" not in space.subnet((0, 0, 1)).carriers


def test_groups_that_the_network_lacks_are_no_choice(info):
    lacking = info.__class__(
        info.input_shape,
        info.classes,
        tuple(layer for layer in info.layers if layer.group != "depthwise_conv"),
        info.tensors,
    )
    space = Space.of(
        Target.of(lacking, lowbit(search_groups=["depthwise_conv", "linear"])), IDENTITY
    )
    assert space.groups == ("linear",)


def test_a_group_outside_the_placement_stays_float(info):
    found = target(info, pinned=[], placement={"quantize": ["conv"]})
    assert found.free_layers() == ["stem", "conv1", "conv2"]
    weights = found.uniform((4, 4)).weights
    assert (weights["depthwise"], weights["head"], weights["stem"]) == ("remainder",) * 2 + (4,)


def sharing(info):
    """The network in which conv1 and conv2 read one tensor, `act`."""
    layers = tuple(
        replace(layer, input="act") if layer.name == "conv2" else layer for layer in info.layers
    )
    read = {"act": ("conv1", "conv2"), "act_2": ()}
    tensors = tuple(replace(item, layers=read.get(item.name, item.layers)) for item in info.tensors)
    return replace(info, layers=layers, tensors=tensors)


def test_a_tensor_takes_the_widest_bits_that_its_readers_ask_for(info):
    pairs = {"conv1": (4, 3), "depthwise": (4, 3), "conv2": (4, 6)}
    spec = Target.of(sharing(info), lowbit()).subnet(pairs)
    assert spec.activations["act"] == 6
    assert spec.activations["act_1"] == 3
    assert {spec.weights[name] for name in pairs} == {4}


@pytest.mark.parametrize(
    ("bits", "conv1", "conv2", "expected"),
    [
        # conv1 would be w2a8: it takes the least weight bits from 2 on that go with a8.
        ([[2, 4], [4, 4], [4, 8], [8, 8]], (2, 4), (8, 8), (4, 8, 8)),
        ([[2, 4], [4, 8], [8, 8]], (2, 4), (4, 8), (4, 4, 8)),
        # No pair with a8 has 6 weight bits or more: the most that has.
        ([[6, 4], [3, 8], [2, 8]], (6, 4), (2, 8), (3, 2, 8)),
        ([[6, 4], [3, 8], [2, 8]], (6, 4), (6, 4), (6, 6, 4)),
    ],
)
def test_readers_of_one_tensor_meet_in_allowed_pairs(info, bits, conv1, conv2, expected):
    found = Target.of(sharing(info), lowbit(bits=bits))
    spec = found.subnet({"conv1": conv1, "depthwise": conv1, "conv2": conv2})
    assert (spec.weights["conv1"], spec.weights["conv2"], spec.activations["act"]) == expected
    assert (spec.weights["depthwise"], spec.activations["act_1"]) == conv1


@pytest.mark.parametrize(
    ("pin", "bits", "expected"),
    [
        (8, [[2, 4], [4, 4]], (8, 2, 4)),  # nothing allowed reads 8 bits: all read 4
        (8, [[2, 4], [4, 8]], (8, 4, 8)),
        (4, [[2, 2], [4, 8], [3, 6]], (4, 3, 6)),  # nothing allowed reads 4 bits: the next up
    ],
)
def test_a_pinned_layer_leaves_its_neighbour_an_allowed_pair(info, pin, bits, expected):
    pins = [*PINNED, {"layers": "conv1", "bits": pin}]
    spec = Target.of(sharing(info), lowbit(bits=bits, pinned=pins)).uniform(tuple(bits[0]))
    assert (spec.weights["conv1"], spec.weights["conv2"], spec.activations["act"]) == expected
    assert (spec.weights["depthwise"], spec.activations["act_1"]) == tuple(bits[0])


@pytest.mark.parametrize(
    "bits",
    [[[2, 4], [4, 4], [4, 8], [8, 8]], [[2, 8], [8, 2], [5, 5]], [[2, 2], [3, 4], [4, 3]]],
)
@pytest.mark.parametrize("pinned", [PINNED, [*PINNED, {"layers": "layer2.0.conv1"}], []])
def test_random_genomes_of_resnet20_hold_allowed_pairs_alone(resnet20, bits, pinned):
    rules = lowbit(bits=bits, pinned=pinned, search_groups=["conv"])
    space = space_of(resnet20, rules)
    readers = Counter(layer.input for layer in resnet20.layers)
    assert max(readers.values()) == 2  # a block's first convolution, and its shortcut
    allowed, rng, moved = {tuple(pair) for pair in bits}, random.Random(3), 0
    for _ in range(60):
        genome = [rng.randrange(count) for count in space.choices()[:-1]] + [0]
        spec = space.subnet(genome)
        for name, gene in zip(space.layers, genome, strict=False):
            pair = (spec.weights[name], spec.activations[resnet20.layer(name).input])
            assert pair in allowed, name
            if readers[resnet20.layer(name).input] == 1:
                assert pair == tuple(bits[gene])
            moved += pair != tuple(bits[gene])
    assert moved > 0


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ({}, (8, 8)),
        ({"avg_weight_bits": 6}, (5, 8)),  # pinned layers hold 8 bits, so 6 everywhere is 6.6
        ({"avg_weight_bits": 4, "avg_activation_bits": 6}, (2, 4)),
    ],
)
def test_default_is_the_widest_uniform_pair_within_the_budgets(info, budgets, expected):
    found = target(info, budgets=budgets)
    spec = found.default("x" * 64)
    assert (spec.weights["conv1"], spec.activations["act"]) == expected
    assert (spec.weights["stem"], spec.supernet) == (8, "x" * 64)
    wider = [
        (w, a)
        for w, a in ALL_PAIRS
        if w + a > sum(expected)
        and found.uniform((w, a)).avg_weight_bits <= budgets.get("avg_weight_bits", 32)
        and found.uniform((w, a)).avg_activation_bits <= budgets.get("avg_activation_bits", 32)
    ]
    assert wider == []
