"""Outlying channels are rescaled exactly where that is possible, and nothing else changes."""

import copy
from functools import cache

import pytest
import torch
from equalize_tools import float_and_quantized, signal_to_noise
from nets import SHAPE, images, randomize
from torch import nn
from torch.nn import functional

from eqnet.ptq.equalize import equalize
from eqnet.spec.scheme import Granularity
from eqnet.supernet.supernet import Supernet

FACTORS = (30.0, 300.0, 3000.0)


class Between(nn.Module):
    """`a`, what is to be rescaled; what stands behind it; and its readers, by kind."""

    def __init__(self, kind, norm):
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a = nn.Conv2d(16, 16, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        grouped = {"depthwise": 16, "groups": 4}
        self.b: nn.Module = nn.Conv2d(16, 16, 3, padding=1, groups=grouped.get(kind, 1))
        if kind == "transposed":
            self.b = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.c = nn.Conv2d(16, 16, 1)
        self.prelu = nn.PReLU(16)
        self.flat = nn.Linear(16 * 36, 16)
        self.narrow = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.norm(self.a(x))
        if self.kind in ("flatten", "mean"):
            y = torch.relu(y)
            if self.kind == "mean":
                y = self.narrow(y.mean((2, 3)))
            else:
                y = self.flat(functional.max_pool2d(y, 2).view(y.size(0), -1))
            return self.head(torch.relu(y))
        if self.kind == "relu6":
            y = functional.relu6(y)
        elif self.kind == "sigmoid":
            y = torch.sigmoid(y)
        elif self.kind == "prelu":
            y = self.prelu(y)
        elif self.kind != "nothing":
            y = torch.relu(y)
        if self.kind == "pools":
            y = functional.avg_pool2d(functional.max_pool2d(y, 2), 2)
        z = self.b(y)
        if self.kind == "two":
            z = z + self.c(y)
        if self.kind == "residual":
            z = z + y
        return self.head(torch.relu(z).mean((2, 3)))

    def readers(self):
        layers = {"flatten": [self.flat], "mean": [self.narrow], "two": [self.b, self.c]}
        return layers.get(self.kind, [self.b])


EXACT = (
    "relu",
    "nothing",
    "prelu",
    "pools",
    "flatten",
    "mean",
    "depthwise",
    "groups",
    "transposed",
    "two",
)
TIED = ("residual", "relu6", "sigmoid")


@torch.no_grad()
def scale_channel(net, channel, factor):
    """Multiply a channel of `a`, and divide what reads it."""
    made = net.norm if isinstance(net.norm, nn.BatchNorm2d) else net.a
    made.weight[channel] *= factor
    made.bias[channel] *= factor
    for layer in net.readers():
        if isinstance(layer, nn.Linear):
            layer.weight.view(len(layer.weight), 16, -1)[:, channel] /= factor
        elif isinstance(layer, nn.ConvTranspose2d):
            layer.weight[channel] /= factor
        elif layer.groups > 1:
            per_group = 16 // layer.groups
            rows = layer.weight.view(layer.groups, per_group, per_group, 3, 3)
            rows[channel // per_group, :, channel % per_group] /= factor
        else:
            layer.weight[:, channel] /= factor


def network(kind, norm, channels=(), factor=1.0):
    torch.manual_seed(0)
    net = Between(kind, norm)
    randomize(net, seed=3)
    for channel in channels:
        scale_channel(net, channel, factor)
    return net


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("factor", [*FACTORS, *(1 / factor for factor in FACTORS)])
@torch.no_grad()
def test_the_float_function_stays_and_outliers_go(kind, norm, factor):
    net = network(kind, norm, (1, 6), factor)
    x = images(32)
    supernet = Supernet(net, SHAPE)
    logits = supernet.graph(x)
    rescaled = equalize(supernet, [x])
    assert rescaled == {"norm" if norm else "a": 2}
    apart = (supernet.graph(x) - logits).abs().max() / logits.abs().max()
    assert float(apart) < 1e-5
    assert equalize(supernet, [x]) == {}  # none is left


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", [*EXACT, *TIED])
@torch.no_grad()
def test_without_outliers_every_bit_stays(kind, norm):
    supernet = Supernet(network(kind, norm), SHAPE)
    state = copy.deepcopy(supernet.graph.state_dict())
    assert equalize(supernet, [images(32)]) == {}
    for name, value in supernet.graph.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", TIED)
def test_what_a_rescaling_would_change_forbids_it(kind, norm):
    supernet = Supernet(network(kind, norm, (1, 6), 300.0), SHAPE)
    state = copy.deepcopy(supernet.graph.state_dict())
    assert equalize(supernet, [images(32)]) == {}
    for name, value in supernet.graph.state_dict().items():
        assert torch.equal(value, state[name]), name


@torch.no_grad()
def test_an_outlier_that_readers_need_large_stays():
    """Columns of the usual size have no room: weights would pay for the activations."""
    net = network("relu", False)
    net.a.weight[4] *= 300
    net.a.bias[4] *= 300
    assert equalize(Supernet(net, SHAPE), [images(32)]) == {}


@torch.no_grad()
def test_an_outlier_that_nothing_reads_and_a_dead_channel_do_no_harm():
    net = network("relu", False)
    net.a.weight[4] *= 3000
    net.a.bias[4] *= 3000
    net.b.weight[:, 4] = 0
    net.a.weight[7], net.a.bias[7] = 0, 0
    supernet = Supernet(net, SHAPE)
    logits = supernet.graph(images(32))
    assert equalize(supernet, [images(32)]) == {"a": 1}
    assert torch.allclose(supernet.graph(images(32)), logits, rtol=1e-5, atol=1e-5)


@cache
def without_outlier(kind, granularity):
    return signal_to_noise(
        *float_and_quantized(network(kind, False), images(64), True, granularity)
    )


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", EXACT)
def test_eight_bits_are_as_good_as_without_the_outlier(kind, factor, granularity):
    x, ordinary = images(64), without_outlier(kind, granularity)
    net = network(kind, False, (1, 6), factor)
    equalized = signal_to_noise(*float_and_quantized(net, x, True, granularity))
    assert equalized > ordinary - 2
    if factor > FACTORS[0]:
        assert signal_to_noise(*float_and_quantized(net, x, False, granularity)) < ordinary - 10


def patterned(count, seed):
    """Images of ten classes, each a smooth pattern under noise, and their labels."""
    patterns = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    smooth = functional.interpolate(patterns[labels], size=SHAPE[1:], mode="bicubic")
    return smooth + 0.8 * torch.randn(count, *SHAPE, generator=generator), labels


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    x, labels = patterned(512, 5)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(120):
        chosen = torch.arange(step * 64, step * 64 + 64) % 512
        optimizer.zero_grad()
        functional.cross_entropy(net(x[chosen]), labels[chosen]).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize("channels", [(5,), (0, 5, 11)])
@pytest.mark.parametrize("factor", FACTORS)
@torch.no_grad()
def test_a_trained_network_agrees_with_itself_in_float(trained, factor, channels):
    net = copy.deepcopy(trained)
    for channel in channels:
        net[3].weight[channel] *= factor
        net[3].bias[channel] *= factor
        net[5].weight[:, channel] /= factor
    x, _ = patterned(256, 7)

    def agreement(equalized):
        target, actual = float_and_quantized(net, x, equalized)
        return float((target.argmax(1) == actual.argmax(1)).float().mean())

    assert agreement(True) >= 0.97
    if factor == FACTORS[-1]:
        assert agreement(False) < 0.9
