"""Tensors of a model that its code spreads over the number of images: class tokens, coordinates."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import images
from torch import nn

from eqnet.capture.capture import capture
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 8, 8)
ROUNDING = 1e-5  # of the largest logit


class Spread(nn.Module):
    """Joins a constant [1, 4, 8, 8] to its features, spread over the images by `form`."""

    def __init__(self, place, form):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.join = nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, 2)
        value = torch.randn(1, 4, 8, 8)
        self.grid: torch.Tensor
        if place == "parameter":
            self.grid = nn.Parameter(value)
        elif place == "plain":
            self.grid = value
        else:
            self.register_buffer("grid", value, persistent=place == "buffer")
        self.form = form

    def forward(self, x):
        y = torch.relu(self.conv(x))
        y = torch.cat([y, self.form(self.grid, y)], 1)
        return self.fc(self.join(y).mean((2, 3)))


FORMS = {
    "expand": lambda g, x: g.expand(x.shape[0], -1, -1, -1),
    "expand tuple": lambda g, x: g.expand((x.size(0), -1, -1, -1)),
    "expand list": lambda g, x: g.expand([x.shape[0], 4, 8, 8]),
    "expand shape": lambda g, x: g.expand(x.shape),
    "expand unpacked": lambda g, x: g.expand(*x.shape),
    "expand named": lambda g, x: g.expand(size=(x.shape[0], -1, -1, -1)),
    "expand_as": lambda g, x: g.expand_as(x),
    "expand of a part": lambda g, x: g[:, :, :1].expand(x.shape[0], -1, 8, -1),
    "broadcast_to": lambda g, x: g.broadcast_to(x.shape[0], 4, 8, 8),
    "torch.broadcast_to": lambda g, x: torch.broadcast_to(g, (x.shape[0], 4, 8, 8)),
    "repeat": lambda g, x: g.repeat(x.shape[0], 1, 1, 1),
    "repeat tuple": lambda g, x: g.repeat((len(x.shape) and x.shape[0], 1, 1, 1)),
    "tile": lambda g, x: g.tile((x.shape[0], 1, 1, 1)),
    "torch.tile": lambda g, x: torch.tile(g, (x.shape[0], 1, 1, 1)),
    "repeat_interleave": lambda g, x: g.repeat_interleave(x.shape[0], 0),
    "torch.repeat_interleave": lambda g, x: torch.repeat_interleave(g, x.shape[0], dim=0),
    "reshape": lambda g, x: g.expand(x.shape[0], -1, -1, -1).reshape(x.shape[0], 4, 8, 8),
    "sum with zeros": lambda g, x: g + torch.zeros(x.shape[0], 4, 8, 8),
    "new_zeros": lambda g, x: g + g.new_zeros(x.shape[0], 4, 8, 8),
    "new_zeros tuple": lambda g, x: g + g.new_zeros((x.shape[0], 4, 8, 8)),
    "new_ones": lambda g, x: g * g.new_ones((x.shape[0], 4, 8, 8)),
    "new_full": lambda g, x: g * g.new_full((x.shape[0], 4, 8, 8), 2.0),
    "of the images": lambda g, x: g * x.new_ones(x.shape[0], 1, 1, 1),
    "zeros_like": lambda g, x: g + torch.zeros_like(x),
}
PLACES = ("parameter", "buffer", "loose", "plain")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_a_constant_is_spread_over_any_number_of_images(form, place):
    torch.manual_seed(3)
    net = Spread(place, FORMS[form]).eval()
    original = copy.deepcopy(net)
    graph, _ = capture(net, SHAPE)
    for count in (1, 2, 5):
        batch = images(count, SHAPE)
        with torch.no_grad():
            expected, found = original(batch), graph(batch)
        assert found.shape == (count, 2)
        assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


class Tokens(nn.Module):
    """A class token, coordinates and zeros, each spread in another way; a transformer's head."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, 2)
        self.register_buffer("token", torch.randn(1, 1, 6))
        self.place = torch.randn(1, 17, 6)
        self.register_buffer("grid", torch.linspace(-1, 1, 8).view(1, 1, 8, 1), persistent=False)
        self.mix = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        count = x.shape[0]
        x = x + self.grid.repeat(count, 3, 1, 8) + self.grid.new_zeros(count, 3, 8, 8)
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(count, -1, -1), x], 1) + self.place.expand(
            x.shape[0], -1, -1
        )
        return self.fc(torch.relu(self.mix(x))[:, 0])


def test_what_is_spread_is_exported_for_any_number_of_images():
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    from eqnet.supernet.first_scales import calibrate

    torch.manual_seed(3)
    supernet = Supernet(Tokens().eval(), SHAPE)
    calibrate(supernet, [images(8, SHAPE)])
    target = Target.of(supernet.info, load_profile("onnxruntime_x86"))
    spec = target.default("0" * 64)
    supernet.apply(spec)
    net = extract(supernet, spec)
    model = ir.to_proto(to_onnx(net, SHAPE))
    run = ReferenceEvaluator(model)
    for count in (1, 3):
        batch = images(count, SHAPE)
        (found,) = run.run(None, {model.graph.input[0].name: batch.numpy()})
        with torch.no_grad():
            expected = net(batch)
        # One step of the last layer's input more or less, where a sum ends on a rounding tie.
        assert abs(found - expected.numpy()).max() <= 0.02 * expected.abs().max()
