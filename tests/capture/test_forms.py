"""Ways to write a layer: whatever the form, it is captured as one, and the function stays."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import images, randomize
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from eqnet.capture.capture import capture, check_same_function

SHAPE = (3, 8, 8)
ROUNDING = 1e-5  # of the largest logit


class Parts(nn.Module):
    """Layers of all kinds; a case uses some of them."""

    def __init__(self, forward):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.small = nn.Conv2d(4, 4, 2)
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.normed = parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.bn = nn.BatchNorm2d(4)
        self.sync = nn.SyncBatchNorm(4)
        self.shift = nn.Parameter(torch.randn(4))
        self.eye = nn.Parameter(torch.eye(4))
        self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.fc = nn.Linear(4, 2)
        self.use = forward

    def forward(self, x):
        return self.fc(self.use(self, self.stem(x)).flatten(2).mean(2))


def standardized(net, x):
    weight = net.kernel - net.kernel.mean((1, 2, 3), keepdim=True)
    return functional.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), padding=1)


def functional_norm(net, x):
    bn = net.bn
    x = functional.conv2d(x, net.kernel)
    return functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def attention(net, x):
    tokens = x.flatten(2).transpose(1, 2)
    return net.attention(tokens, tokens, tokens)[0].transpose(1, 2)


def changed_in_place(net, x):
    functional.relu_(x)
    y = net.conv(x)
    x += y
    return x.mul_(2)


def by_shape(net, x):
    n, c, h, w = x.shape
    assert c == 4
    if h % 7:
        x = functional.pad(x, (0, 7 - w % 7, 0, 7 - h % 7))
    x = x.view(n, c, x.shape[2] * x.shape[3])
    return x + torch.zeros(n, 1, 1)


CASES = {
    "a layer called twice": (lambda n, x: n.conv(n.conv(x)), ["stem", "conv", "conv_2"]),
    "a batch norm called twice": (lambda n, x: n.bn(n.conv(n.bn(x))), ["stem", "conv"]),
    "a functional convolution": (
        lambda n, x: functional.conv2d(x, n.kernel, stride=2),
        ["stem", "kernel_layer"],
    ),
    "a module's weight used again": (
        lambda n, x: n.conv(x) + functional.conv2d(x, n.conv.weight, padding=1),
        ["stem", "conv", "conv_2"],
    ),
    "weight standardization": (standardized, ["stem", "kernel_layer"]),
    "weight standardization by batch norm": (
        lambda n, x: functional.conv2d(
            x,
            functional.batch_norm(n.kernel.reshape(1, 4, -1), None, None, training=True).reshape_as(
                n.kernel
            ),
        ),
        ["stem", "kernel_layer"],
    ),
    "a functional batch norm": (functional_norm, ["stem", "kernel_layer"]),
    "weight normalization": (lambda n, x: n.normed(x), ["stem", "normed"]),
    "padding by reflection": (lambda n, x: n.reflect(x), ["stem", "reflect"]),
    "padding on two sides": (lambda n, x: n.small(n.pad(x)), ["stem", "small"]),
    "functional padding": (
        lambda n, x: n.conv(functional.pad(x, (1, 2, 0, 1))),
        ["stem", "conv"],
    ),
    "attention": (attention, ["stem", "attention.in_proj", "attention.out_proj"]),
    "a product with a parameter": (
        lambda n, x: (x.flatten(2).transpose(1, 2) @ n.kernel[:, :, 0, 0]).transpose(1, 2),
        ["stem", "kernel_layer"],
    ),
    "a matrix product": (
        lambda n, x: x.mean((2, 3)).mm(n.kernel[:, :, 0, 0])[:, :, None],
        ["stem", "kernel_layer"],
    ),
    "a matrix product and a sum": (
        lambda n, x: torch.addmm(n.shift, x.mean((2, 3)), n.kernel[:, :, 0, 0])[:, :, None],
        ["stem", "kernel_layer"],
    ),
    "a scaled matrix product": (
        lambda n, x: torch.addmm(n.shift, x.mean((2, 3)), n.kernel[0, 0, 0, 0] * n.eye, beta=2)[
            :, :, None
        ],
        ["stem"],
    ),
    "a synchronized batch norm": (lambda n, x: n.sync(n.conv(x)), ["stem", "conv"]),
    "a layer's weight and statistics read": (
        lambda n, x: n.bn(n.conv(x)) * n.conv.weight.mean() + n.bn.running_mean.view(4, 1, 1),
        ["stem", "conv"],
    ),
    "in place": (changed_in_place, ["stem", "conv"]),
    "a sum of three": (lambda n, x: sum([x, n.conv(x), x * 2]), ["stem", "conv"]),
    "a scaled sum": (lambda n, x: torch.add(x, n.conv(x), alpha=-2), ["stem", "conv"]),
    "by keyword": (lambda n, x: n.conv(input=x), ["stem", "conv"]),
    "branches over shapes": (by_shape, ["stem"]),
    "chunks": (lambda n, x: torch.cat([t * 2 for t in x.chunk(2, 1)][::-1], 1), ["stem"]),
    "a weight that the images make": (
        lambda n, x: functional.conv2d(x, x[:1].mean((2, 3), keepdim=True).expand(4, 4, 1, 1)),
        ["stem"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_way_to_write_a_layer_is_captured_and_keeps_its_function(case):
    forward, layers = CASES[case]
    net = randomize(Parts(forward))
    original = copy.deepcopy(net)
    graph, info = capture(net, SHAPE)
    assert [layer.name for layer in info.layers] == [*layers, "fc"]
    for count in (1, 5):
        batch = images(count, SHAPE)
        size = original(batch).abs().max().item()
        assert size > 1e-3
        assert check_same_function(original, graph, batch) <= ROUNDING * size
    for name, module in graph.named_modules():
        norms = {layer.batch_norm for layer in info.layers}
        if name in norms:
            assert (module.weight >= 0).all()


def test_a_synchronized_batch_norm_is_absorbed_as_any_other():
    net = Parts(lambda net, x: net.sync(net.conv(x)))
    with torch.no_grad():
        net.sync.weight.copy_(torch.tensor([1.0, -2.0, 0.5, -0.1]))
        net.sync.running_mean.uniform_(-1, 1)
    original = copy.deepcopy(net)
    graph, info = capture(net, SHAPE)
    assert info.layer("conv").batch_norm == "sync"
    norm = graph.get_submodule("sync")
    assert type(norm) is nn.BatchNorm2d
    assert norm.weight.min() > 0
    assert set(norm.state_dict()) == set(original.sync.state_dict())
    assert check_same_function(original, graph, images(3, SHAPE)) <= 1e-5


def test_layers_and_norms_that_share_memory_get_their_own():
    net = randomize(
        nn.Sequential(
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )
    net[2].weight.data = net[0].weight.data
    net[3].running_mean = net[1].running_mean
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-1.0, 1.0, -1.0]))
        net[3].weight.copy_(torch.tensor([1.0, -1.0, 1.0]))
    original = copy.deepcopy(net)
    graph, _ = capture(net, SHAPE)
    assert check_same_function(original, graph, images(3, SHAPE)) <= 1e-5


def test_the_copies_of_a_layer_are_trained_apart():
    graph = capture(Parts(lambda net, x: net.conv(net.conv(x))), SHAPE)[0]
    first, second = (graph.get_parameter(f"{name}.weight") for name in ("conv", "conv_2"))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


class Doubling(nn.Conv2d):
    """A subclass that is no convolution with its weight."""

    def forward(self, input):
        return super().forward(input) * 2 + input


class Plain(nn.Linear):
    """A subclass that is."""


def test_a_subclass_is_taken_for_what_it_computes():
    net = randomize(nn.Sequential(Doubling(3, 3, 1), nn.Flatten(), Plain(192, 2)))
    original = copy.deepcopy(net)
    graph, info = capture(net, SHAPE)
    assert [(layer.name, layer.group) for layer in info.layers] == [("0", "conv"), ("2", "linear")]
    assert check_same_function(original, graph, images(3, SHAPE)) <= 1e-5


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x, mask=None, scale: float = 2.0, features: bool = False):
        if mask is not None:
            x = x * mask
        x = self.conv(x)
        return x if features else x.mean((2, 3)) * scale


def test_arguments_with_defaults_keep_them():
    net = Optional()
    original = copy.deepcopy(net)
    graph, _ = capture(net, SHAPE)
    assert check_same_function(original, graph, images(3, SHAPE)) <= 1e-6


class Caching(nn.Module):
    """Keeps what it computed, which under tracing is no tensor."""

    def __init__(self):
        super().__init__()
        self.conv, self.cache = nn.Conv2d(3, 2, 1), {}
        self.shift = nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.cache.setdefault("shift", self.shift * 2)
        return self.conv(x).mean((2, 3)) + self.cache["shift"]


def test_the_model_itself_keeps_nothing_of_the_tracing():
    net = Caching()
    graph, _ = capture(net, SHAPE)
    assert net.cache == {}
    assert check_same_function(net, graph, images(2, SHAPE)) <= 1e-6


def test_linear_layers_over_tokens_count_every_position():
    tokens = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Linear(64, 5))
    net = nn.Sequential(*tokens, nn.Flatten(), nn.Linear(20, 2))
    info = capture(net, SHAPE)[1]
    token = info.layer("2")
    assert (token.out_channels, token.weights, token.macs) == (5, 320, 4 * 5 * 64)


BOUNDS = {
    "hardswish": (functional.hardswish, None),
    "silu of what is not negative": (lambda x: functional.silu(x.relu()), (0, None)),
    "gelu": (functional.gelu, None),
    "tanh": (torch.tanh, None),
    "clamp": (lambda x: x.clamp(0, 3), (0, 3)),
    "clamp from below": (lambda x: x.clamp(min=1), (0, None)),
    "hardtanh": (lambda x: functional.hardtanh(x, 0.0, 4.0), (0, 4)),
    "signed hardtanh": (functional.hardtanh, None),
    "square": (lambda x: x**2, (0, None)),
    "scaled": (lambda x: x.sigmoid() * 3, (0, 3)),
    "negated": (lambda x: x.relu() * -1, None),
    "one minus": (lambda x: 1 - x.sigmoid(), (0, 1)),
    "three": (lambda x: sum([x.relu(), x.sigmoid(), x.abs()]), (0, None)),
    "padded": (lambda x: functional.pad(functional.relu6(x)[:, 1:], (1, 0)), (0, 6)),
    "padded below": (lambda x: functional.pad(x.relu(), (0, 0), value=-1.0), None),
    "stacked": (lambda x: torch.stack([x.relu(), x.sigmoid()]).amax(0), (0, None)),
    "upsampled": (lambda x: functional.interpolate(x.relu()[:, None], 12)[:, 0], (0, None)),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_signs_of_more_operations(case):
    operation, bounds = BOUNDS[case]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            return self.fc(operation(torch.flatten(x, 1)))

    found = next(tensor for tensor in capture(Net(), (12, 1, 1))[1].tensors if tensor.layers)
    assert found.non_negative == (bounds is not None)
    assert found.upper == (bounds[1] if bounds else None)
