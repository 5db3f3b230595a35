"""extract: a static network with the supernet's integers, batch norm absorbed, bias on the grid."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nets import SIGNED_ZERO, images, randomize, small_supernet, style, supernet_of
from torch import nn

from eqnet.quant.static import StaticConv2d, StaticLinear
from eqnet.spec.errors import CheckpointError
from eqnet.spec.scheme import Form, Granularity, Symmetry, all_forms
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import PAPER_STYLE, PlacementStyle, build_spec, uniform
from eqnet.supernet.extract import MAX_BIAS_STEPS, extract
from eqnet.supernet.supernet import Supernet

STATIC = (StaticConv2d, StaticLinear)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return small_supernet()


class NormTwice(nn.Module):
    """A batch norm with the name of an operation that the network calls before it."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x / (x.norm(dim=1, keepdim=True) + 0.5)
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def test_an_operation_that_has_a_batch_norms_name_stays():
    supernet = supernet_of(randomize(NormTwice()))
    spec = uniform(supernet.info, PAPER_STYLE, Form(), 8, 8)
    static = extract(supernet, spec)
    supernet.apply(spec)
    operations = [(node.op, node.target) for node in static.graph.nodes]
    assert ("call_method", "norm") in operations
    assert ("call_module", "norm") not in operations
    with torch.no_grad():
        expected, found = supernet.graph(images()), static(images())
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def static_layers(graph):
    return {name: module for name, module in graph.named_modules() if isinstance(module, STATIC)}


def quantized(graph, batch):
    """Tensor name -> (carrier, narrow) of every quantizer, and the logits."""
    found, hooks = {}, []
    for name, module in graph.get_submodule("quantizers").named_children():
        hooks.append(module.register_forward_hook(lambda m, i, out, n=name: found.update({n: out})))
    with torch.no_grad():
        logits = graph(batch)
    for hook in hooks:
        hook.remove()
    return found, logits


def assert_same_but_for_ties(net: Supernet, spec: SubnetSpec, count: int = 64) -> None:
    """All integers and logits of the supernet and of the extracted net.

    They differ only in the order of float sums and in the bias, which extract puts on the grid
    s_x * s_w (half a step at most); so only values close to a rounding tie may come out as
    another integer: at most 1% of a tensor in this net, where five layers follow each other.
    """
    static = extract(net, spec)
    net.apply(spec)
    batch = images(count)
    ours, logits = quantized(static, batch)
    theirs, expected = quantized(net.graph, batch)
    assert set(ours) == set(theirs)
    for name, bits in {**spec.carriers, **spec.activations}.items():
        scale = net.activation(name).parameters_of(bits)[0]
        role = 1 if name in spec.activations else 0
        steps = (ours[name][role] - theirs[name][role]).abs() / scale
        assert (steps < 1e-3).float().mean() >= 0.985, name
    assert torch.equal(ours["input"][1], theirs["input"][1])
    spread = (expected.max() - expected.min()).item()
    assert (logits - expected).abs().mean() <= 1e-3 * spread


@pytest.mark.parametrize("form", list(all_forms()), ids=Form.label)
def test_integers_equal_the_supernets_bit_for_bit(net, form):
    spec = uniform(net.info, style(), form, 4, 4)
    layers = static_layers(extract(net, spec))
    assert set(layers) == set(spec.weights)
    for name, layer in layers.items():
        elastic = net.layer(name)
        integers, _, zero = elastic.weight_quantizer.integers(elastic.weight)
        shift = 8 - spec.weights[name]
        assert torch.equal(layer.weight.integers.int() >> shift, integers)
        assert torch.equal(layer.weight.zero_point.int() >> shift, zero)
        assert not (layer.weight.integers.int() & ((1 << shift) - 1)).any()


@pytest.mark.parametrize("form", list(all_forms()), ids=Form.label)
@pytest.mark.parametrize("bits", [3, 8])
def test_logits_equal_the_supernets_but_for_ties(net, form, bits):
    assert_same_but_for_ties(net, uniform(net.info, style(), form, bits, 8))


@pytest.mark.parametrize(
    "chosen",
    [PAPER_STYLE, style(residual_bits="same"), style(add="skip"), style(activations=SIGNED_ZERO)],
    ids=["paper", "same", "skip", "signed"],
)
def test_logits_equal_the_supernets_in_every_placement(net, chosen: PlacementStyle):
    assert_same_but_for_ties(net, uniform(net.info, chosen, Form(), 8, 8))


