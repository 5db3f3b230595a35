"""Models that capture cannot take: one CaptureError that names the operation or the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from eqnet.spec.errors import CaptureError
from eqnet.supernet.capture import capture

SHAPE = (3, 8, 8)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def head(self, x):
        return self.fc(x.mean((2, 3)))


class DataDependent(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.sum() > 0:  # this line
            x = x + 1
        return self.head(x)


class FunctionalConv(Base):
    def forward(self, x):
        return self.head(functional.conv2d(x, self.conv.weight))


class FunctionalLinear(Base):
    def forward(self, x):
        return functional.linear(self.conv(x).mean((2, 3)), self.fc.weight)


class SharedLayer(Base):
    def forward(self, x):
        return self.head(self.conv(self.conv(x)))


class SharedNorm(Base):
    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.head(self.bn(self.second(self.bn(self.conv(x)))))


class NoLayers(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class TwoInputs(Base):
    def forward(self, x, y):
        return self.head(self.conv(x) + y)


class ImageOut(Base):
    def forward(self, x):
        return self.conv(x)


class TwoOutputs(Base):
    def forward(self, x):
        x = self.conv(x)
        return self.head(x), x


class Asserting(Base):
    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return self.head(self.conv(x))


def failing(error):
    class Failing(Base):
        def forward(self, x):
            raise error

    return Failing


class GraphAttribute(Base):
    """fx.GraphModule has a property of this name."""

    def __init__(self):
        super().__init__()
        self.graph = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.head(self.graph(x))


class QuantizersAttribute(Base):
    def __init__(self):
        super().__init__()
        self.quantizers = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.head(self.quantizers(x))


CASES = {
    Asserting: ("test_capture_refusals.py:", "torch.fx can trace"),
    failing(AssertionError()): ("AssertionError", "torch.fx can trace"),
    failing(ValueError("odd value")): ("test_capture_refusals.py:", "odd value"),
    failing(AttributeError("no such thing")): ("no such thing", "torch.fx can trace"),
    failing(KeyError("colour")): ("colour", "torch.fx can trace"),
    failing(IndexError("too far")): ("too far", "torch.fx can trace"),
    GraphAttribute: ("cannot capture GraphAttribute", ""),
    QuantizersAttribute: ("attribute 'quantizers'", "any other name"),
    DataDependent: ("test_capture_refusals.py:", "control flow"),
    FunctionalConv: ("operation 'conv2d'", "nn.Conv2d and nn.Linear"),
    FunctionalLinear: ("operation 'linear'", "nn.Conv2d and nn.Linear"),
    SharedLayer: ("layer 'conv' is called more than once", "one call a layer"),
    SharedNorm: ("batch norm 'bn' is called more than once", "one call"),
    NoLayers: ("no nn.Conv2d or nn.Linear", ""),
    TwoInputs: ("2 inputs", "one image tensor"),
    ImageOut: ("not one tensor of logits", ""),
    TwoOutputs: ("not one tensor of logits", ""),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_refusal_is_one_line_that_says_what_and_where(kind):
    with pytest.raises(CaptureError) as caught:
        capture(kind(), SHAPE)
    message = str(caught.value)
    for part in CASES[kind]:
        assert part in message
    assert "\n" not in message


def test_control_flow_is_reported_at_its_own_line():
    with pytest.raises(CaptureError) as caught:
        capture(DataDependent(), SHAPE)
    with open(__file__) as file:
        line = next(n for n, text in enumerate(file, 1) if "# this line" in text)
    assert f":{line}:" in str(caught.value)


def test_an_input_of_the_wrong_shape_is_refused():
    with pytest.raises(CaptureError, match=r"input of shape \[5, 8, 8\]"):
        capture(SharedNormFree(), (5, 8, 8))


class SharedNormFree(Base):
    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(x))))
