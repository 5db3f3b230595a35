"""Models that capture cannot take: one CaptureError that names the operation or the layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from eqnet.capture.capture import capture
from eqnet.spec.errors import CaptureError

SHAPE = (3, 8, 8)
HERE = f"{Path(__file__).name}:"  # then the line of the model's code


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


class Item(Base):
    def forward(self, x):
        return self.head(self.conv(x)) * x.mean().item()


class ParameterDependent(Base):
    def forward(self, x):
        x = self.conv(x)
        return self.head(x if self.fc.bias.sum() > 0 else -x)


class ParameterItem(Base):
    def forward(self, x):
        return self.head(self.conv(x)) * self.fc.bias.max().item()


class CountDependent(Base):
    def forward(self, x):
        if x.shape[0] > 2:
            x = x + 1
        return self.head(self.conv(x))


class OverImages(Base):
    def forward(self, x):
        return self.fc(torch.stack([image.mean((1, 2)) for image in self.conv(x)]))


class Squeezed(Base):
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3), keepdim=True).squeeze())


class Complex(Base):
    def forward(self, x):
        return self.head(torch.fft.fft2(self.conv(x)).real)


class Assigning(Base):
    def forward(self, x):
        x = self.conv(x)
        x[:, :2] = 0
        return self.head(x)


class ChangedView(Base):
    def forward(self, x):
        x = self.conv(x)
        functional.relu_(x[:, :2])
        return self.head(x)


class Inner(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], 5, -1)


class Failing(Base):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Identity(), Inner())

    def forward(self, x):
        return self.block(self.conv(x))


class Statistics(Base):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        return self.head(self.bn(self.conv(x)))


class BatchStatistics(Base):
    def forward(self, x):
        return self.head(functional.batch_norm(self.conv(x), None, None, training=True))


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
    Asserting: (HERE, "torch.fx can trace"),
    failing(AssertionError()): ("AssertionError", "torch.fx can trace"),
    failing(ValueError("odd value")): (HERE, "odd value"),
    failing(AttributeError("no such thing")): ("no such thing", "torch.fx can trace"),
    failing(KeyError("colour")): ("colour", "torch.fx can trace"),
    failing(IndexError("too far")): ("too far", "torch.fx can trace"),
    GraphAttribute: ("cannot capture GraphAttribute", ""),
    QuantizersAttribute: ("attribute 'quantizers'", "any other name"),
    DataDependent: (HERE, "control flow"),
    Item: (HERE, "'item' depends on the content of the images"),
    ParameterDependent: ("'gt', which depends on trained parameters (a buffer's value", ""),
    ParameterItem: ("'item' depends on trained parameters (a buffer's value", ""),
    CountDependent: (HERE, "'gt', which depends on the number of images"),
    OverImages: (HERE, "'conv'"),
    Squeezed: (HERE, "'squeeze' drops the dimension of the images"),
    Complex: (HERE, "'fft_fft2' gives complex numbers"),
    Assigning: (HERE, "assigns to a part of 'conv'"),
    ChangedView: (HERE, "'relu_' changes 'getitem' in place, and 'conv'"),
    Failing: (HERE, "in 'block.1'", "'view' fails", "[3, 8, 8]"),
    Statistics: (HERE, "batch norm 'bn' has no running statistics"),
    BatchStatistics: (HERE, "'batch_norm' normalizes by", "training=False"),
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