def test_batch_norm_is_absorbed_exactly():
    """Against float64 arithmetic on the integers: conv, then batch norm, without rounding."""
    net = small_supernet()
    spec = uniform(net.info, PAPER_STYLE, Form(), 4, 8)
    static = extract(net, spec).get_submodule("conv1")
    elastic, norm = net.layer("conv1"), net.graph.get_submodule("bn1")
    integers, scale, _ = elastic.weight_quantizer.integers(elastic.weight)
    x = images(2, (8, 6, 6)).double()
    weight = integers.double() * scale.double().view(-1, 1, 1, 1)
    expected = copy.deepcopy(norm).double().eval()(nn.functional.conv2d(x, weight, padding=1))
    found = copy.deepcopy(static).double()
    real = static.weight().double()
    step = static_step(net, "act", spec) * static.weight.scale.double()
    difference = nn.functional.conv2d(x, real, padding=1) + found.bias.view(-1, 1, 1) - expected
    # All that is left is the bias, brought to the nearest of its steps.
    assert (difference.abs().amax((0, 2, 3)) <= 0.5 * step + 1e-6).all()


def static_step(net, tensor, spec):
    return net.activation(tensor).parameters_of(spec.activations[tensor])[0].detach().double()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bias_lies_on_the_grid_of_an_int32_accumulator(net, bits):
    spec = uniform(net.info, style(), Form(weight_symmetry=Symmetry.ASYMMETRIC), bits, bits)
    graph = extract(net, spec)
    for name, layer in static_layers(graph).items():
        quantizer = graph.get_submodule(f"quantizers.{net.info.layer(name).input}")
        step = quantizer.read_point().scale * layer.weight.scale
        steps = layer.bias.double() / step.double()
        assert (steps.abs() <= MAX_BIAS_STEPS).all()
        torch.testing.assert_close(steps, steps.round(), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 1e-9])
@pytest.mark.parametrize("granularity", Granularity)
def test_a_channel_without_gamma_is_dead_and_keeps_its_bias(gamma, granularity):
    net = small_supernet()
    with torch.no_grad():
        net.graph.get_submodule("bn1").weight[2] = gamma
        net.graph.get_submodule("bn1").bias[2] = 0.7
        net.graph.get_submodule("bn1").weight[5] = gamma
        net.graph.get_submodule("bn1").bias[5] = 0.0
        net.graph.get_submodule("bn1").running_mean[5] = 0.0
    form = Form(weight_granularity=granularity, weight_symmetry=Symmetry.ASYMMETRIC)
    spec = uniform(net.info, style(), form, 4, 8)
    layer = static_layers(extract(net, spec))["conv1"]
    assert (layer.weight()[2] == 0).all()
    assert layer.bias[2].item() == pytest.approx(0.7, rel=1e-5)
    assert layer.bias[5].item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(layer.weight.scale).all()
    assert (layer.weight.scale > 0).all()
    if gamma == 0:
        assert (layer.weight()[5] == 0).all()
    assert_same_but_for_ties(net, spec)


def test_layers_in_the_remainder_are_float_with_batch_norm_folded(net):
    weights: dict[str, Any] = {layer.name: 8 for layer in net.info.layers}
    weights["conv1"] = "remainder"
    bits = {tensor.name: 8 for tensor in net.info.read_tensors()}
    spec = build_spec(net.info, PAPER_STYLE, Form(), weights, bits)
    graph = extract(net, spec)
    layer = graph.get_submodule("conv1")
    assert type(layer) is nn.Conv2d
    assert layer.bias is not None
    assert_same_but_for_ties(net, spec)


def test_all_layers_in_the_remainder_are_the_float_network(net):
    weights: dict[str, Any] = {layer.name: "remainder" for layer in net.info.layers}
    spec = build_spec(net.info, PAPER_STYLE, Form(), weights, {})
    batch = images()
    net.apply_float()
    torch.testing.assert_close(extract(net, spec)(batch), net.graph(batch), rtol=1e-4, atol=1e-5)


def test_integer_weights_on_a_float_input_are_refused(net):
    spec = uniform(net.info, PAPER_STYLE, Form(), 4, 4)
    kept = {name: bits for name, bits in spec.activations.items() if name != "act_1"}
    with pytest.raises(CheckpointError, match=r"4-bit weights in 'depthwise' .* 'act_1' in float"):
        extract(net, spec.model_copy(update={"activations": kept}))


def test_extracting_changes_nothing_in_the_supernet(net):
    spec = uniform(net.info, style(), Form(), 3, 3)
    before = {name: value.clone() for name, value in net.graph.state_dict().items()}
    static = extract(net, spec)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in static.modules())
    after = net.graph.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
