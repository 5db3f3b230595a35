"""The operators of PyTorch that capture knows, one row each.

A row says how models spell an operator and what follows for quantization. All that reads a
captured graph asks here (`operator_of`), so a new operator is a new row. What is in no row is
`OTHER`: it stays in float, and nothing is assumed of its values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch
from torch import fx, nn

from eqnet.capture.channel_scale import ChannelScale
from eqnet.capture.intervals import (
    POSITIVE,
    UNIT,
    Rule,
    absolute,
    added,
    always,
    anything,
    bent,
    clipped,
    divided,
    kept,
    multiplied,
    padded,
    power,
    rectified,
    resized,
    subtracted,
    total,
)
from eqnet.quant.layers import (
    ElasticConv2d,
    ElasticConvTranspose2d,
    ElasticLayer,
    ElasticLinear,
    PaddedConv2d,
)
from eqnet.spec.network import ReaderGroup

LIBRARIES = {"torch", "_operator", "math", "builtins"}


class Channels(Enum):
    """What becomes of a positive factor that multiplies one channel of the input."""

    UNKNOWN = auto()  # nothing can be said, or channels are mixed
    SCALED = auto()  # the output's channel has it
    POOLED = auto()  # the same, on a map of another size
    RESHAPED = auto()  # the same, in another shape
    AVERAGED = auto()  # the same, without some axes
    MULTIPLIED = auto()  # the same, if the other operand has none
    DIVIDED = auto()  # the same of the first operand; the second's is inverted
    BENT = auto()  # it bends values, and passes large ones on
    BOUNDED = auto()  # it bends values, and what is large before it does not matter after it


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    functions: names of the functions and methods that are it, separated by spaces; the form that
        works in place, with `_` at the end, needs none of its own.
    modules: the module types that are it. arguments: names of the positional arguments.
    layer: for a layer, what stands for it in a supernet.
    group: whose carriers it takes when it reads a quantized tensor.
    moves: its output has values of its input alone, so one quantizer serves both.
    folds: a quantizer that follows takes it over, as it does ReLU and clips.
    affine: with a constant for its other operand a convolution takes it over.
    bounds: which values it gives. channels: whether a channel can be rescaled across it.
    """

    name: str
    functions: str = ""
    modules: tuple[type[nn.Module], ...] = ()
    arguments: tuple[str, ...] = ("input",)
    layer: type[ElasticLayer] | None = None
    group: ReaderGroup = "other"
    moves: bool = False
    folds: bool = False
    affine: bool = False
    bounds: Rule = field(default=anything)
    channels: Channels = Channels.UNKNOWN


OTHER = Operator("other")

# Layers and their norms.
CONV = Operator(
    "conv",
    "conv2d",
    (nn.Conv2d, PaddedConv2d),
    ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    layer=ElasticConv2d,
)
CONV_TRANSPOSE = Operator(
    "conv_transpose",
    "conv_transpose2d",
    (nn.ConvTranspose2d,),
    ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    layer=ElasticConvTranspose2d,
)
LINEAR = Operator(
    "linear", "linear", (nn.Linear,), ("input", "weight", "bias"), layer=ElasticLinear
)
MATMUL = Operator("matmul", "matmul mm", arguments=("input", "other"))
ADDMM = Operator("addmm", "addmm", arguments=("bias", "input", "other"))
NORM_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training")
BATCH_NORM = Operator(
    "batch_norm",
    "batch_norm",
    (nn.BatchNorm2d, nn.BatchNorm1d),
    (*NORM_ARGUMENTS, "momentum", "eps"),
)
LAYER_NORM = Operator("layer_norm", "layer_norm", (nn.LayerNorm,), group="activation")
GROUP_NORM = Operator("group_norm", "group_norm", (nn.GroupNorm,), group="activation")
LAYER_ROWS = (CONV, CONV_TRANSPOSE, LINEAR)
NORMS = (BATCH_NORM, LAYER_NORM, GROUP_NORM)

# What a quantizer that follows takes over.
RELU = Operator("relu", "relu", (nn.ReLU,), folds=True, bounds=rectified, channels=Channels.SCALED)
RELU6 = Operator("relu6", "relu6", (nn.ReLU6,), folds=True, bounds=always(0.0, 6.0))
HARDTANH = Operator(
    "hardtanh",
    "hardtanh",
    (nn.Hardtanh,),
    ("input", "min_val", "max_val"),
    folds=True,
    bounds=clipped("min_val", "max_val", (-1.0, 1.0)),
)
CLAMP = Operator(
    "clamp", "clamp clip", (), ("input", "min", "max"), folds=True, bounds=clipped("min", "max")
)
CLAMP_MIN = Operator(
    "clamp_min", "clamp_min", (), ("input", "min"), folds=True, bounds=clipped("min", "max")
)
CLAMP_MAX = Operator(
    "clamp_max", "clamp_max", (), ("input", "max"), folds=True, bounds=clipped("min", "max")
)
FOLDED = (RELU, RELU6, HARDTANH, CLAMP, CLAMP_MIN, CLAMP_MAX)

