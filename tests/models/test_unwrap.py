"""Wrappers that change how a network is run are taken off, wherever they stand."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import images
from torch import nn
from torch.optim.swa_utils import AveragedModel

from eqnet.capture.capture import capture
from eqnet.models.unwrap import unwrap
from eqnet.models.weights import load_weights

SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.module = nn.Conv2d(4, 4, 1)  # a name that wrappers use
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.module(self.block(self.stem(x))).mean((2, 3)))


def swish(x):
    return x * torch.sigmoid(x)


class Calling(Net):
    """Calls a function on the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return super().forward(self.function(x))


def compiled(module):
    return torch.compile(module, backend="eager")


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


def distributed(module):
    """As DistributedDataParallel holds it, without a group of processes."""
    wrapper = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = module
    return wrapper


WRAPPERS = {
    "compile": compiled,
    "compile in place": compiled_in_place,
    "data parallel": nn.DataParallel,
    "distributed": distributed,
    "average": AveragedModel,
    "compiled data parallel": lambda module: compiled(nn.DataParallel(module)),
    "data parallel compiled": lambda module: nn.DataParallel(compiled(module)),
    "twice": lambda module: nn.DataParallel(nn.DataParallel(module)),
}


def within(name, wrap):
    def change(net):
        setattr(net, name, wrap(getattr(net, name)))
        return net

    return change


PLACES = {
    **{f"{name} around": wrap for name, wrap in WRAPPERS.items()},
    **{f"{name} inside": within("block", wrap) for name, wrap in WRAPPERS.items()},
    "both": lambda net: nn.DataParallel(within("block", compiled)(net)),
    "a part of a part": lambda net: within("stem", lambda stem: nn.Sequential(compiled(stem)))(net),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_wrapped_network_is_captured_and_loads_weights_of_either_form(place, tmp_path):
    torch.manual_seed(1)
    plain = Net().eval()
    batch = images(2, SHAPE)
    wrapped = PLACES[place](copy.deepcopy(plain))
    with torch.no_grad():
        expected = plain(batch)
    state = wrapped.state_dict()
    net = unwrap(wrapped).eval()
    assert type(net) is Net
    # Inside of a part, the part's own names are other ones than without it.
    contents = (state,) if place == "a part of a part" else (state, plain.state_dict())
    for index, content in enumerate(contents):
        torch.save(content, tmp_path / f"{index}.pth")
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        load_weights(net, tmp_path / f"{index}.pth")
    graph, _ = capture(net, SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(graph(batch), expected)


FUNCTIONS = {
    "compiled": lambda: torch.compile(swish, backend="eager"),
    "scripted": lambda: torch.jit.script(swish),
    "traced": lambda: torch.jit.trace(swish, torch.zeros(1)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_that_is_compiled_is_captured_as_it_was_written(kind):
    torch.manual_seed(1)
    function = FUNCTIONS[kind]()
    net, batch = Calling(function).eval(), images(2, SHAPE)
    with torch.no_grad():
        expected = net(batch)
    graph, _ = capture(net, SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(graph(batch), expected)
    assert any("sigmoid" in node.name for node in graph.graph.nodes)
    torch.testing.assert_close(function(batch), swish(batch))  # itself again, outside of capture


def test_a_plain_network_stays_as_it_is():
    net = Net()
    before = dict(net.named_modules())
    assert unwrap(net) is net
    assert dict(net.named_modules()) == before
