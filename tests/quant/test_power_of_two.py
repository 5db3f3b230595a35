"""Scales that are powers of two: in PyTorch, in what is extracted, and in every exported graph."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from artifacts import profile
from hypothesis import given
from hypothesis import strategies as st
from nets import images, small_supernet, style
from torch import nn

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import constant
from eqnet.qdq.to_onnx import to_onnx
from eqnet.quant.functional import nearest_even, power_of_two
from eqnet.quant.quantizers import MAX_SHRINK
from eqnet.quant.static import QuantizationPoint, StaticConv2d, StaticLinear
from eqnet.spec.scheme import Form, Granularity, Scales, Symmetry, all_forms
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import build_spec, uniform
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet, factor_of

POWERS = {"weight_scales": Scales.POWER_OF_TWO, "activation_scales": Scales.POWER_OF_TWO}
POSITIVE = st.floats(2.0**-100, 2.0**100, width=32)


def is_power_of_two(values: object) -> bool:
    mantissa, _ = np.frexp(np.asarray(values))
    return bool((mantissa == 0.5).all())


def calibration() -> list[torch.Tensor]:
    return [images(16, seed=seed) for seed in (21, 22)]


@pytest.fixture
def net() -> Supernet:
    return small_supernet()


def settled(net: Supernet, form: Form, bits: int, **changes: object) -> SubnetSpec:
    """A subnet with powers of two, in force, its batch norm recalibrated."""
    spec = uniform(net.info, style(), form, bits, bits).model_copy(update={**POWERS, **changes})
    net.apply(spec)
    net.recalibrate(calibration())
    return spec


def layers_of(graph: nn.Module) -> dict[str, StaticConv2d | StaticLinear]:
    return {
        name: module
        for name, module in graph.named_modules()
        if isinstance(module, (StaticConv2d, StaticLinear))
    }


@given(POSITIVE)
def test_power_of_two_is_the_nearest_by_ratio(value):
    x = torch.tensor([value], dtype=torch.float32)
    found = power_of_two(x)
    assert found.dtype == torch.float32
    assert is_power_of_two(found)
    assert 1 / math.sqrt(2) * (1 - 1e-6) <= float(found.double() / x.double()) < 1.4142136


@given(POSITIVE, st.floats(1.0, 2.0))
def test_power_of_two_shrinks_no_more_than_it_may(value, shrink):
    x = torch.tensor([value], dtype=torch.float64)
    ratio = float(power_of_two(x, shrink) / x)
    assert 1 / shrink * (1 - 1e-12) <= ratio <= 2 / shrink * (1 + 1e-12)


@given(
    st.floats(-200.0, 300.0, width=32), st.sampled_from([(-2, 1), (0, 3), (-128, 127), (0, 255)])
)
def test_nearest_even_is_even_inside_and_nearest(value, span):
    lo, hi = span
    found = float(nearest_even(torch.tensor(value), lo, hi))
    allowed = [z for z in range(lo, hi + 1) if z % 2 == 0]
    assert found in allowed
    assert abs(found - value) == min(abs(z - value) for z in allowed)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_zero_points_are_even_and_only_with_powers_of_two(net, bits):
    """Runtimes that add the zero-point before they round then round halves as all others do."""
    with torch.no_grad():
        for name, values in net.graph.named_parameters():
            if ".zero_point.asymmetric" in name and "quantizers" in name:
                values.fill_(1.0)
    spec = settled(net, Form(), bits)
    shifted = zero_points(extract(net, spec))
    assert len(shifted) > 2
    assert all(zero % 2 == 0 for zero in shifted)
    free = spec.model_copy(update={"activation_scales": Scales.FREE})
    assert any(zero % 2 for zero in zero_points(extract(net, free)))


def zero_points(graph: nn.Module) -> list[int]:
    """Of every activation quantizer of an extracted network."""
    points = [one for one in graph.modules() if isinstance(one, QuantizationPoint)]
    return [int(point.zero_point) for point in points]


def test_powers_of_two_stay_themselves():
    powers = 2.0 ** torch.arange(-40, 41, dtype=torch.float64)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(power_of_two(powers.to(kind)), powers.to(kind))


@pytest.mark.parametrize("form", list(all_forms()), ids=Form.label)
@pytest.mark.parametrize("bits", [2, 8])
def test_every_scale_that_is_extracted_is_a_power_of_two(net, form, bits):
    graph = extract(net, settled(net, form, bits))
    layers = layers_of(graph)
    assert set(layers) == {layer.name for layer in net.info.layers}
    for name, layer in layers.items():
        assert is_power_of_two(layer.weight.scale), name
        point = graph.get_submodule(f"quantizers.{net.info.layer(name).input}").read_point()
        assert is_power_of_two(point.scale), name
        steps = layer.bias / (point.scale * layer.weight.scale)
        assert torch.equal(steps, steps.round()), name
    assert len({float(scale) for scale in layers["conv1"].weight.scale}) > 1


@pytest.mark.parametrize("form", list(all_forms()), ids=Form.label)
@pytest.mark.parametrize("bits", [3, 8])
def test_the_supernet_computes_what_is_extracted(net, form, bits):
    """Weights bit for bit, their real values after batch norm but for float32 rounding, and
    logits but for rounding ties and the bias's grid, as with learned scales."""
    spec = settled(net, form, bits)
    static, batch = extract(net, spec), images(64)
    for name, layer in layers_of(static).items():
        elastic = net.layer(name)
        integers = elastic.weight_quantizer.integers(elastic.weight)[0]
        shift = 8 - int(spec.weights[name])
        assert torch.equal(layer.weight.integers.int() >> shift, integers), name
        norm = net.info.layer(name).batch_norm
        with torch.no_grad():
            real = elastic.weight_quantizer(elastic.weight)
            if norm is not None:
                shape = (-1,) + (1,) * (real.dim() - 1)
                real = real * factor_of(net.graph.get_submodule(norm), norm).view(shape)
        torch.testing.assert_close(layer.weight().double(), real.double(), rtol=1e-6, atol=0)
    with torch.no_grad():
        ours, theirs = static(batch), net.graph(batch)
    assert (ours - theirs).abs().mean() <= 4e-3 * (theirs.max() - theirs.min())


