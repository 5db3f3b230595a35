"""The table of operators: each spelling in one row, bounds that hold, a new operator one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from eqnet.capture import operators
from eqnet.capture.bounds import bounds
from eqnet.capture.capture import capture
from eqnet.capture.operators import OPERATORS, Operator
from eqnet.capture.trace import trace
from eqnet.spec.network import NetworkInfo

SHAPE = (3, 8, 8)
# How to make a module that has no default, and how to call a function that needs more than x.
MODULES: dict[type[nn.Module], Callable[[], nn.Module]] = {
    nn.MaxPool2d: lambda: nn.MaxPool2d(2),
    nn.AvgPool2d: lambda: nn.AvgPool2d(2),
    nn.AdaptiveAvgPool2d: lambda: nn.AdaptiveAvgPool2d(2),
    nn.AdaptiveMaxPool2d: lambda: nn.AdaptiveMaxPool2d(2),
    nn.Softmax: lambda: nn.Softmax(1),
    nn.LayerNorm: lambda: nn.LayerNorm(8),
    nn.GroupNorm: lambda: nn.GroupNorm(2, 4),
    nn.PReLU: lambda: nn.PReLU(4),
    nn.ConstantPad2d: lambda: nn.ConstantPad2d(1, -0.5),
    nn.PixelShuffle: lambda: nn.PixelShuffle(2),
    nn.PixelUnshuffle: lambda: nn.PixelUnshuffle(2),
    nn.ChannelShuffle: lambda: nn.ChannelShuffle(2),
    nn.Unflatten: lambda: nn.Unflatten(1, (2, 2)),
    nn.Upsample: lambda: nn.Upsample(scale_factor=2),
    nn.UpsamplingNearest2d: lambda: nn.UpsamplingNearest2d(scale_factor=2),
    nn.UpsamplingBilinear2d: lambda: nn.UpsamplingBilinear2d(scale_factor=2),
}
# torch takes them, though its types do not say so.
NUMPY_NAMES: dict[str, Any] = {"axis": (2, 3), "keepdims": True}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, 2),
    "softmax": lambda x: functional.softmax(x, 1),
    "layer_norm": lambda x: functional.layer_norm(x, (8,)),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "pad": lambda x: functional.pad(x, (1, 1, 1, 1), value=-0.5),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=2),
    "clamp": lambda x: x.clamp(-0.25, 0.75),
    "clip": lambda x: torch.clip(x, max=0.5),
    "clamp_min": lambda x: x.clamp_min(-0.5),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "hardtanh": lambda x: functional.hardtanh(x, -0.5, 0.25),
    "pow": lambda x: x**2,
    "add": lambda x: x + 0.5,
    "sub": lambda x: 0.25 - x,
    "mul": lambda x: x * x.sigmoid(),
    "div": lambda x: x.relu() / 2,
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "maximum": lambda x: torch.maximum(x, -x),
    "mean": lambda x: x.mean(**NUMPY_NAMES),
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "sum": lambda x: x.relu().sum((2, 3), keepdim=True),
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "var": lambda x: x.var(1, keepdim=True),
    "std": lambda x: x.std(1, keepdim=True),
    "roll": lambda x: x.roll(1, 2),
    "chunk": lambda x: x.chunk(2, 1)[1],
}
ALONE = ("exp", "square", "abs", "sigmoid", "tanh", "relu")


class Behind(nn.Module):
    """One operation behind a convolution, and a sum over what it gives for the logits."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.operation = operation
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.conv(x)).flatten(1))


def _operations() -> list[Any]:
    """Every module and function of the table that takes one tensor."""
    found = []
    for row in OPERATORS:
        if row.layer is not None or row.name in ("batch_norm", "channel_scale"):
            continue
        for module in row.modules:
            make = MODULES.get(module, module)
            found.append(pytest.param(make(), id=module.__name__))
        for name in row.functions.split():
            call = FUNCTIONS.get(name)
            if call is None and name in ALONE:
                call = getattr(torch, name)
            elif call is None and row.channels in BENDING and hasattr(functional, name):
                call = getattr(functional, name)
            if call is not None:
                found.append(pytest.param(call, id=name))
    return found


BENDING = (operators.Channels.BENT, operators.Channels.BOUNDED)


def test_each_spelling_is_in_one_row() -> None:
    functions = Counter(name for row in OPERATORS for name in row.functions.split())
    modules = Counter(module for row in OPERATORS for module in row.modules)
    assert [name for name, count in (functions + modules).items() if count > 1] == []


