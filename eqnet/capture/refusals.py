"""What capture refuses, each in one line: a form of model that is no image classifier."""

from __future__ import annotations

from torch import fx

from eqnet.capture.operators import shape_of
from eqnet.capture.tracer import LINE
from eqnet.spec.errors import CaptureError


def refuse_reserved_name(graph: fx.GraphModule, name: str) -> None:
    """The model uses no attribute of the name that the quantizers get. Raises CaptureError."""
    if hasattr(graph, name):
        raise CaptureError(f"the model has an attribute '{name}' (allowed: any other name)")


def refuse_other_inputs(graph: fx.GraphModule) -> None:
    """The model reads one tensor. Raises CaptureError."""
    count = sum(node.op == "placeholder" for node in graph.graph.nodes)
    if count != 1:
        raise CaptureError(f"the model has {count} inputs (allowed: one image tensor)")


def refuse_other_outputs(graph: fx.GraphModule) -> None:
    """The model returns one tensor of logits. Raises CaptureError."""
    logits = graph.graph.output_node().args[0]
    if not isinstance(logits, fx.Node) or len(shape_of(logits)) != 2:
        raise CaptureError("the model's output is not one tensor of logits [N, classes]")


def refuse_no_layers(layers: list[fx.Node]) -> None:
    """The model has something to quantize. Raises CaptureError."""
    if not layers:
        raise CaptureError("the model has no nn.Conv2d or nn.Linear to quantize")


def refuse_complex(graph: fx.GraphModule) -> None:
    """No value is complex: no target computes with such. Raises CaptureError."""
    for node in graph.graph.nodes:
        kind = getattr(node.meta.get("tensor_meta"), "dtype", None)
        if kind is not None and kind.is_complex:
            raise CaptureError(
                f"{node.meta.get(LINE, 'unknown line')}: operation '{node.name}' gives complex "
                "numbers (allowed: real ones)"
            )