def test_only_what_is_asked_for_is_a_power_of_two(net):
    weights = settled(net, Form(), 4, activation_scales=Scales.FREE)
    graph = extract(net, weights)
    assert is_power_of_two(layers_of(graph)["conv1"].weight.scale)
    assert not is_power_of_two(graph.get_submodule("quantizers.act").read_point().scale)
    tensors = settled(net, Form(), 4, weight_scales=Scales.FREE)
    graph = extract(net, tensors)
    assert not is_power_of_two(layers_of(graph)["conv1"].weight.scale)
    assert is_power_of_two(graph.get_submodule("quantizers.act").read_point().scale)


def test_scales_stay_near_the_learned_ones(net):
    settled(net, Form(), 4)
    for layer in net.info.layers:
        weight = net.layer(layer.name).weight_quantizer
        snapped, weight.snapped = weight.snapped, None
        ratio = snapped / weight.parameters_of(weight.bits)[0]
        assert (ratio >= 1 / MAX_SHRINK - 1e-6).all()
        assert (ratio <= 2 / MAX_SHRINK + 1e-6).all()


def test_variances_are_those_of_the_learned_scales_and_means_those_of_the_powers(net):
    free = uniform(net.info, style(), Form(), 4, 4)
    plain = free.model_copy(update={"activation_scales": Scales.POWER_OF_TWO})
    net.apply(plain)
    net.recalibrate(calibration())
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in net.batch_norms()]
    settled(net, Form(), 4)
    after = list(net.batch_norms())
    assert all(
        torch.equal(norm.running_var, var) for norm, (_, var) in zip(after, before, strict=True)
    )
    assert any(
        not torch.allclose(norm.running_mean, mean)
        for norm, (mean, _) in zip(after, before, strict=True)
    )
    sums: dict[str, torch.Tensor] = {}
    name = next(layer.batch_norm for layer in net.info.layers if layer.name == "stem")
    norm = net.graph.get_submodule(name)
    hook = norm.register_forward_pre_hook(
        lambda module, inputs: sums.__setitem__("x", inputs[0].mean((0, 2, 3)))
    )
    with torch.no_grad():
        net.graph(torch.cat(calibration()))
    hook.remove()
    torch.testing.assert_close(norm.running_mean, sums["x"], rtol=1e-4, atol=1e-5)