@pytest.mark.parametrize("operation", _operations())
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
def test_the_bounds_hold(operation: Callable[[Tensor], Tensor], offset: float) -> None:
    torch.manual_seed(0)
    net = Behind(operation).eval()
    net(torch.zeros(1, *SHAPE))
    nn.init.constant_(net.conv.bias, offset)  # type: ignore[arg-type]  # it has a bias
    graph = trace(net, SHAPE)
    values: dict[str, Tensor] = {}

    class Kept(ShapeProp):
        def run_node(self, n: Any) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Kept(graph).propagate(3 * torch.randn(8, *SHAPE))
    for node, (low, high) in bounds(graph).items():
        value = values[node.name]
        if isinstance(value, Tensor):
            assert low <= float(value.min()), node.name
            assert float(value.max()) <= high, node.name


PAIRS = [
    ("relu", nn.ReLU(), functional.relu),
    ("relu6", nn.ReLU6(), functional.relu6),
    ("hardtanh", nn.Hardtanh(0.0, 6.0), lambda x: functional.hardtanh(x, 0.0, 6.0)),
    ("clamp", nn.Hardtanh(0.0, 6.0), lambda x: x.clamp(0.0, 6.0)),
    ("clip", nn.ReLU6(), lambda x: torch.clip(x, 0.0, 6.0)),
    ("max_pool", nn.MaxPool2d(2), lambda x: functional.max_pool2d(x, 2)),
    ("avg_pool", nn.AvgPool2d(2), lambda x: functional.avg_pool2d(x, 2)),
    ("gelu", nn.GELU(), functional.gelu),
    ("silu", nn.SiLU(), functional.silu),
    ("hardswish", nn.Hardswish(), functional.hardswish),
    ("sigmoid", nn.Sigmoid(), torch.sigmoid),
    ("tanh", nn.Tanh(), lambda x: x.tanh()),
    ("softplus", nn.Softplus(), functional.softplus),
    ("leaky_relu", nn.LeakyReLU(), functional.leaky_relu),
    ("elu", nn.ELU(), functional.elu),
]


class Joined(nn.Module):
    """An operation between convolutions whose value a sum, a pool and a float operation read."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.operation = operation
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        value = self.operation(self.first(x))
        floats = torch.sin(self.operation(self.second(value)))  # outside of the table
        return self.head(floats.mean((2, 3)) + value.mean((2, 3)))


def _facts(info: NetworkInfo) -> list[Any]:
    facts = [
        (
            tensor.non_negative,
            tensor.upper,
            tensor.layers,
            tensor.readers,
            tensor.added_by_conv,
            tensor.float_read_conv,
            tensor.made_by_convs,
        )
        for tensor in info.tensors
    ]
    return [facts, [(layer.name, layer.activated) for layer in info.layers]]


@pytest.mark.parametrize(("name", "module", "function"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_a_function_is_what_its_module_is(
    name: str, module: nn.Module, function: Callable[[Tensor], Tensor]
) -> None:
    _, by_module = capture(Joined(module), SHAPE)
    _, by_function = capture(Joined(function), SHAPE)
    assert _facts(by_module) == _facts(by_function)


def test_a_new_operator_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = capture(Joined(functional.softshrink), SHAPE)
    assert all(not layer.activated for layer in before.layers)
    row = Operator("softshrink", "softshrink", (nn.Softshrink,), group="activation")
    monkeypatch.setitem(operators.BY_FUNCTION, "softshrink", row)
    monkeypatch.setitem(operators.BY_MODULE, nn.Softshrink, row)
    _, after = capture(Joined(functional.softshrink), SHAPE)
    assert [layer.name for layer in after.layers if layer.activated] == ["first", "second"]
    assert _facts(after) == _facts(capture(Joined(nn.Softshrink()), SHAPE)[1])


def test_a_function_of_the_models_own_is_none_of_these_names() -> None:
    def relu(x: Tensor) -> Tensor:
        return x - 1

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    own, known = graph.call_function(relu, (x,)), graph.call_function(torch.relu, (x,))
    graph.output(own)
    module = torch.fx.GraphModule(nn.Module(), graph)
    assert operators.operator_of(module, own) is operators.OTHER
    assert operators.operator_of(module, known) is operators.RELU


def test_a_convolution_before_any_clip_that_floats_read_ends_on_a_quantizer() -> None:
    for clip in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0.0, 6.0), lambda x: x.clamp(0.0, 6.0)):
        _, info = capture(Joined(clip), SHAPE)
        assert "second" in [tensor.float_read_conv for tensor in info.tensors]
