"""Capture: a float classifier becomes a graph with an elastic quantizer at every tensor.

The float function is unchanged until a subnet is applied. Batch norms stay in the graph, with
every gamma made non-negative, so that they can later be absorbed without touching an integer.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from eqnet.quant.layers import ElasticConv2d, ElasticLinear
from eqnet.quant.quantizers import ActivationQuantizer
from eqnet.spec.errors import CaptureError
from eqnet.supernet.info import LayerInfo, NetworkInfo, ReaderGroup, TensorInfo
from eqnet.supernet.refusals import refuse_reserved_name, refuse_shared_layers, refuse_shared_norms
from eqnet.supernet.signs import bounds, function_of, module_of

QUANTIZERS = "quantizers"
_EMPTY = nn.ModuleDict()  # its attributes are names that no entry of one can have
LAYERS = (nn.Conv2d, nn.Linear)
MOVER_MODULES = (nn.MaxPool2d, nn.Flatten, nn.Dropout, nn.Identity)
MOVER_FUNCTIONS = {
    "flatten", "reshape", "view", "max_pool2d", "dropout", "contiguous", "squeeze",
    "boolean_dispatch",
}  # fmt: skip
POOL_MODULES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
POOL_FUNCTIONS = {"avg_pool2d", "adaptive_avg_pool2d", "mean"}
GROUP_FUNCTIONS: dict[str, ReaderGroup] = {
    "add": "add", "iadd": "add", "add_": "add",
    "mul": "mul", "imul": "mul", "mul_": "mul",
    "cat": "concat", "concat": "concat",
}  # fmt: skip


def capture(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[fx.GraphModule, NetworkInfo]:
    """Trace `model` and insert elastic layers and quantizers, all switched off.

    model: a float classifier from [N, C, H, W] to [N, K]; its parameters are taken over.
    input_shape: (C, H, W). Returns the graph and what is known of it.
    Raises CaptureError naming the operation and the line when the model cannot be traced.
    """
    graph = _trace(model.eval())
    refuse_reserved_name(graph, QUANTIZERS)
    _propagate_shapes(graph, input_shape)
    refuse_shared_layers(graph, LAYERS)
    norms = _batch_norms(graph)
    refuse_shared_norms(graph, set(norms.values()))
    for conv, norm in norms.items():
        _make_gamma_non_negative(graph.get_submodule(conv), graph.get_submodule(norm))
    tensors = _tensor_nodes(graph)
    info = _describe(graph, tensors, norms, input_shape)
    _insert_layers(graph)
    _insert_quantizers(graph, tensors, info)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph, info


def _trace(model: nn.Module) -> fx.GraphModule:
    tracer = fx.Tracer(param_shapes_constant=True)
    try:
        return fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # a model's own code may fail with anything
        raise CaptureError(
            f"cannot capture {type(model).__name__}: {_where(error)}: {_first_line(error)} "
            "(allowed: models that torch.fx can trace, without data-dependent control flow)"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _where(error: BaseException) -> str:
    """The innermost source line outside torch that raised `error`."""
    place = "unknown line"
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/torch/" not in file and "/eqnet/supernet/" not in file:
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _propagate_shapes(graph: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise CaptureError(f"the model has {len(inputs)} inputs (allowed: one image tensor)")
    try:
        with torch.no_grad():
            ShapeProp(graph).propagate(torch.zeros(1, *input_shape))
    except Exception as error:
        raise CaptureError(
            f"the model does not accept an input of shape {list(input_shape)}: {_first_line(error)}"
        ) from error
    output = next(node for node in graph.graph.nodes if node.op == "output")
    if not isinstance(output.args[0], fx.Node) or len(_shape(output.args[0])) != 2:
        raise CaptureError("the model's output is not one tensor of logits [N, classes]")


def _shape(node: fx.Node) -> tuple[int, ...]:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else ()


def _elements(node: fx.Node) -> int:
    return int(torch.Size(_shape(node)[1:]).numel())


def _layer_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if isinstance(module_of(graph, node), LAYERS)]


def _batch_norms(graph: fx.GraphModule) -> dict[str, str]:
    """Convolution name -> name of the batch norm that is its only reader."""
    pairs = {}
    for node in _layer_nodes(graph):
        users = list(node.users)
        if len(users) == 1 and isinstance(
            module_of(graph, users[0]), (nn.BatchNorm2d, nn.BatchNorm1d)
        ):
            pairs[str(node.target)] = str(users[0].target)
    return pairs


@torch.no_grad()
def _make_gamma_non_negative(layer: nn.Module, norm: nn.Module) -> None:
    """Flip channels with a negative gamma: weight, own bias and running mean change sign."""
    assert isinstance(layer, LAYERS)
    assert isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm1d))
    if norm.weight is None or norm.running_mean is None:
        return
    sign = torch.where(norm.weight < 0, -1.0, 1.0)
    layer.weight.mul_(sign.view(-1, *(1,) * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.mul_(sign)
    norm.running_mean.mul_(sign)
    norm.weight.mul_(sign)


def _is_mover(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only moves values, so that its output is the same quantized tensor."""
    module = module_of(graph, node)
    return isinstance(module, MOVER_MODULES) or function_of(node) in MOVER_FUNCTIONS


