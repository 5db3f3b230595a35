"""Float models that are no function of the image, or compute in fewer bits, and why in one line."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from nets import images
from torch import nn
from torch.nn import functional

from eqnet.spec.errors import CaptureError
from eqnet.supernet.float_checks import require_repeatable, require_same_function
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A convolution, what a case does with its features, and a linear layer."""

    def __init__(self, use):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, 10)
        self.calls = 0
        self.use = use

    def forward(self, x):
        return self.fc(self.use(self, torch.relu(self.conv(x))).mean((2, 3)))


def net_of(use):
    torch.manual_seed(2)
    return Net(use).eval()


def awake(net, x):
    net.drop.train()
    return net.drop(x)


def skipped(net, x):
    return x * 2 if torch.rand(()) < 0.5 else x


def counted(net, x):
    net.calls += 1
    return x * net.calls


RANDOM = {
    "dropout": (lambda net, x: functional.dropout(x), "bernoulli"),
    "dropout2d": (lambda net, x: functional.dropout2d(x), "bernoulli"),
    "alpha_dropout": (lambda net, x: functional.alpha_dropout(x, training=True), "bernoulli"),
    "torch.dropout": (lambda net, x: torch.dropout(x, 0.1, True), "bernoulli"),
    "nn.Dropout in training": (awake, "bernoulli"),
    "rand": (lambda net, x: x + torch.rand(x.shape), "rand"),
    "randn_like": (lambda net, x: x + torch.randn_like(x), "randn_like"),
    "rand of channels": (lambda net, x: x * torch.rand(8, 1, 1), "rand"),
    "randperm": (
        lambda net, x: x[:, torch.randperm(8)] * torch.arange(8.0)[:, None, None],
        "randperm",
    ),
    "rrelu": (lambda net, x: functional.rrelu(x - 1, training=True), "rrelu"),
    "left out": (skipped, "rand"),
    "python": (lambda net, x: x * random.random(), "computes otherwise each time"),
    "numpy": (lambda net, x: x * float(np.random.rand()), "computes otherwise each time"),
    "state": (counted, "computes otherwise each time"),
}


@pytest.mark.parametrize("case", RANDOM)
def test_randomness_in_evaluation_mode_is_named(case):
    use, told = RANDOM[case]
    with pytest.raises(CaptureError) as caught:
        require_repeatable(net_of(use), images(4, SHAPE))
    message = str(caught.value)
    assert told in message
    assert "from run to run" in message
    assert "\n" not in message
    if "operation" in message:
        assert message.startswith(f"{__file__}:")


def attention(net, x):
    tokens = x.flatten(2).transpose(1, 2).unsqueeze(1)
    return functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mT[..., None]


CALM = {
    "nn.Dropout": lambda net, x: net.drop(x),
    "dropout off": lambda net, x: functional.dropout(x, training=net.training),
    "dropout of nothing": lambda net, x: functional.dropout(x, 0.0),
    "attention": attention,
    "noise that nothing reads": lambda net, x: x + 0 * torch.rand(8, 1, 1),
    "seeded": lambda net, x: x + torch.rand(8, 1, 1, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("case", CALM)
def test_a_model_that_gives_the_same_each_time_is_taken(case):
    net, batch = net_of(CALM[case]), images(4, SHAPE)
    run = require_repeatable(net, batch)
    state = torch.random.get_rng_state()
    assert torch.equal(run.logits, net(batch))
    require_repeatable(net, batch)
    assert torch.equal(torch.random.get_rng_state(), state) == ("noise" not in case)


def within(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        weight = net.conv.weight.mean(1, keepdim=True).expand(8, 8, 3, 3)
        return functional.conv2d(x, weight).float()


class Decorated(Net):
    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x):
        return super().forward(x).float()


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        assert self.conv.bias is not None
        nn.init.constant_(self.conv.bias, 30.0)  # bfloat16 has steps of an eighth there

    def forward(self, x):
        with torch.amp.autocast("cpu", dtype=torch.bfloat16):
            return self.conv(x).float() - 30.0


def in_a_part():
    torch.manual_seed(2)
    net = net_of(lambda net, x: net.part(x))
    net.part = Part()
    return net


def off(net, x):
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        return functional.conv2d(x, net.conv.weight.mean(1, keepdim=True).expand(8, 8, 3, 3))


def captured(net):
    batch = images(4, SHAPE)
    run = require_repeatable(net, batch)
    supernet = Supernet(net, SHAPE)
    supernet.apply_float()
    require_same_function("mine:net", run, supernet.graph, batch)


@pytest.mark.parametrize(
    "make", [lambda: net_of(within), lambda: Decorated(lambda net, x: x).eval(), in_a_part]
)
def test_autocast_inside_of_the_model_is_named(make):
    torch.manual_seed(4)
    with pytest.raises(CaptureError) as caught:
        captured(make())
    message = str(caught.value)
    assert message.startswith(f"{__file__}:")
    assert "autocast inside of forward" in message
    assert "\n" not in message


def test_autocast_that_is_off_inside_is_taken():
    captured(net_of(off))


def test_another_function_for_no_known_reason_is_refused():
    net, batch = net_of(lambda net, x: x), images(4, SHAPE)
    run = require_repeatable(net, batch)
    with pytest.raises(CaptureError, match="mine:net: the captured network computes another"):
        require_same_function("mine:net", run, nn.Sequential(net, nn.ReLU()), batch)
