"""Placements, average bits, sampling, and batch norm statistics of one subnet."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from nets import (
    SHAPE,
    SIGNED_ZERO,
    SmallNet,
    images,
    randomize,
    small_supernet,
    style,
    supernet_of,
)
from torch import nn

from eqnet.quant.quantizers import MAX_SAMPLES
from eqnet.spec.errors import CheckpointError, DataError
from eqnet.spec.scheme import Form, all_forms
from eqnet.subnets.build import PAPER_STYLE, build_spec, random_subnet, uniform
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

FORM = Form()


@pytest.fixture(scope="module")
def net() -> Supernet:
    return small_supernet()


def carriers(net, **placement):
    return uniform(net.info, style(**placement), FORM, 4, 3).carriers


def test_paper_quantizes_conv_and_linear_inputs_and_nothing_else(net):
    spec = uniform(net.info, PAPER_STYLE, FORM, 4, 3)
    assert spec.carriers == {}
    assert spec.activations == {"input": 8, "act": 3, "act_1": 3, "act_2": 3, "drop": 8}
    assert spec.weights == {"stem": 8, "conv1": 4, "depthwise": 4, "conv2": 4, "head": 8}


# "act" and "act_2" are read by a convolution and by something else: they are the residual stream.
PLACEMENTS = [
    ({"add": "none", "carriers": ()}, {"act": 8, "act_2": 8}),
    ({"add": "none", "carriers": (), "residual_bits": "same"}, {"act": 3, "act_2": 3}),
    ({"add": "none", "carriers": (), "residual_bits": "float"}, {}),
    # The convolution can absorb "bn2"; the skip is the other operand.
    ({"add": "skip", "carriers": (), "residual_bits": "float"}, {"act": 8}),
    ({"add": "both", "carriers": (), "residual_bits": "float"}, {"act": 8, "bn2": 8}),
    ({"add": "both", "carriers": (), "residual_bits": "same"}, {"act": 3, "act_2": 3, "bn2": 8}),
    ({"add": "none", "carriers": ("pool",), "residual_bits": "float"}, {"max_pool2d": 8}),
    (
        {"add": "none", "carriers": ("concat",), "residual_bits": "float"},
        {"act_2": 8, "relu": 8},
    ),
]


@pytest.mark.parametrize(("placement", "expected"), PLACEMENTS)
def test_carriers_follow_from_the_placement(net, placement, expected):
    assert carriers(net, **placement) == expected


def test_signed_storage_with_zero_point_0_leaves_one_bit_less_to_non_negative_tensors(net):
    spec = uniform(net.info, style(activations=SIGNED_ZERO), FORM, 8, 8)
    assert spec.activations == {"input": 8, "act": 7, "act_1": 7, "act_2": 7, "drop": 7}
    assert spec.carriers["act"] == 7
    assert spec.carriers["bn2"] == 8
    low = uniform(net.info, style(activations=SIGNED_ZERO), FORM, 2, 2)
    assert low.activations["act_1"] == 2


def test_average_bits_count_weights_and_elements_pinned_layers_included(net):
    spec = uniform(net.info, PAPER_STYLE, FORM, 4, 3)
    weights = {"stem": 216, "conv1": 576, "depthwise": 72, "conv2": 48, "head": 70}
    assert {layer.name: layer.weights for layer in net.info.layers} == weights
    total = 8 * (216 + 70) + 4 * (576 + 72 + 48)
    assert spec.avg_weight_bits == pytest.approx(total / sum(weights.values()))
    elements = {"input": 432, "act": 288, "act_1": 288, "act_2": 288, "drop": 14}
    total = 8 * (432 + 14) + 3 * 3 * 288
    assert spec.avg_activation_bits == pytest.approx(total / sum(elements.values()))


def test_a_layer_in_the_remainder_counts_32_bits_and_leaves_its_input_in_float(net):
    weights: dict[str, Any] = {layer.name: 8 for layer in net.info.layers}
    weights["depthwise"] = "remainder"
    bits = {tensor.name: 8 for tensor in net.info.read_tensors()}
    spec = build_spec(net.info, PAPER_STYLE, FORM, weights, bits)
    assert "act_1" not in spec.activations
    assert spec.avg_weight_bits == pytest.approx(8 + 24 * 72 / 982)
    assert spec.avg_activation_bits == pytest.approx(8 + 24 * 288 / 1310)


def test_sampling_depends_on_the_generator_alone_and_keeps_pins(net):
    def draw(seed):
        rng = random.Random(seed)
        return [random_subnet(net.info, PAPER_STYLE, FORM, rng) for _ in range(20)]

    first = draw(1)
    assert [s.sha256() for s in first] == [s.sha256() for s in draw(1)]
    assert [s.sha256() for s in first] != [s.sha256() for s in draw(2)]
    assert all(s.weights["stem"] == s.weights["head"] == s.activations["input"] == 8 for s in first)
    assert {s.weights["conv1"] for s in first} == {2, 3, 4, 5, 6, 7, 8}
    narrow = random_subnet(net.info, PAPER_STYLE, FORM, random.Random(0), (3, 5))
    assert {narrow.weights[name] for name in ("conv1", "depthwise", "conv2")} <= {3, 5}


def test_a_subnet_of_another_network_is_refused(net):
    other = supernet_of(randomize(SmallTail()), calibrated=False)
    spec = uniform(other.info, PAPER_STYLE, FORM, 4, 4)
    with pytest.raises(CheckpointError, match="of another network"):
        net.apply(spec)


class SmallTail(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.tail = nn.Linear(4, 2)

    def forward(self, x):
        return self.tail(self.stem(x).relu().mean((2, 3)))


@pytest.mark.parametrize("form", list(all_forms()), ids=Form.label)
def test_more_bits_are_closer_to_float(net, form):
    batch = images(6)
    net.apply_float()
    exact = net.graph(batch)
    errors = []
    for bits in (2, 4, 8):
        net.apply(uniform(net.info, style(), form, bits, bits))
        errors.append((net.graph(batch) - exact).square().mean().item())
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 0.02 * exact.square().mean().item()
    net.apply_float()


def test_statistics_do_not_depend_on_what_was_evaluated_before():
    net = small_supernet()
    low = uniform(net.info, style(), FORM, 2, 2)
    high = uniform(net.info, style(), FORM, 8, 8)
    calibration = list(images(32).split(8))

    def statistics(spec):
        net.apply(spec)
        net.recalibrate(calibration)
        return [(n.running_mean.clone(), n.running_var.clone()) for n in net.batch_norms()]

    first = statistics(high)
    other = statistics(low)
    again = statistics(high)
    for (mean, var), (mean2, var2) in zip(first, again, strict=True):
        assert torch.equal(mean, mean2)
        assert torch.equal(var, var2)
    assert not torch.equal(first[1][0], other[1][0])


def test_statistics_are_those_of_all_images_however_they_are_batched():
    """Also where images differ more than pixels do: small batches hide that variance."""
    net = supernet_of(randomize(SmallNet()), calibrated=False)
    brightness = torch.linspace(-2, 2, 24).view(-1, 1, 1, 1)
    batch = 0.1 * images(24) + brightness
    with torch.no_grad():
        stem = net.graph.get_submodule("stem")(batch)
    norm = net.graph.get_submodule("stem_bn")
    for size in (24, 7, 3):
        net.recalibrate(batch.split(size))
        torch.testing.assert_close(norm.running_mean, stem.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, stem.var((0, 2, 3)), rtol=2e-2, atol=1e-5)
    assert not norm.training
    assert norm.momentum == 0.1


class OneValue(nn.Module):
    """A batch norm that sees one value a channel of each image."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 6)
        self.bn, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.bn(self.fc(self.conv(x).mean((2, 3)))))


