"""What capture learned of a network: its layers and tensors, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerGroup = Literal["conv", "depthwise_conv", "conv_transpose", "linear"]
ReaderGroup = Literal["add", "concat", "pool", "mul", "activation", "other"]


@dataclass(frozen=True)
class LayerInfo:
    """A Conv, ConvTranspose or Linear: its weight tensor and its work for one image.

    activated: its output goes to a function that no integer kernel absorbs (Swish, sigmoid, ...).
    """

    name: str
    group: LayerGroup
    input: str
    weights: int
    out_channels: int
    macs: int
    batch_norm: str | None
    activated: bool = False


@dataclass(frozen=True)
class TensorInfo:
    """An activation tensor that may be quantized.

    elements: for one image. upper: a bound the producer keeps (6 for ReLU6), or None.
    layers: the Conv and Linear that read it. readers: the groups of its other readers.
    added_by_conv: it is a convolution's output that the convolution's own kernel can add to a sum.
    added_to_convs: the convolutions whose output it is added to, absorbed by them.
    float_read_conv: the convolution whose output it is, where an operation outside the groups
        reads it.
    made_by_convs: the convolutions whose outputs it consists of, where `layers` read it.
    shiftable: the layers around it, which are all that make or read it, can take an offset.
    """

    name: str
    elements: int
    non_negative: bool
    upper: float | None
    layers: tuple[str, ...]
    readers: tuple[ReaderGroup, ...]
    added_by_conv: bool
    added_to_convs: tuple[str, ...] = ()
    float_read_conv: str | None = None
    made_by_convs: tuple[str, ...] = ()
    shiftable: bool = False


@dataclass(frozen=True)
class NetworkInfo:
    """A captured network, in graph order."""

    input_shape: tuple[int, int, int]
    classes: int
    layers: tuple[LayerInfo, ...]
    tensors: tuple[TensorInfo, ...]

    def layer(self, name: str) -> LayerInfo:
        """The layer of that name. Raises KeyError."""
        return {item.name: item for item in self.layers}[name]

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of that name. Raises KeyError."""
        return {item.name: item for item in self.tensors}[name]

    def layer_names(self) -> list[str]:
        """Names of the layers, in graph order."""
        return [layer.name for layer in self.layers]

    def read_tensors(self) -> tuple[TensorInfo, ...]:
        """Tensors that some Conv or Linear reads: those with elastic bits."""
        return tuple(tensor for tensor in self.tensors if tensor.layers)