def test_recalibration_does_not_depend_on_what_was_evaluated_before(net):
    spec = settled(net, Form(), 3)
    first = [norm.running_mean.clone() for norm in net.batch_norms()]
    with torch.no_grad():
        for norm in net.batch_norms():
            norm.running_var.fill_(17.0)
            norm.running_mean.fill_(-3.0)
    net.apply(spec)
    net.recalibrate(calibration())
    for norm, mean in zip(net.batch_norms(), first, strict=True):
        assert torch.equal(norm.running_mean, mean)


def test_another_subnet_has_its_learned_scales_again(net):
    free = uniform(net.info, style(), Form(), 4, 4)
    net.apply(free)
    batch = images()
    net.recalibrate(calibration())
    with torch.no_grad():
        expected = net.graph(batch)
        settled(net, Form(), 4)
        net.apply(free)
        net.recalibrate(calibration())
        assert torch.equal(net.graph(batch), expected)


@pytest.mark.parametrize("granularity", Granularity)
def test_dead_channels_have_powers_of_two_too(net, granularity):
    with torch.no_grad():
        norm = net.graph.get_submodule("bn1")
        norm.weight[2], norm.bias[2] = 0.0, 0.7
        norm.weight[5] = 1e-9
    form = Form(weight_granularity=granularity, weight_symmetry=Symmetry.ASYMMETRIC)
    layer = layers_of(extract(net, settled(net, form, 4)))["conv1"]
    assert is_power_of_two(layer.weight.scale)
    assert (layer.weight()[2] == 0).all()
    assert layer.bias[2].item() == pytest.approx(0.7, rel=1e-5)


def test_relu6_keeps_its_bound(net):
    bounded = small_supernet(nn.ReLU6)
    with torch.no_grad():
        bounded.activation("act").log_scale["unsigned_8"].fill_(math.log(6 / 255))
    spec = settled(bounded, Form(activation_symmetry=Symmetry.SYMMETRIC), 8)
    graph = extract(bounded, spec)
    batch = 20 * images(16)
    with torch.no_grad():
        ours, theirs = graph(batch), bounded.graph(batch)
        read = graph.get_submodule("quantizers.act").read_point()
        assert is_power_of_two(read.scale)
        assert read(torch.tensor([6.0])).item() == pytest.approx(6.0, abs=float(read.scale) / 2)
    assert (ours - theirs).abs().mean() <= 1e-3 * (theirs.max() - theirs.min())


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("lowbit", {}),
        ("onnxruntime", {}),
        ("openvino", {"placement": {"add": "skip", "carriers": ["pool"]}}),
    ],
)
def test_every_scale_of_an_exported_graph_is_a_power_of_two(net, backend, changes):
    rules = {
        "weights": {
            "granularity": "per_channel",
            "symmetry": "symmetric",
            "scales": "power_of_two",
        },
        "activations": {"symmetry": "symmetric", "scales": "power_of_two"},
        **changes,
    }
    target = profile(backend, **rules)
    weights = {layer.name: 8 for layer in net.info.layers}
    bits = {tensor.name: 8 for tensor in net.info.read_tensors()}
    spec = build_spec(net.info, style(), target.form(), weights, bits, profile=target)
    assert (spec.weight_scales, spec.activation_scales) == (Scales.POWER_OF_TWO,) * 2
    net.apply(spec)
    net.recalibrate(calibration())
    reference = to_onnx(extract(net, spec), net.info.input_shape)
    for model in (reference, find_exporter(backend).lower(reference, target)):
        scales = scales_of(model)
        assert len(scales) > 2 * len(weights)
        assert all(is_power_of_two(scale) for scale in scales)


def scales_of(model: ir.Model) -> list[np.ndarray]:
    """The scales of every quantizer, weight and integer bias."""
    nodes = [node for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return [np.asarray(constant(node.inputs[1])) for node in nodes]
