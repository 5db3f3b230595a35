"""Weights that lose more than their bits explain are found, by layer and channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import small_supernet, style

from eqnet.sensitivity.suspects import suspects
from eqnet.spec.scheme import Form, Granularity
from eqnet.spec.subnet import REMAINDER
from eqnet.subnets.build import uniform

LAYERS = ["stem", "conv1", "depthwise", "conv2", "head"]


def spec_of(supernet, bits=8, granularity=Granularity.PER_CHANNEL):
    return uniform(supernet.info, style(), Form(weight_granularity=granularity), bits, bits)


def scale_of(supernet, layer, granularity=Granularity.PER_CHANNEL, bits=8):
    return supernet.layer(layer).weight_quantizer.log_scale[f"{granularity}_symmetric_{bits}"]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_sound_network_has_none(bits):
    supernet = small_supernet()
    assert suspects(supernet, spec_of(supernet, bits)) == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("factor", [1 / 8, 16])
def test_a_layer_with_unsuited_scales_is_the_one(layer, factor):
    supernet = small_supernet()
    with torch.no_grad():
        scale_of(supernet, layer).add_(np.log(factor))
    (found,) = suspects(supernet, spec_of(supernet))
    assert found.layer == layer
    assert found.snr < found.expected - 15


def test_one_channel_of_a_layer_is_named():
    supernet = small_supernet()
    with torch.no_grad():
        scale_of(supernet, "conv1")[3] += np.log(64)
        scale_of(supernet, "head")[2] += np.log(1000)
    found = suspects(supernet, spec_of(supernet))
    assert [(one.layer, one.channel) for one in found] == [("head", 2), ("conv1", 3)]
    assert found[0].snr == pytest.approx(0, abs=0.1)  # all of its integers are 0


def test_one_scale_for_a_layer_has_no_channel():
    supernet, granularity = small_supernet(), Granularity.PER_TENSOR
    with torch.no_grad():
        scale_of(supernet, "conv2", granularity).add_(np.log(20))
    (found,) = suspects(supernet, spec_of(supernet, granularity=granularity))
    assert (found.layer, found.channel) == ("conv2", None)


def test_float_layers_and_channels_without_effect_are_passed_over():
    supernet = small_supernet()
    with torch.no_grad():
        scale_of(supernet, "conv1").add_(np.log(64))
        supernet.layer("conv2").weight[0] *= 1e-6
    spec = spec_of(supernet)
    assert [one.layer for one in suspects(supernet, spec)] == ["conv1"]
    spec = spec.model_copy(update={"weights": spec.weights | {"conv1": REMAINDER}})
    assert suspects(supernet, spec) == []
