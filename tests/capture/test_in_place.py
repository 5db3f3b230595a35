"""Tensors that the model changes in place: the captured graph follows, or capture refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from nets import SHAPE, images, randomize
from torch import nn
from torch.nn import functional

from eqnet.capture.capture import capture, check_same_function
from eqnet.capture.writes import PLAIN_OPERATORS
from eqnet.spec.errors import CaptureError
from eqnet.supernet.supernet import Supernet

HERE = f"{Path(__file__).name}:"  # then the line of the model's code
ROUNDING = 1e-5  # of the largest logit


class Net(nn.Module):
    """A stem, a head, and between them what a case does."""

    def __init__(self, use):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.Linear(4, 2)
        self.use = use

    def forward(self, x):
        return self.fc(self.use(self, self.stem(x)).flatten(2).mean(2))


def alias(net, x):
    y = x
    y += 1.0
    y *= net.conv(x)
    return x


def alias_of_dropout(net, x):
    y = net.drop(x)
    y -= 0.5
    return net.conv(x)


def whole_view(net, x):
    y = x[:]
    y.add_(net.conv(x), alpha=0.5)
    return x


def many(net, x):
    x.copy_(net.conv(x))
    functional.elu_(x)
    functional.leaky_relu(x, 0.1, True)
    x **= 2
    x.masked_fill_(x > 1, 1.0)
    x /= x.amax(1, keepdim=True) + 1
    return x.unsqueeze_(1).squeeze_(1).clamp_(max=0.9)


def by_keyword(net, x):
    return net.conv(net.relu(input=x)) + x


def size_of_a_view(net, x):
    y = x.flatten(2)
    functional.relu_(x)
    return x.view(y.size(0), 4, y.size(2))


def sizes(net, x):
    count = x.shape[0]
    count *= 2
    count //= 2
    return x.view(count, 4, -1)


def part_before(net, x):
    y = net.conv(x[:, [1, 0, 2, 3]]) + x[:, :1]
    functional.relu(x, inplace=True)
    return y


FOLLOWED = [
    alias,
    alias_of_dropout,
    whole_view,
    many,
    by_keyword,
    size_of_a_view,
    sizes,
    part_before,
]


@pytest.mark.parametrize("use", FOLLOWED, ids=lambda use: use.__name__)
def test_readers_of_a_changed_tensor_see_the_change(use):
    net = randomize(Net(use))
    original = copy.deepcopy(net)
    graph, _ = capture(net, SHAPE)
    for count in (1, 5):
        batch = images(count)
        with torch.no_grad():
            size = float(original(batch).abs().max())
        assert size > 1e-3
        assert check_same_function(original, graph, batch) <= ROUNDING * size


def test_the_graph_changes_nothing_in_place():
    graph, _ = capture(Net(many), SHAPE)
    left = [n.name for n in graph.graph.nodes if n.op == "call_method" and n.target[-1] == "_"]
    assert left == ["copy_"]  # has no other form: it writes into a clone
    graph, info = capture(Net(lambda net, x: net.relu(alias(net, x))), SHAPE)
    functions = {n.target for n in graph.graph.nodes if n.op == "call_function"}
    assert not functions & set(PLAIN_OPERATORS)
    assert not graph.get_submodule("relu").inplace
    # It keeps the names that `y = y + 1` has, and a product of two tensors is one.
    assert {"add", "mul"} <= {node.name for node in graph.graph.nodes}
    assert ("mul",) in [tensor.readers for tensor in info.tensors]


def test_a_module_that_works_in_place_in_training_alone_does_not_either():
    graph, _ = capture(Net(lambda net, x: net.drop(x) + x), SHAPE)
    assert not graph.get_submodule("drop").inplace


class ChangesInput(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.conv, self.relu, self.change = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), change

    def forward(self, x):
        return self.conv(self.change(self, x)).mean((2, 3))


def augmented(net, x):
    x -= 0.5
    return x


CHANGES = [
    augmented,
    lambda net, x: x.sub_(0.5).div_(0.25),
    lambda net, x: net.relu(x),
    lambda net, x: x.copy_(x * 2),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_callers_images_stay_as_they_are(change):
    net = ChangesInput(change)
    original = copy.deepcopy(net)
    supernet = Supernet(net, SHAPE)
    batch, before = images(3), images(3)
    assert check_same_function(original, supernet.graph, batch) <= ROUNDING
    supernet.graph(batch)
    assert torch.equal(batch, before)


def part(net, x):
    y = x[:, :2]
    y += 1.0
    return net.conv(x)


def view_before(net, x):
    y = x[:, :2]
    x = functional.relu(x, inplace=True)
    return x + y.mean()


def flattened_before(net, x):
    y = x.flatten(2)
    x += x.mean((2, 3), keepdim=True)
    return y + x.mean()


def part_of_a_clone(net, x):
    y = x.clone()
    y[:, :2].relu_()
    return y


def into_another(net, x):
    z = torch.empty_like(x)
    torch.add(x, net.conv(x), out=z)
    return z


def parameter(net, x):
    net.scale.mul_(0.5)
    return x * net.scale


REFUSED = {
    part: "'add' changes 'getitem' in place, and 'stem', which shares its memory, is read",
    view_before: "'relu' changes 'stem' in place, and 'getitem', which shares",
    flattened_before: "'add' changes 'stem' in place, and 'flatten', which shares",
    part_of_a_clone: "'relu_' changes 'getitem' in place, and 'clone', which shares",
    into_another: "'add' writes into a tensor other than its whole first input",
    parameter: "'mul_' changes 'scale' of the model in place",
}


@pytest.mark.parametrize("use", REFUSED, ids=lambda use: use.__name__)
def test_what_no_edge_can_show_is_refused_with_the_line(use):
    with pytest.raises(CaptureError) as caught:
        capture(Net(use), SHAPE)
    message = str(caught.value)
    assert HERE in message
    assert REFUSED[use] in message
    assert "\n" not in message
