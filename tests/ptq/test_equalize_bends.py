"""Outlying channels around functions that bend are multiplied by constants, exactly."""

import copy
from functools import cache

import pytest
import torch
from equalize_tools import float_and_quantized, signal_to_noise
from nets import SHAPE, images, randomize
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from eqnet.capture.channel_scale import CHANNEL_SCALES
from eqnet.ptq.equalize import equalize
from eqnet.spec.errors import CheckpointError
from eqnet.supernet.checkpoint import SUPERNET_FILE, Header, load_supernet, save_supernet
from eqnet.supernet.supernet import Supernet

FUNCTIONS = ("silu", "gelu", "hardswish", "mish", "softplus", "elu")
KINDS = (
    *FUNCTIONS,
    "silu_depthwise",
    "gelu_depthwise",
    "excited",
    "tokens",
    "divided",
    "twice",
    "floored",
)
TIED = ("twice", "floored")  # a square has the factor twice, rounding does not scale
CHANNELS = (1, 6)


class Bent(nn.Module):
    """`a` and its norm, a function that bends, and `b`, which reads it."""

    def __init__(self, kind):
        super().__init__()
        self.kind, depthwise = kind, kind.endswith("depthwise")
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=16 if depthwise else 1, bias=not depthwise)
        self.behind = nn.BatchNorm2d(16) if depthwise else nn.Identity()
        self.squeeze, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.token_norm, self.token = nn.LayerNorm(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        y = self.norm(self.a(torch.relu(self.stem(x))))
        name = self.kind.split("_")[0]
        if name == "tokens":
            y = self.token_norm(y.flatten(2).transpose(1, 2))
            return self.head(torch.relu(self.token(y)).mean(1))
        if name == "excited":
            y = functional.silu(y)
            gate = self.expand(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True))))
            y = y * torch.sigmoid(gate)
        elif name == "twice":
            y = y * y
        elif name == "divided":
            y = torch.relu(y / 3)
        elif name == "floored":
            y = torch.div(y, 0.01, rounding_mode="floor")
        else:
            y = getattr(functional, name)(y)
        return self.head(torch.relu(self.behind(self.b(y))).mean((2, 3)))


@torch.no_grad()
def network(kind, factor):
    """Two channels `factor` times as large, and read by weights as much smaller."""
    torch.manual_seed(0)
    net = Bent(kind)
    randomize(net, seed=3)
    for channel in CHANNELS:
        for norm in (net.norm, net.token_norm):
            norm.weight[channel] *= factor
            norm.bias[channel] *= factor
        if isinstance(net.behind, nn.BatchNorm2d):
            net.behind.running_mean[channel] *= factor
            net.behind.running_var[channel] *= factor**2
        else:
            net.b.weight[:, channel] /= factor
        net.squeeze.weight[:, channel] /= factor
        net.token.weight[:, channel] /= factor
    return net.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.0, 30.0, 300.0, 3000.0])
@torch.no_grad()
def test_every_bit_of_the_float_function_stays(kind, factor):
    supernet, x = Supernet(network(kind, factor), SHAPE), images(32)
    logits = supernet.graph(x)
    rescaled = equalize(supernet, [x])
    apart = (supernet.graph(x) - logits).abs().max() / logits.abs().max()
    assert float(apart) < 1e-5
    made = "token_norm" if kind == "tokens" else "norm"
    if factor == 1 or kind in TIED:
        assert made not in rescaled
    else:
        assert rescaled[made] == len(CHANNELS)
        assert equalize(supernet, [x]) == {}  # none is left


@cache
def without_outliers(kind):
    return signal_to_noise(*float_and_quantized(network(kind, 1.0), images(64), True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TIED])
@pytest.mark.parametrize("factor", [30.0, 3000.0])
def test_eight_bits_are_as_good_as_without_the_outliers(kind, factor):
    x, ordinary = images(64), without_outliers(kind)
    net = network(kind, factor)
    assert signal_to_noise(*float_and_quantized(net, x, True)) > ordinary - 4
    assert signal_to_noise(*float_and_quantized(net, x, False)) < ordinary - 8


@torch.no_grad()
def test_a_gate_is_not_rescaled_for_itself():
    """Sigmoids near 0 beside one near 1 are no outliers: what they gate is what is quantized."""
    net = network("excited", 1.0)
    net.expand.bias.fill_(-6)
    net.expand.bias[3] = 6
    supernet = Supernet(net, SHAPE)
    assert "sigmoid" not in equalize(supernet, [images(32)])


@torch.no_grad()
def test_the_multiplications_are_of_powers_of_two_and_stand_for_outliers_alone():
    supernet = Supernet(network("gelu", 300.0), SHAPE)
    equalize(supernet, [images(32)])
    scales = dict(supernet.graph.get_submodule(CHANNEL_SCALES).named_buffers())
    assert set(scales) == {"before_gelu.factors", "behind_gelu.factors"}
    for factors in scales.values():
        assert factors.shape == (16, 1, 1)
        assert bool((torch.frexp(factors)[0] == 0.5).all())
        assert [int(i) for i in (factors.flatten() != 1).nonzero()] == list(CHANNELS)
    copied = copy.deepcopy(supernet.graph)
    x = images(4)
    assert torch.equal(copied(x), supernet.graph(x))


def user_model():
    """A model of a user's own, for a checkpoint to build again."""
    return network("silu", 300.0)


@torch.no_grad()
def test_a_checkpoint_keeps_the_multiplications(tmp_path):
    header = Header(
        model=f"{__name__}:user_model",
        input_shape=SHAPE,
        classes=5,
        dataset="image_folder",
        method="post_training",
        seed=0,
    )
    supernet, x = Supernet(user_model(), SHAPE), images(8)
    plain = supernet.graph(x)
    equalize(supernet, [images(32)])
    # Behind the norm the logits alone would not tell whether they are there.
    assert torch.equal(supernet.graph(x), plain)
    save_supernet(tmp_path, supernet, header)
    loaded, _, _ = load_supernet(tmp_path, allow_code=True)
    state, other = supernet.graph.state_dict(), loaded.graph.state_dict()
    assert any(CHANNEL_SCALES in name for name in state)
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert torch.equal(loaded.graph(x), supernet.graph(x))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("before_nothing", (16, 1, 1)),
        ("behind_nothing", (16, 1, 1)),
        ("nothing", (16, 1, 1)),
        ("before_silu_gate", (15, 1, 1)),
        ("before_silu_gate", (1, 1, 16, 1, 1)),
        ("behind_input", (3, 1, 1)),
        ("before_input", (3, 1, 1)),
        ("before_output", (5,)),
    ],
)
def test_multiplications_that_fit_no_node_are_one_line(tmp_path, name, shape):
    header = Header(
        model=f"{__name__}:user_model",
        input_shape=SHAPE,
        classes=5,
        dataset="image_folder",
        method="post_training",
        seed=0,
    )
    save_supernet(tmp_path, Supernet(user_model(), SHAPE), header)
    tensors = load_file(tmp_path / SUPERNET_FILE)
    with safe_open(tmp_path / SUPERNET_FILE, framework="pt") as file:
        metadata = file.metadata()
    tensors[f"{CHANNEL_SCALES}.{name}.factors"] = torch.ones(shape)
    save_file(tensors, tmp_path / SUPERNET_FILE, metadata=metadata)
    with pytest.raises(CheckpointError, match="has the unknown tensor 'channel_scales"):
        load_supernet(tmp_path, allow_code=True)