# Functions of each value alone that no quantizer takes over.
SILU = Operator(
    "silu", "silu", (nn.SiLU,), group="activation", bounds=bent(-0.2785), channels=Channels.BENT
)
PRELU = Operator("prelu", "prelu", (nn.PReLU,), group="activation", channels=Channels.SCALED)


def _bends(name: str, module: type[nn.Module], bounds: Rule = anything) -> Operator:
    return Operator(
        name, name, (module,), group="activation", bounds=bounds, channels=Channels.BENT
    )


def _saturates(name: str, module: type[nn.Module], low: float, high: float) -> Operator:
    return Operator(
        name,
        name,
        (module,),
        group="activation",
        bounds=always(low, high),
        channels=Channels.BOUNDED,
    )


ACTIVATIONS = (
    SILU,
    PRELU,
    Operator(
        "leaky_relu", "leaky_relu", (nn.LeakyReLU,), group="activation", channels=Channels.SCALED
    ),
    _bends("gelu", nn.GELU, bent(-0.1701)),
    _bends("hardswish", nn.Hardswish, bent(-0.375)),
    _bends("mish", nn.Mish, bent(-0.3089)),
    _bends("softplus", nn.Softplus, always(*POSITIVE)),
    _bends("elu", nn.ELU),
    _bends("selu", nn.SELU),
    _bends("celu", nn.CELU),
    _saturates("sigmoid", nn.Sigmoid, *UNIT),
    _saturates("hardsigmoid", nn.Hardsigmoid, *UNIT),
    _saturates("tanh", nn.Tanh, -1.0, 1.0),
    # Read by no integer kernel: their inputs have no quantizer from them.
    Operator("softmax", "softmax", (nn.Softmax, nn.Softmax2d), bounds=always(*UNIT)),
    Operator("positive", "exp square sqrt rsqrt norm var std", bounds=always(*POSITIVE)),
    Operator("absolute", "abs absolute", bounds=absolute),
    Operator("power", "pow", (), ("input", "exponent"), bounds=power),
)

# Arithmetic of two tensors.
ADD = Operator("add", "add radd", (), ("input", "other"), group="add", affine=True, bounds=added)
SUB = Operator("sub", "sub", (), ("input", "other"), affine=True, bounds=subtracted)
MUL = Operator(
    "mul",
    "mul",
    (),
    ("input", "other"),
    group="mul",
    affine=True,
    bounds=multiplied,
    channels=Channels.MULTIPLIED,
)
DIV = Operator(
    "div",
    "div truediv true_divide",
    (),
    ("input", "other"),
    affine=True,
    bounds=divided,
    channels=Channels.DIVIDED,
)
CONCAT = Operator("concat", "cat concat", (), ("input", "dim"), group="concat", bounds=kept)
ARITHMETIC = (
    ADD,
    SUB,
    MUL,
    DIV,
    CONCAT,
    Operator("extremes", "maximum minimum", (), ("input", "other"), bounds=kept),
    Operator("channel_scale", modules=(ChannelScale,), bounds=anything, channels=Channels.SCALED),
)

# Pools and reductions.
MAX_POOL = Operator(
    "max_pool",
    "max_pool2d boolean_dispatch",
    (nn.MaxPool2d,),
    group="pool",
    moves=True,
    bounds=kept,
    channels=Channels.POOLED,
)
ADAPTIVE_MAX_POOL = Operator(
    "adaptive_max_pool",
    "adaptive_max_pool2d",
    (nn.AdaptiveMaxPool2d,),
    ("input", "output_size", "return_indices"),
    bounds=kept,
)
MAXIMUM = Operator("amax", "amax", (), ("input", "dim", "keepdim"), bounds=kept)
MEAN = Operator(
    "mean",
    "mean",
    (),
    ("input", "dim", "keepdim"),
    group="pool",
    bounds=kept,
    channels=Channels.AVERAGED,
)
POOLS = (
    MAX_POOL,
    ADAPTIVE_MAX_POOL,
    MAXIMUM,
    MEAN,
    Operator(
        "average_pool",
        "avg_pool2d adaptive_avg_pool2d",
        (nn.AvgPool2d, nn.AdaptiveAvgPool2d),
        group="pool",
        bounds=kept,
        channels=Channels.POOLED,
    ),
    Operator("amin", "amin", (), ("input", "dim", "keepdim"), bounds=kept),
    Operator("sum", "sum", (), ("input", "dim", "keepdim"), bounds=total),
)