def _group(graph: fx.GraphModule, node: fx.Node) -> ReaderGroup | None:
    """The carrier group of a reader; None for Conv and Linear."""
    module = module_of(graph, node)
    if isinstance(module, LAYERS):
        return None
    if isinstance(module, (*POOL_MODULES, nn.MaxPool2d)) or function_of(node) in POOL_FUNCTIONS:
        return "pool"
    group = GROUP_FUNCTIONS.get(function_of(node) or "", "other")
    # A sum or product with a constant is no meeting of two tensors.
    return "other" if group in ("add", "mul") and len(node.all_input_nodes) < 2 else group


def _tensor_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """Values that get a quantizer: what Conv, Linear, sums, pools, concats and products read.

    A value that has a data mover as its only reader is followed to the mover's output, so that
    one quantizer serves both (max pooling and reshaping keep values on their grid).
    """
    nodes = []
    for node in graph.graph.nodes:
        if node.op == "output" or not _shape(node):
            continue
        if len(node.users) == 1 and _is_mover(graph, next(iter(node.users))):
            continue
        groups = {_group(graph, user) for user in node.users if user.op != "output"}
        if groups - {"other"}:
            nodes.append(node)
    return nodes


def _absorbed(graph: fx.GraphModule) -> set[fx.Node]:
    """For each sum, the one operand that a convolution can add to as it finishes."""
    chosen: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if _group(graph, node) != "add":
            continue
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
        for operand in operands:
            if len(operand.users) == 1 and _from_layer(graph, operand):
                chosen.add(operand)
                break
    return chosen


def _from_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    if isinstance(module_of(graph, node), (nn.BatchNorm2d, nn.BatchNorm1d)):
        source = node.args[0]
        return isinstance(source, fx.Node) and _from_layer(graph, source)
    return isinstance(module_of(graph, node), nn.Conv2d)


def _name(node: fx.Node) -> str:
    """A node's name as a tensor; one that nn.ModuleDict could not hold (`to`) ends in `_`."""
    if node.op == "placeholder":
        return "input"
    name = node.name
    while hasattr(_EMPTY, name):
        name += "_"
        while any(name == other.name for other in node.graph.nodes):
            name += "_"
    return name


def _describe(
    graph: fx.GraphModule,
    tensors: list[fx.Node],
    norms: dict[str, str],
    input_shape: tuple[int, int, int],
) -> NetworkInfo:
    limits = bounds(graph)
    absorbed = _absorbed(graph)
    layers = tuple(_layer(graph, node, norms) for node in _layer_nodes(graph))
    described = []
    for node in tensors:
        low, high = limits[node]
        users = [user for user in node.users if user.op != "output"]
        groups = {group for user in users if (group := _group(graph, user)) is not None}
        described.append(
            TensorInfo(
                name=_name(node),
                elements=_elements(node),
                non_negative=low >= 0,
                upper=high if low >= 0 and high < float("inf") else None,
                layers=tuple(str(u.target) for u in users if _group(graph, u) is None),
                readers=tuple(sorted(groups)),
                absorbed=node in absorbed,
            )
        )
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return NetworkInfo(input_shape, _shape(output.args[0])[1], layers, tuple(described))


def _layer(graph: fx.GraphModule, node: fx.Node, norms: dict[str, str]) -> LayerInfo:
    module = module_of(graph, node)
    assert isinstance(module, LAYERS)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if isinstance(module, nn.Linear):
        group, channels, positions = "linear", module.out_features, _elements(node)
    else:
        depthwise = module.groups == module.in_channels and module.groups > 1
        group = "depthwise_conv" if depthwise else "conv"
        channels, positions = module.out_channels, _elements(node)
    return LayerInfo(
        name=str(node.target),
        group=group,  # type: ignore[arg-type]  # narrowed by the caller
        input=_name(source),
        weights=module.weight.numel(),
        out_channels=channels,
        macs=positions * module.weight[0].numel(),
        batch_norm=norms.get(str(node.target)),
    )


def _insert_layers(graph: fx.GraphModule) -> None:
    for node in _layer_nodes(graph):
        module = module_of(graph, node)
        elastic = (
            ElasticConv2d.from_float(module)
            if isinstance(module, nn.Conv2d)
            else ElasticLinear.from_float(module)  # type: ignore[arg-type]  # narrowed by the caller
        )
        graph.set_submodule(str(node.target), elastic)


def _insert_quantizers(graph: fx.GraphModule, nodes: list[fx.Node], info: NetworkInfo) -> None:
    graph.add_module(QUANTIZERS, nn.ModuleDict())
    for node in nodes:
        tensor = info.tensor(_name(node))
        quantizer = ActivationQuantizer(tensor.non_negative, tensor.upper)
        graph.get_submodule(QUANTIZERS)[tensor.name] = quantizer  # type: ignore[operator]  # narrowed by the caller
        readers = list(node.users)
        with graph.graph.inserting_after(node):
            pair = graph.graph.call_module(f"{QUANTIZERS}.{tensor.name}", (node,))
        with graph.graph.inserting_after(pair):
            narrow = graph.graph.call_function(operator.getitem, (pair, 1))
            carrier = graph.graph.call_function(operator.getitem, (pair, 0))
        for reader in readers:
            is_layer = isinstance(module_of(graph, reader), LAYERS)
            reader.replace_input_with(node, narrow if is_layer else carrier)


def check_same_function(model: nn.Module, graph: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits of the original and of the captured float model."""
    with torch.no_grad():
        return float((model.eval()(images) - graph.eval()(images)).abs().max())
