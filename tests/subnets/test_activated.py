"""The search group of layers whose output goes to a function that no integer kernel absorbs."""

from __future__ import annotations

import pytest
from gated_nets import SqueezeNet
from nets import supernet_of
from search_tools import lowbit
from torch import nn

from eqnet.spec.network import NetworkInfo
from eqnet.spec.subnet import REMAINDER
from eqnet.stages.search.space import Space
from eqnet.subnets.target import Target


@pytest.fixture(scope="module")
def info() -> NetworkInfo:
    return supernet_of(SqueezeNet()).info


def test_layers_before_a_swish_or_a_sigmoid_are_known(info):
    found = {layer.name: layer.activated for layer in info.layers}
    assert found == {"expand": True, "excite": True, "project": False, "fc": False}


def test_the_search_may_leave_them_in_float(info):
    rules = lowbit(bits=[[8, 8]], pinned=[], search_groups=["activated", "conv", "linear"])
    space = Space.of(Target.of(info, rules), "0" * 64)
    assert space.groups == ("activated", "conv", "linear")
    assert space.label((1, 0, 0)) == "float activated"
    weights = space.subnet((1, 0, 0)).weights
    floats = {name for name, bits in weights.items() if bits == REMAINDER}
    assert floats == {"expand", "excite"}


def test_a_pin_is_stronger(info):
    pinned = [{"layers": "first", "bits": 8}]
    rules = lowbit(bits=[[8, 8]], pinned=pinned, search_groups=["activated"])
    weights = (
        Target.of(info, rules)
        .subnet(
            dict.fromkeys(("excite", "project", "fc"), (8, 8)),
            float_groups=frozenset({"activated"}),
        )
        .weights
    )
    assert (weights["expand"], weights["excite"], weights["project"]) == (8, REMAINDER, 8)


def test_a_net_without_such_functions_has_no_such_group():
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    rules = lowbit(bits=[[8, 8]], pinned=[], search_groups=["activated", "linear"])
    assert Space.of(Target.of(supernet_of(plain).info, rules), "").groups == ("linear",)
