"""Which tensors can be moved by a constant: the layers around them take the offset.

A target without zero-points gives a tensor that is never negative only half of its integers.
Moved to the middle of its range the tensor fills all of them, where the layer that makes it and
all that read it add the offset to their biases.
"""

from __future__ import annotations

from torch import fx, nn

from eqnet.capture.operators import BATCH_NORM, DROPOUT, module_of, operator_of, shape_of
from eqnet.capture.readers import is_layer
from eqnet.quant.layers import PaddedConv2d

IMAGE_RANK, VECTOR_RANK = 4, 2


def is_shiftable(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer makes a value, with batch norm and ReLU, that only layers read unpadded."""
    readers = list(node.users)
    return bool(readers) and _is_made(graph, node) and all(_takes(graph, one) for one in readers)


def _is_made(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value is a layer's, over what the layer or the quantizer takes over."""
    while not is_layer(graph, node):
        operator = operator_of(graph, node)
        taken = operator in (BATCH_NORM, DROPOUT) or operator.folds
        if not taken or len(node.all_input_nodes) != 1:
            return False
        (node,) = node.all_input_nodes
        if len(node.users) > 1:
            return False
    return _has_own_bias(graph, node)


def _takes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a layer that reads every value alike: it pads nothing."""
    if not is_layer(graph, node) or not _has_own_bias(graph, node):
        return False
    module = module_of(graph, node)
    if isinstance(module, nn.Conv2d):
        plain = not isinstance(module, PaddedConv2d)
        return plain and module.padding in ((0, 0), 0, "valid")
    return True


def _has_own_bias(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer's bias is its own in ONNX: of a linear layer over tokens it is a sum."""
    module = module_of(graph, node)
    if isinstance(module, nn.Linear):
        return len(shape_of(node)) == VECTOR_RANK
    return isinstance(module, nn.Conv2d) and len(shape_of(node)) == IMAGE_RANK