# What moves, repeats or chooses values.
PAD = Operator("pad", "pad", (nn.ConstantPad2d,), ("input", "pad", "mode", "value"), bounds=padded)
DROPOUT = Operator(
    "dropout",
    "dropout",
    (nn.Dropout, nn.Dropout2d),
    moves=True,
    bounds=kept,
    channels=Channels.SCALED,
)
MOVERS = (
    PAD,
    DROPOUT,
    Operator(
        "reshape",
        "flatten reshape view squeeze",
        (nn.Flatten,),
        moves=True,
        bounds=kept,
        channels=Channels.RESHAPED,
    ),
    Operator("unsqueeze", "unsqueeze", bounds=kept, channels=Channels.RESHAPED),
    Operator("reshape_like", "reshape_as view_as unflatten", (nn.Unflatten,), bounds=kept),
    Operator(
        "identity",
        "contiguous",
        (nn.Identity,),
        moves=True,
        bounds=kept,
        channels=Channels.SCALED,
    ),
    Operator("transpose", "transpose permute t movedim swapaxes roll flip", bounds=kept),
    Operator(
        "shuffle",
        "pixel_shuffle pixel_unshuffle channel_shuffle",
        (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
        bounds=kept,
    ),
    Operator(
        "part",
        "chunk split split_with_sizes tensor_split getitem narrow select unbind index_select",
        bounds=kept,
    ),
    Operator("repeat", "stack expand expand_as repeat repeat_interleave", bounds=kept),
    Operator("cast", "to float type_as clone detach", bounds=kept),
    Operator(
        "resize",
        "interpolate",
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        ("input", "size", "scale_factor", "mode"),
        bounds=resized,
    ),
)

# What tells of a tensor, not of its values.
SIZE = Operator("size", "size dim")

OPERATORS = (
    *LAYER_ROWS,
    MATMUL,
    ADDMM,
    *NORMS,
    *FOLDED,
    *ACTIVATIONS,
    *ARITHMETIC,
    *POOLS,
    *MOVERS,
    SIZE,
)
# Functions whose arguments come in another order than their row's.
OTHER_ORDERS: dict[Any, tuple[str, ...]] = {
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training"),
}
# What callers may call an argument too.
OTHER_NAMES = {"mat2": "other", "axis": "dim", "keepdims": "keepdim"}
BY_FUNCTION = {name: row for row in OPERATORS for name in row.functions.split()}
BY_MODULE = {module: row for row in OPERATORS for module in row.modules}


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def function_of(node: fx.Node) -> str | None:
    """The plain name of the function or method that a node calls, or None.

    A function of the model's own, whose name says nothing, has none.
    """
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function" and not _is_users(node):
        name = str(getattr(node.target, "__name__", node.target))
    else:
        return None
    return name.rstrip("_") or name


def _is_users(node: fx.Node) -> bool:
    home = getattr(node.target, "__module__", None) or "torch"
    return home.split(".")[0] not in LIBRARIES


def operator_of(graph: fx.GraphModule, node: fx.Node) -> Operator:
    """The row of what a node computes, `OTHER` where there is none."""
    module = module_of(graph, node)
    if module is None:
        return BY_FUNCTION.get(function_of(node) or "", OTHER)
    for kind in type(module).__mro__:
        if kind in BY_MODULE:
            return BY_MODULE[kind]
    return OTHER


def arguments_of(operator: Operator, node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names in its row; a node's stays a node."""
    names = OTHER_ORDERS.get(node.target, operator.arguments)
    named = {OTHER_NAMES.get(name, name): value for name, value in node.kwargs.items()}
    return dict(zip(names, node.args, strict=False)) | named


def source_of(node: fx.Node) -> fx.Node | None:
    """The node that a call takes as its first positional argument, or None."""
    if node.args and isinstance(node.args[0], fx.Node):
        return node.args[0]
    return None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor for one image, or () for what is no tensor."""
    meta = node.meta.get("tensor_meta")
    if meta is None or not hasattr(meta, "shape"):
        return ()
    return tuple(meta.shape)


def elements_of(node: fx.Node) -> int:
    """Elements of a node's tensor for one image."""
    return int(torch.Size(shape_of(node)).numel())
