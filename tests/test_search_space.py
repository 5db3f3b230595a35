"""Genomes and subnets, and what a profile leaves to choose in a network."""

from __future__ import annotations

import pytest
from nets import small_supernet
from search_tools import ALL_PAIRS, IDENTITY, PINNED, lowbit, space_of

from eqnet.search.space import Space
from eqnet.spec.errors import ProfileError
from eqnet.supernet.target import Target


@pytest.fixture(scope="module")
def info():
    return small_supernet().info


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


def test_a_tensor_takes_the_widest_bits_that_its_readers_ask_for(info):
    layers = tuple(
        layer if layer.name != "conv2" else type(layer)(**{**layer.__dict__, "input": "act"})
        for layer in info.layers
    )
    read = {"act": ("conv1", "conv2"), "act_2": ()}
    tensors = tuple(
        type(item)(**{**item.__dict__, "layers": read.get(item.name, item.layers)})
        for item in info.tensors
    )
    shared = info.__class__(info.input_shape, info.classes, layers, tensors)
    pairs = {"conv1": (4, 3), "depthwise": (4, 3), "conv2": (4, 6)}
    spec = Target.of(shared, lowbit()).subnet(pairs)
    assert spec.activations["act"] == 6
    assert spec.activations["act_1"] == 3


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ({}, (8, 8)),
        ({"avg_weight_bits": 6}, (5, 8)),  # pinned layers hold 8 bits, so 6 everywhere is 6.6
        ({"avg_weight_bits": 4, "avg_activation_bits": 6}, (2, 4)),
        ({"avg_weight_bits": 1}, (2, 2)),  # out of reach: the narrowest
    ],
)
def test_default_is_the_widest_uniform_pair_within_the_budgets(info, budgets, expected):
    found = target(info, budgets=budgets)
    spec = found.default("x" * 64)
    assert (spec.weights["conv1"], spec.activations["act"]) == expected
    assert (spec.weights["stem"], spec.supernet) == (8, "x" * 64)
    wider = [
        pair for pair in ALL_PAIRS
        if sum(pair) > sum(expected)
        and found.uniform(pair).avg_weight_bits <= budgets.get("avg_weight_bits", 32)
        and found.uniform(pair).avg_activation_bits <= budgets.get("avg_activation_bits", 32)
    ]  # fmt: skip
    assert wider == []
