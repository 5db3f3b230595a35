"""Cutting a network into a float stem and a quantized rest."""

from __future__ import annotations

import pytest
from gated_nets import SHAPE, Gated
from nets import small_supernet
from search_tools import lowbit, space_of

from eqnet.stages.search.space import Space
from eqnet.subnets.stem import before, stem_cuts
from eqnet.subnets.target import Target
from eqnet.supernet.supernet import Supernet

BOTH = {"residual_bits": "8", "add": "both", "carriers": ["pool", "mul", "activation"]}


@pytest.fixture(scope="module")
def info():
    return Supernet(Gated().eval(), SHAPE).info


def test_cuts_lie_at_the_smallest_tensor_of_each_resolution_but_the_last(info):
    # At 16 x 16 `wide` and `widen` read 4 channels; at 8 x 8 `last` reads 6, the squeeze counts
    # for none of its own; the classifier is at the last resolution.
    assert stem_cuts(info) == ("widen", "last")


def test_what_lies_before_a_cut(info):
    layers, tensors = before(info, "widen")
    assert layers == {"stem", "wide", "narrow"}
    assert info.layer("widen").input not in tensors
    assert {info.layer(name).input for name in layers} <= tensors
    assert before(info, None) == (frozenset(), frozenset())


def test_an_unknown_cut_is_refused(info):
    with pytest.raises(KeyError, match="nowhere"):
        before(info, "nowhere")


def test_the_stem_is_a_gene_with_one_value_for_each_cut(info):
    rules = lowbit(bits=[[8, 8]], pinned=[], placement=BOTH, search_groups=["stem", "linear"])
    space = space_of(info, rules)
    assert space.groups == ("stem", "linear")
    assert space.choices() == (3, 2)
    assert len({space.subnet(genome).sha256() for genome in space.all_genomes()}) == 6
    spec = space.subnet((1, 0))
    floats = [name for name, bits in spec.weights.items() if bits == "remainder"]
    assert floats == ["stem", "wide", "narrow"]
    inside = before(info, "widen")[1]
    assert inside
    assert not inside & (set(spec.activations) | set(spec.carriers))
    whole = space.subnet((0, 0))
    assert inside <= set(whole.activations) | set(whole.carriers)
    assert space.label((1, 1)) == "float linear, all before widen"
    assert space.label((0, 0)) == "all quantized"


def test_a_pinned_layer_of_the_stem_keeps_its_bits(info):
    rules = lowbit(bits=[[8, 8]], pinned=[{"layers": "first"}], search_groups=["stem"])
    spec = space_of(info, rules).subnet((1,))
    assert (spec.weights["stem"], spec.weights["wide"]) == (8, "remainder")
    assert spec.activations["input"] == 8


def test_a_network_of_one_resolution_has_no_stem():
    info = small_supernet().info
    one = info.__class__(info.input_shape, info.classes, info.layers[-1:], info.tensors)
    assert stem_cuts(one) == ()
    space = Space.of(Target.of(one, lowbit(search_groups=["stem"])), "x")
    assert space.groups == ()
