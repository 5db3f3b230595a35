"""A post-training network keeps its statistics; what quantization shifts is corrected."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import Form, Scales
from eqnet.subnets.build import PlacementStyle, uniform
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.measure import Batches
from eqnet.supernet.settling.correction import correct, float_moments, moments_of
from eqnet.supernet.settling.image_weights import image_weights
from eqnet.supernet.settling.settle import Calibration
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 16, 16)


class Mixed(nn.Module):
    """Layers with and without batch norm, a depthwise and a transposed one, and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.token = nn.Linear(6, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.up(torch.relu(self.depthwise(x))))
        x = torch.relu(self.token(x.flatten(2).transpose(1, 2)))
        return self.head(x.mean(1))


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(count, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(smooth, size=SHAPE[1:], mode="bicubic") - 0.3


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    model = Mixed()
    # Statistics of data that nobody has here.
    model.norm.running_mean.uniform_(-0.3, 0.3)
    model.norm.running_var.uniform_(0.05, 0.2)
    net = Supernet(model, SHAPE)
    calibrate(net, [images(16, 1), images(16, 2)])
    return net


def subnet(net, bits, **changes):
    spec = uniform(net.info, PlacementStyle.of(load_profile("onnxruntime_x86")), Form(), bits, 8)
    return spec.model_copy(update=changes)


def calibration(count=32):
    pixels = images(count, 3)
    return Calibration(Batches(pixels, torch.zeros(count, dtype=torch.int64), 16), "post_training")


def outputs(net, x, weights=None):
    """The moments of every layer's output, and the weights of the images that they are of."""
    moments, used = {}, {}

    def watch(name, axis):
        def hook(module, inputs, output):
            used[name] = image_weights(output) if weights is None else weights[name]
            moments[name] = moments_of(output, axis, used[name])

        return hook

    handles = []
    for layer in net.info.layers:
        module = net.layer(layer.name)
        axis = -1 if isinstance(module, nn.Linear) else 1
        handles.append(module.register_forward_hook(watch(layer.name, axis)))
    with torch.no_grad():
        net.graph(x)
    for handle in handles:
        handle.remove()
    return moments, used


@torch.no_grad()
def test_batch_norm_keeps_its_statistics(supernet):
    before = copy.deepcopy(dict(supernet.graph.named_buffers()))
    calibration().settle(supernet, subnet(supernet, 4))
    for name, value in before.items():
        if "running" in name:
            assert torch.equal(value, supernet.graph.get_buffer(name))


@torch.no_grad()
def test_every_layer_gets_the_float_networks_means_and_variances(supernet):
    chosen = Calibration(Batches(images(32, 3), torch.zeros(32), 32), "post_training")
    spec = subnet(supernet, 4)
    supernet.apply_float()
    target, weights = outputs(supernet, images(32, 3))
    supernet.apply(spec)
    before, _ = outputs(supernet, images(32, 3), weights)
    chosen.settle(supernet, spec)
    after, _ = outputs(supernet, images(32, 3), weights)
    worst = 0.0
    for name, wanted in target.items():
        alive = wanted.variance > 1e-6
        size = wanted.variance[alive].sqrt()
        # Quantizers behind a corrected layer see what they saw in the pass but for rounding.
        assert float(((after[name].mean - wanted.mean).abs()[alive] / size).max()) < 0.02
        assert float((after[name].variance / wanted.variance - 1).abs()[alive].max()) < 0.05
        shift = (before[name].mean - wanted.mean).abs()[alive] / size
        worst = max(worst, float(shift.max()))
    assert worst > 0.1  # without the correction they were off


@torch.no_grad()
def test_logits_come_nearer_to_the_float_networks_on_other_images(supernet):
    x = images(64, 9)
    supernet.apply_float()
    wanted = supernet.graph(x)
    spec = subnet(supernet, 3)
    supernet.apply(spec)
    plain = (supernet.graph(x) - wanted).square().mean()
    calibration().settle(supernet, spec)
    assert float((supernet.graph(x) - wanted).square().mean()) < 0.5 * float(plain)


@torch.no_grad()
def test_the_static_network_computes_as_the_corrected_subnet(supernet):
    spec = subnet(supernet, 8)
    calibration().settle(supernet, spec)
    x = images(8, 5)
    elastic = supernet.graph(x)
    static = extract(supernet, spec)(x)
    # The bias is on the integer grid in one and not in the other.
    assert float((static - elastic).abs().max()) < 0.02 * float(elastic.abs().max())


@torch.no_grad()
def test_the_order_of_subnets_changes_nothing_and_float_has_no_correction(supernet):
    x, chosen = images(4, 6), calibration()
    supernet.apply_float()
    plain = supernet.graph(x)
    chosen.settle(supernet, subnet(supernet, 4))
    first = supernet.graph(x)
    chosen.settle(supernet, subnet(supernet, 2))
    chosen.settle(supernet, subnet(supernet, 4))
    assert torch.equal(supernet.graph(x), first)
    supernet.apply_float()
    assert torch.equal(supernet.graph(x), plain)


@torch.no_grad()
def test_batches_of_any_size_give_nearly_the_same(supernet):
    x, spec = images(16, 7), subnet(supernet, 6)
    pixels = images(48, 3)
    results = []
    for size in (48, 16, 5, 1):
        Calibration(Batches(pixels, torch.zeros(48), size), "post_training").settle(supernet, spec)
        results.append(supernet.graph(x))
    largest = float(results[0].abs().max())
    for other in results[1:]:
        assert float((other - results[0]).abs().max()) < 0.1 * largest


@torch.no_grad()
def test_scales_that_are_powers_of_two_stay_so(supernet):
    spec = subnet(supernet, 4, weight_scales=Scales.POWER_OF_TWO)
    calibration().settle(supernet, spec)
    for layer in supernet.info.layers:
        assert bool((supernet.layer(layer.name).affine()[0] == 1).all())
    static = extract(supernet, spec)
    for module in static.modules():
        scale: Any = getattr(module, "scale", None)
        if getattr(module, "integers", None) is not None:
            assert bool((torch.frexp(scale)[0] == 0.5).all())


@torch.no_grad()
def test_a_dead_channel_and_one_image_are_no_failure():
    torch.manual_seed(1)
    model = Mixed()
    model.stem.weight[0] = 0
    model.token.weight[3] = 0
    net = Supernet(model, SHAPE)
    x = images(1, 1)
    calibrate(net, [x])
    correct_targets = float_moments(net, [x])
    net.apply(subnet(net, 2))
    correct(net, [x], correct_targets)
    assert bool(torch.isfinite(net.graph(images(3, 2))).all())


def test_moments_weigh_images_and_are_those_of_all_values_otherwise():
    x = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    plain = moments_of(x, 1, torch.ones(6))
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    assert torch.allclose(plain.mean, mean)
    assert torch.allclose(plain.variance, variance)
    twice = moments_of(x, 1, torch.tensor([2.0, 1, 1, 1, 1, 1]))
    repeated = moments_of(torch.cat([x[:1], x]), 1, torch.ones(7))
    assert torch.allclose(twice.mean, repeated.mean)
    assert torch.allclose(twice.variance, repeated.variance)
    assert torch.equal(image_weights(torch.zeros(3, 4)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(), (5,), (5, 4), (5, 4, 3, 3)])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_images_of_any_rank_and_size_have_finite_weights(shape, size):
    weights = image_weights(size * torch.ones(shape))
    assert weights.shape == shape[:1] or (shape == () and weights.shape == (1,))
    assert bool(torch.isfinite(weights.float()).all())
    assert bool((weights.float() > 0).all())


@pytest.mark.parametrize("factor", [30, 100])
@torch.no_grad()
def test_an_image_far_from_all_others_does_not_decide(factor):
    """Of its size alone, scales and corrections made the noise of the others 40 to 60 times."""
    ordinary, x = images(60, 3), images(64, 9)

    def noise(pixels):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten()]
        net = Supernet(nn.Sequential(*layers, nn.Linear(72, 5)), SHAPE)
        calibrate(net, [pixels])
        wanted = net.float_logits(x)
        chosen = Calibration(Batches(pixels, torch.zeros(len(pixels)), 64), "post_training")
        style = PlacementStyle.of(load_profile("onnxruntime_x86"))
        chosen.settle(net, uniform(net.info, style, Form(), 4, 4))
        return float((net.graph(x) - wanted).square().mean() / wanted.var(0).mean())

    assert noise(torch.cat([ordinary, factor * images(1, 8)])) < 20 * noise(ordinary)


def test_elastic_supernets_collect_statistics_as_before(supernet):
    net = copy.deepcopy(supernet)
    chosen = Calibration(Batches(images(16, 3), torch.zeros(16), 16), "elastic")
    chosen.settle(net, subnet(net, 8))
    assert not torch.equal(
        net.graph.get_buffer("norm.running_mean"), supernet.graph.get_buffer("norm.running_mean")
    )