@pytest.mark.parametrize("sizes", [[6, 6, 1], [1, 6, 6], [1] * 13, [1, 5, 1, 6]])
def test_a_single_calibration_image_joins_its_neighbours(sizes):
    net = Supernet(randomize(OneValue()), SHAPE)
    batch = images(sum(sizes))
    seen = []
    net.graph.get_submodule("bn").register_forward_pre_hook(lambda m, x: seen.append(len(x[0])))
    net.recalibrate(batch.split(sizes))
    assert sum(seen) == sum(sizes)
    assert 2 <= min(seen) <= max(seen) <= 7
    with torch.no_grad():
        values = net.graph.get_submodule("fc")(net.graph.get_submodule("conv")(batch).mean((2, 3)))
    norm = net.graph.get_submodule("bn")
    torch.testing.assert_close(norm.running_mean, values.mean(0), rtol=1e-4, atol=1e-5)
    assert (norm.running_var > 0).all()
    assert not norm.training


def test_one_calibration_image_in_all_is_refused_where_it_has_no_variance():
    net = Supernet(randomize(OneValue()), SHAPE)
    with pytest.raises(DataError, match="one calibration image"):
        net.recalibrate(images(1).split(1))
    assert not net.graph.get_submodule("bn").training
    spatial = supernet_of(randomize(SmallNet()), calibrated=False)
    spatial.recalibrate(images(1).split(1))


def test_calibration_samples_are_copies_and_bounded(monkeypatch):
    kept = []

    def remember(quantizer, values, low, high, weights):
        kept.append(values)
        assert weights.shape == values.shape
        assert low <= values.min()
        assert high >= values.max()

    monkeypatch.setattr("eqnet.quant.quantizers.ActivationQuantizer.initialize", remember)
    net = supernet_of(randomize(SmallNet()), calibrated=False)
    calibrate(net, images(6).split(2))
    assert len(kept) == len(net.info.tensors)
    for values in kept:
        assert values.numel() <= 2 * MAX_SAMPLES
        assert values.untyped_storage().nbytes() == values.numel() * 4


def test_projection_keeps_gammas_non_negative():
    net = small_supernet(nn.ReLU6)
    with torch.no_grad():
        for norm in net.batch_norms():
            norm.weight[0] = -0.5
    net.project()
    assert all((norm.weight >= 0).all() for norm in net.batch_norms())
