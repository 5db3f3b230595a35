"""Names of tensors: a node may be called as a method of the container of its quantizer."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import SHAPE, SmallNet, images, randomize, style, supernet_of
from torch import nn

from eqnet.capture.capture import capture, check_same_function
from eqnet.spec.scheme import all_forms
from eqnet.subnets.build import uniform
from eqnet.supernet.extract import extract


class Cast(nn.Module):
    """Converts its input first, so that a node is called `to`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = x.double().to(torch.float32)
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Named(nn.Module):
    """Layers whose names are methods of a dictionary; `pop_` is taken by another one."""

    def __init__(self, names):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Conv2d(3, 3, 3, padding=1))
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


NAMES = ("keys", "values", "items", "pop", "update", "pop_")


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (Cast(), {"to_"}),
        (Named(NAMES), {"keys_", "values_", "items_", "pop__", "update_", "pop_"}),
    ],
)
def test_names_that_collide_are_captured_quantized_and_extracted(net, expected):
    net = randomize(net)
    original = copy.deepcopy(net)
    supernet = supernet_of(net)
    info, batch = supernet.info, images(4)
    assert expected <= {tensor.name for tensor in info.tensors}
    assert {layer.input for layer in info.layers} <= {tensor.name for tensor in info.tensors}
    supernet.apply_float()
    assert check_same_function(original, supernet.graph, batch) <= 1e-4
    spec = uniform(info, style(), next(iter(all_forms())), 8, 8)
    supernet.apply(spec)
    with torch.no_grad():
        torch.testing.assert_close(
            extract(supernet, spec)(batch), supernet.graph(batch), rtol=1e-3, atol=1e-2
        )


def test_names_that_do_not_collide_stay():
    graph, info = capture(randomize(SmallNet()), SHAPE)
    names = {node.name for node in graph.graph.nodes}
    assert {tensor.name for tensor in info.tensors} - {"input"} <= names
