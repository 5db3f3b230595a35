"""Capture: the float function stays, and the graph says which tensors are read by what."""

from __future__ import annotations

import pytest
import torch
from nets import SHAPE, SmallNet, images, randomize, small_supernet
from torch import nn
from torch.nn import functional

from eqnet.capture.capture import capture, check_same_function
from eqnet.models.loader import load_model
from eqnet.supernet.supernet import Supernet

ROUNDING = 1e-5  # of the largest logit: flipped channels are summed in another order


def copy_and_capture(net, shape):
    import copy

    original = copy.deepcopy(net)
    return original, capture(net, shape)[0]


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("eqnet:resnet20", (1, 28, 28)),
        ("torchvision:resnet18", (3, 48, 48)),
        ("torchvision:mobilenet_v2", (3, 48, 48)),
    ],
)
def test_the_float_function_of_a_known_network_is_unchanged(source, shape):
    net = randomize(load_model(source, classes=10, in_channels=shape[0]))
    original, graph = copy_and_capture(net, shape)
    batch = images(3, shape)
    size = original(batch).abs().max().item()
    assert size > 1e-3
    assert check_same_function(original, graph, batch) <= ROUNDING * size


class NoBias(nn.Module):
    """A bare convolution, an average pool over space, and a Linear without bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same", bias=False)
        self.fc = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class PreActivation(nn.Module):
    """Batch norms that follow no convolution, and an in-place activation between them."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, groups=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.conv(self.relu(self.bn(x)))
        y += 0.5
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(y, 1), 1))


@pytest.mark.parametrize(
    "build", [SmallNet, lambda: SmallNet(activation=nn.ReLU6), NoBias, PreActivation]
)
@pytest.mark.parametrize("gamma", ["mixed", "zero"])
def test_the_float_function_of_a_hand_made_network_is_unchanged(build, gamma):
    net = randomize(build())
    if gamma == "zero":
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data[1] = 0.0
    original, graph = copy_and_capture(net, SHAPE)
    batch = images(4)
    before = batch.clone()
    assert check_same_function(original, graph, batch) <= ROUNDING * original(batch).abs().max()
    assert torch.equal(batch, before)
    for name, module in graph.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name != "bn":  # "bn" follows no convolution
            assert (module.weight >= 0).all()


def test_tensors_readers_and_layers_of_a_small_network():
    info = Supernet(randomize(SmallNet()), SHAPE).info
    assert [(layer.name, layer.group, layer.batch_norm) for layer in info.layers] == [
        ("stem", "conv", "stem_bn"),
        ("conv1", "conv", "bn1"),
        ("depthwise", "depthwise_conv", "bn2"),
        ("conv2", "conv", None),
        ("head", "linear", None),
    ]
    assert [layer.macs for layer in info.layers] == [
        8 * 36 * 27,
        8 * 36 * 72,
        8 * 36 * 9,
        6 * 36 * 8,
        70,
    ]
    facts = {
        tensor.name: (tensor.layers, tensor.readers, tensor.non_negative, tensor.added_by_conv)
        for tensor in info.tensors
    }
    assert facts == {
        "input": (("stem",), (), False, False),
        "act": (("conv1",), ("add",), True, False),
        "act_1": (("depthwise",), (), True, False),
        "bn2": ((), ("add",), False, True),
        "act_2": (("conv2",), ("concat",), True, False),
        "relu": ((), ("concat",), True, False),
        # Max pooling keeps values on their grid: one quantizer behind it serves both.
        "max_pool2d": ((), ("pool",), True, False),
        # Reshaping with `z.size(0)` (and dropout) does not hide that the values are non-negative.
        "drop": (("head",), (), True, False),
    }
    assert info.classes == 5
    assert info.tensor("input").elements == 3 * 12 * 12


class Signs(nn.Module):
    """The operation under test on [N, 12], and a Linear that reads it."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(self.operation(torch.flatten(x, 1)))


SIGNS = {
    "relu": (functional.relu, (0, None)),
    "relu6": (functional.relu6, (0, 6)),
    "sigmoid": (torch.sigmoid, (0, 1)),
    "hardsigmoid": (functional.hardsigmoid, (0, 1)),
    "softmax": (lambda x: x.softmax(1), (0, 1)),
    "none": (lambda x: x * 2.0, None),
    "silu": (functional.silu, None),
    "sum of two": (lambda x: functional.relu(x) + x.sigmoid(), (0, None)),
    "bounded sum": (lambda x: functional.relu6(x) + x.sigmoid(), (0, 7)),
    "sum with any": (lambda x: functional.relu(x) + functional.silu(x), None),
    "difference": (lambda x: functional.relu(x) - x.sigmoid(), None),
    "sum with a negative factor": (lambda x: torch.add(x.relu(), x.sigmoid(), alpha=-2), None),
    "sum with a constant": (lambda x: functional.relu(x) - 3.0, None),
    "product": (lambda x: functional.relu6(x) * x.sigmoid(), (0, 6)),
    "product with any": (lambda x: functional.relu6(x) * x.tanh(), None),
    "concat": (lambda x: torch.cat([x.relu()[:, :6], x.sigmoid()[:, 6:]], 1), (0, None)),
    "concat with any": (lambda x: torch.cat([x.relu()[:, :6], x[:, 6:]], 1), None),
    "reshape by size": (lambda x: x.relu().reshape(x.size(0), -1), (0, None)),
}


@pytest.mark.parametrize("case", SIGNS)
def test_signs_follow_from_the_graph(case):
    operation, bounds = SIGNS[case]
    info = capture(Signs(operation), (12, 1, 1))[1]
    found = next(tensor for tensor in info.tensors if tensor.layers)
    assert found.non_negative == (bounds is not None)
    assert found.upper == (bounds[1] if bounds else None)


def test_apply_float_after_a_subnet_gives_the_float_function_again():
    from eqnet.spec.scheme import Form
    from eqnet.subnets.build import PAPER_STYLE, uniform

    supernet = small_supernet()
    batch = images()
    supernet.apply_float()
    before = supernet.graph(batch)
    supernet.apply(uniform(supernet.info, PAPER_STYLE, Form(), 2, 2))
    assert not torch.equal(supernet.graph(batch), before)
    supernet.apply_float()
    assert torch.equal(supernet.graph(batch), before)
