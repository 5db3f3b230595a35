"""Elastic reconstruction: every form's integers fitted to the layers' outputs, kept in the file."""

import copy

import pytest
import torch
from torch import nn

from eqnet.ptq.moments import can_be_reconstructed, columns, input_moments
from eqnet.ptq.reconstruct import FORMS, reconstruct
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import Form, Granularity, Symmetry
from eqnet.subnets.build import PlacementStyle, uniform
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 16, 16)
WEIGHTS = [(granularity, symmetry) for granularity in Granularity for symmetry in Symmetry]


class Blocks(nn.Module):
    """Plain, strided, grouped, depthwise, dilated and transposed convolutions, and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.point = nn.Conv2d(6, 10, 1, stride=2)
        self.token, self.head = nn.Linear(10, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.depthwise(torch.relu(self.grouped(torch.relu(self.stem(x))))))
        x = torch.relu(self.point(torch.relu(self.up(x))))
        return self.head(torch.relu(self.token(x.flatten(2).transpose(1, 2))).mean(1))


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(count, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(smooth, size=SHAPE[1:], mode="bicubic") - 0.3


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    net = Supernet(Blocks(), SHAPE)
    calibrate(net, [images(16, 1), images(16, 2)])
    return net


@pytest.fixture(scope="module")
def fitted(plain):
    net = copy.deepcopy(plain)
    reconstruct(net, [images(16, 1), images(16, 2)])
    return net


def layer_errors(net, form, bits, x):
    """Mean squared error of each layer's output on float inputs, without the mean's part."""
    net.apply_float()
    inputs, errors = {}, {}
    handles = [
        net.layer(layer.name).register_forward_hook(
            lambda module, args, output, name=layer.name: inputs.update({name: args[0]})
        )
        for layer in net.info.layers
    ]
    net.graph(x)
    for handle in handles:
        handle.remove()
    for layer in net.info.layers:
        module = net.layer(layer.name)
        wanted = module(inputs[layer.name])
        quantizer = module.weight_quantizer
        quantizer.bits, (quantizer.granularity, quantizer.symmetry) = bits, form
        error = module(inputs[layer.name]) - wanted
        quantizer.bits = None
        axes = [0, 2, 3] if error.dim() == 4 else list(range(error.dim() - 1))
        errors[layer.name] = float((error - error.mean(axes, keepdim=True)).square().sum())
    return errors


@torch.no_grad()
@pytest.mark.parametrize("form", WEIGHTS, ids=lambda form: f"{form[0]}-{form[1]}")
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layer_outputs_are_nearer_to_the_float_networks_on_other_images(plain, fitted, form, bits):
    x = images(32, 9)
    before, after = layer_errors(plain, form, bits, x), layer_errors(fitted, form, bits, x)
    fitted_layers = [name for name in after if can_be_reconstructed(fitted.layer(name))]
    assert sum(after[name] for name in fitted_layers) < 0.8 * sum(
        before[name] for name in fitted_layers
    )
    assert after["up"] == before["up"]  # transposed: the nearest integers


@torch.no_grad()
def test_the_float_network_stays_as_it_is(plain, fitted):
    x = images(4, 5)
    plain.apply_float()
    fitted.apply_float()
    assert torch.equal(plain.graph(x), fitted.graph(x))


@torch.no_grad()
@pytest.mark.parametrize("bits", [3, 8])
def test_the_static_network_has_the_fitted_integers(fitted, bits):
    style = PlacementStyle.of(load_profile("onnxruntime_x86"))
    spec = uniform(fitted.info, style, Form(weight_symmetry=Symmetry.ASYMMETRIC), bits, 8)
    static = extract(fitted, spec)
    x = images(8, 6)
    elastic = fitted.graph(x)
    assert float((static(x) - elastic).abs().max()) < 0.02 * float(elastic.abs().max())


@torch.no_grad()
def test_equal_images_give_equal_integers(plain, fitted):
    again = copy.deepcopy(plain)
    reconstruct(again, [images(16, 1), images(16, 2)])
    first, second = fitted.graph.state_dict(), again.graph.state_dict()
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(".rounding." in name for name in first)


@torch.no_grad()
def test_columns_are_what_the_layer_multiplies(plain):
    net, x = plain, images(2, 3)
    net.apply_float()
    inputs = {}
    for layer in net.info.layers:
        module = net.layer(layer.name)
        handle = module.register_forward_hook(
            lambda one, args, output, name=layer.name: inputs.update({name: (args[0], output)})
        )
        net.graph(x)
        handle.remove()
    for name, (source, output) in inputs.items():
        module = net.layer(name)
        if not can_be_reconstructed(module):
            continue
        groups = getattr(module, "groups", 1)
        weight = module.weight.reshape(groups, -1, module.weight[0].numel())
        rows = columns(module, source) @ weight.transpose(1, 2)  # [G, n, R]
        products = rows.permute(0, 2, 1).reshape(-1, rows.shape[1])
        products = products + module.bias[:, None]
        values = output.transpose(0, 1) if output.dim() == 4 else output
        whole = (
            values.reshape(len(products), -1)
            if output.dim() == 4
            else values.reshape(-1, output.shape[-1]).T
        )
        # Small maps are taken whole.
        assert torch.allclose(products, whole, atol=1e-5)


def test_moments_of_a_linear_layer_are_those_of_its_inputs(plain):
    moments = input_moments(plain, [images(16, 1)])
    assert set(moments) == {"stem", "grouped", "depthwise", "point", "token", "head"}
    assert moments["depthwise"].moments.shape == (8, 9, 9)
    assert moments["grouped"].moments.shape == (2, 36, 36)
    for each in moments.values():
        assert bool((torch.linalg.eigvalsh(each.moments.double()) > -1e-6).all())


def test_all_forms_of_the_elastic_space_are_fitted(fitted):
    stored = set(fitted.layer("stem").weight_quantizer.rounding._buffers)
    assert stored == {form.key for form in FORMS}
    assert len(stored) == 28
