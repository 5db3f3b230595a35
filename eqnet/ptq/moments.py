"""Second moments of what each layer reads in the float network: what its rounding depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqnet.quant.layers import ElasticConv2d, ElasticConvTranspose2d, ElasticLayer
from eqnet.supernet.settling.image_weights import image_weights
from eqnet.supernet.supernet import Supernet

# Positions of one image that a convolution's windows are taken at, spread over the map.
POSITIONS = 128
# Inputs of one output value, above which moments take too much memory (1 GiB at 16,384).
MAX_COLUMNS = 8192
# The share of the squared means that stays in: a mean's error is corrected after the layer, on
# images like these.
MEAN_SHARE = 0.05


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


class InputMoments(NamedTuple):
    """Of a layer with G groups that sees K values for each output value.

    moments: float32 [G, K, K], in the order of the weight's last axes.
    """

    moments: Tensor

    @classmethod
    def of(cls, products: Tensor, sums: Tensor, count: Tensor | float) -> InputMoments:
        """From summed outer products [G, K, K] and sums [G, K] of samples that count so much."""
        mean = sums / count
        outer = mean[:, :, None] * mean[:, None, :]
        return cls((products / count - (1 - MEAN_SHARE) * outer).float())


class _Sums:
    """Running sums of one layer's columns, float64."""

    def __init__(self) -> None:
        self.products: Tensor | float = 0.0
        self.sums: Tensor | float = 0.0
        self.count: Tensor | float = 0.0

    def add(self, columns: Tensor, weights: Tensor) -> None:
        """Take in [G, n, K] of images that count `weights` [N], n / N rows each."""
        rows = weights.repeat_interleave(columns.shape[1] // len(weights))
        # Sums of float32, on the scale of one image's, so that none underflows.
        unit = weights.mean()
        weighted = columns * (rows / unit).to(columns)[:, None]
        self.products = self.products + unit * (weighted.transpose(1, 2) @ columns).double()
        self.sums = self.sums + unit * weighted.sum(1).double()
        self.count = self.count + rows.sum()

    def finish(self) -> InputMoments:
        assert isinstance(self.products, Tensor)
        assert isinstance(self.sums, Tensor)
        return InputMoments.of(self.products, self.sums, self.count)


def can_be_reconstructed(layer: ElasticLayer) -> bool:
    """Whether a layer's rounding is fitted: no transposed convolutions, none of very many inputs.

    Those keep the nearest integers.
    """
    if isinstance(layer, ElasticConvTranspose2d):
        return False
    return layer.weight[0].numel() <= MAX_COLUMNS


@torch.no_grad()
def input_moments(supernet: Supernet, batches: Iterable[Tensor]) -> dict[str, InputMoments]:
    """Moments of each layer's input in the float network, by layer name; applies no subnet.

    batches: preprocessed images, float32 [N, C, H, W].
    """
    supernet.apply_float()
    supernet.graph.eval()
    sums: dict[str, _Sums] = {}
    handles = []
    for info in supernet.info.layers:
        layer = supernet.layer(info.name)
        if can_be_reconstructed(layer):
            sums[info.name] = _Sums()
            handles.append(layer.register_forward_hook(_hook(sums[info.name])))
    for batch in batches:
        supernet.graph(batch)
    for handle in handles:
        handle.remove()
    return {name: each.finish() for name, each in sums.items()}


def _hook(sums: _Sums) -> Hook:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, ElasticLayer)
        sums.add(columns(module, inputs[0]), image_weights(inputs[0]))

    return hook


def columns(layer: ElasticLayer, x: Tensor) -> Tensor:
    """What a layer multiplies its weight's rows with, [G, n, K], at `POSITIONS` of each image."""
    if not isinstance(layer, ElasticConv2d):
        return x.reshape(1, -1, x.shape[-1])
    if layer.pads is not None:
        x = functional.pad(x, layer.pads)
    parts = [_windows(layer, image) for image in x.split(1)]
    return torch.cat(parts, 1)


def _windows(layer: ElasticConv2d, image: Tensor) -> Tensor:
    """Windows of one image [1, C, H, W] as [G, n, K]."""
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        vertical, horizontal = layer.stride
        flat = image[:, :, ::vertical, ::horizontal].flatten(2)
    else:
        padding = layer.padding
        if isinstance(padding, str):  # 'same' and 'valid'
            both = layer._reversed_padding_repeated_twice
            image, padding = functional.pad(image, both), (0, 0)
        flat = functional.unfold(image, layer.kernel_size, layer.dilation, padding, layer.stride)
    # An odd stride does not lock onto the columns of maps of even width.
    stride = max(1, flat.shape[2] // POSITIONS) | 1
    chosen = flat[0, :, ::stride]
    return chosen.reshape(layer.groups, -1, chosen.shape[1]).transpose(1, 2)
