"""Cross-layer equalization of outlying channels: the same float function, in better ranges.

A tensor has one scale, so a channel far above the others leaves them a few steps. Where a channel
may be rescaled (eqnet/supernet/rescalable.py) its producer is divided by k and the inputs of its
readers are multiplied by k. The factor is that of Nagel et al. (arXiv 1906.04721), the square root
of the ratio of both ranges, each in units of the typical channel's. It is a power of two, so that
products of float numbers stay bit for bit what they were, and 1 for all channels but those that
are far from typical on both sides: nothing that grows passes twice what is typical, so no weight
pays for what an activation gains. A network without such channels is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from eqnet.quant.layers import ElasticConv2d, ElasticConvTranspose2d, ElasticLayer
from eqnet.supernet.rescalable import Place, Reader, Span, spans
from eqnet.supernet.supernet import Supernet

# Times the typical range: within it channels share one scale of 8 bits well enough.
OUTLYING = 8.0
# A factor that is less is not worth a change: it would move ordinary channels of ordinary networks.
MIN_FACTOR = 4.0
# What grows may reach this many times the typical range.
ROOM = 2.0
# Images that the ranges are taken on: outliers of this size are seen on any.
IMAGES = 64
# A row of weights whose typical one is a lesser share of its largest says nothing: it is pruned.
SPARSE = 1e-5
# Below it a range is that of a channel that is constantly 0.
TINY = 1e-20


@torch.no_grad()
def equalize(supernet: Supernet, batches: Iterable[Tensor]) -> dict[str, int]:
    """Rescale outlying channels of the float network, in place; its logits stay.

    batches: preprocessed images, float32 [N, C, H, W], of which the first few are used.
    Returns how many channels were rescaled by the name of the layer or batch norm that makes
    them, without those of which none was. Call it before any quantizer is initialized.
    """
    supernet.apply_float()
    supernet.graph.eval()
    chosen = list(spans(supernet.graph))
    rescaled = {}
    for span, ranges in zip(chosen, _ranges(supernet, chosen, batches), strict=True):
        factors = _factors(span, ranges)
        count = int((factors != 1).sum())
        if count:
            _rescale(span, factors)
            rescaled[span.name] = count
    return rescaled


def _ranges(supernet: Supernet, chosen: list[Span], batches: Iterable[Tensor]) -> list[Tensor]:
    """For each span the largest size of each channel at each quantizer, [quantizers, C]."""
    found = [[torch.zeros(span.channels) for _ in span.watched] for span in chosen]
    handles = [
        watched.quantizer.register_forward_hook(_hook(rows, number, watched.place, span.channels))
        for span, rows in zip(chosen, found, strict=True)
        for number, watched in enumerate(span.watched)
    ]
    images = 0
    for batch in batches if chosen else ():
        supernet.graph(batch)
        images += len(batch)
        if images >= IMAGES:
            break
    for handle in handles:
        handle.remove()
    return [torch.stack(rows) for rows in found]


def _hook(
    rows: list[Tensor], number: int, place: Place, channels: int
) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        sizes = inputs[0].abs().movedim(place.axis, 0).reshape(channels, -1).amax(1)
        rows[number] = torch.maximum(rows[number], sizes.float().cpu())

    return hook


def _factors(span: Span, ranges: Tensor) -> Tensor:
    """k of each channel, float32 [C]: a power of two. ranges: [quantizers, C]."""
    values = torch.stack([_relative(row) for row in ranges]).amax(0)
    columns = torch.stack([_relative(_columns(reader, span.channels)) for reader in span.readers])
    read = columns.amax(0)
    balanced = (values / read.clamp_min(TINY)).sqrt()
    down = torch.minimum(torch.minimum(balanced, values), ROOM / read.clamp_min(TINY))
    up = torch.maximum(torch.maximum(balanced, values), _rows(span) / ROOM)
    large = (values > OUTLYING) & (down >= MIN_FACTOR)
    small = (values < 1 / OUTLYING) & (values > TINY) & (read > OUTLYING) & (up <= 1 / MIN_FACTOR)
    factors = torch.where(large, down, torch.where(small, up, torch.ones_like(values)))
    return torch.exp2(factors.log2().round())


def _relative(ranges: Tensor) -> Tensor:
    """Ranges [C] in units of the typical one: the median of the channels that have any."""
    alive = ranges[ranges > TINY]
    return ranges / alive.median() if len(alive) else torch.ones_like(ranges)


def _columns(reader: Reader, channels: int) -> Tensor:
    """The largest weight that a layer reads each channel with, in units of its row's typical one.

    A depthwise layer reads each channel by a row of its own: the weight is what it is.
    """
    weight = reader.layer.weight.detach().abs()
    weight = weight.reshape(*weight.shape[:2], -1).amax(2)
    if weight.shape[1] > 1:
        largest, typical = weight.amax(1, keepdim=True), weight.median(1, keepdim=True).values
        unit = torch.where(typical > SPARSE * largest, typical, largest)
        weight = weight / unit.clamp_min(TINY)
    grouped = weight.reshape(_groups(reader.layer), -1, weight.shape[1])
    return grouped.amax(1).reshape(channels, -1).amax(1).float().cpu()


def _rows(span: Span) -> Tensor:
    """Ranges [C] of the weights that grow where a channel does; a batch norm spares its layer's."""
    if isinstance(span.producer, nn.BatchNorm2d | nn.BatchNorm1d):
        return torch.zeros(span.channels)
    return _relative(span.producer.weight.detach().flatten(1).abs().amax(1).float().cpu())


def _groups(layer: ElasticLayer) -> int:
    if isinstance(layer, ElasticConv2d):
        return layer.groups
    return int(layer.geometry["groups"]) if isinstance(layer, ElasticConvTranspose2d) else 1


def _rescale(span: Span, factors: Tensor) -> None:
    """Divide what the producer gives by `factors`, float32 [C], and let the readers undo it."""
    producer = span.producer
    scale = factors.to(producer.weight)
    producer.weight.div_(_beside(scale, producer.weight))
    if producer.bias is not None:
        producer.bias.div_(scale)
    for reader in span.readers:
        weight, groups = reader.layer.weight, _groups(reader.layer)
        inputs = factors.to(weight).repeat_interleave(reader.repeat).reshape(groups, -1)
        by_row = inputs.repeat_interleave(len(weight) // groups, dim=0)  # [O, I / groups]
        weight.mul_(_beside(by_row, weight))


def _beside(factors: Tensor, weight: Tensor) -> Tensor:
    """Factors of a weight's first axes, shaped to multiply it."""
    return factors.view(factors.shape + (1,) * (weight.dim() - factors.dim()))
