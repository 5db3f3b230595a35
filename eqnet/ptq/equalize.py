"""Cross-layer equalization of outlying channels: the same float function, in better ranges.

A tensor has one scale, so a channel far above the others leaves them a few steps. Where a channel
may be rescaled (eqnet/ptq/rescalable.py) its producer is divided by k and the inputs of its
readers are multiplied by k. The factor is that of Nagel et al. (arXiv 1906.04721), the square root
of the ratio of both ranges, each in units of the typical channel's. It is a power of two, so that
products of float numbers stay bit for bit what they were, and 1 for all channels but those that
are far from typical on both sides: nothing that grows passes twice what is typical, so no weight
pays for what an activation gains. A network without such channels is left as it is.

Where nothing can take the factor, before SiLU's sigmoid or after GELU, it becomes a
multiplication by a constant of its own (eqnet/capture/channel_scale.py), for outliers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx, nn

from eqnet.capture.channel_scale import scale_after, scale_before
from eqnet.ptq.rescalable import Norm, Place, Reader, Span, Through, spans
from eqnet.quant.layers import ELASTIC, ElasticConv2d, ElasticConvTranspose2d, ElasticLayer
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
            _rescale(supernet.graph, span, factors)
            rescaled[span.name] = count
    if rescaled:
        supernet.graph.recompile()
    return rescaled


def _ranges(supernet: Supernet, chosen: list[Span], batches: Iterable[Tensor]) -> list[Tensor]:
    """For each span the largest size of each channel at each quantizer, [quantizers, C].

    In units of the root mean square of the image's values there: an image that is large in all
    channels makes none of them an outlier.
    """
    if not chosen:
        return []
    ranges: list[list[Tensor]] = []
    handles = []
    for span in chosen:
        channels = span.place.channels
        rows = [torch.zeros(channels) for _ in span.watched]
        for number, watched in enumerate(span.watched):
            hook = _hook(rows, number, watched.place, channels)
            handles.append(watched.quantizer.register_forward_hook(hook))
        ranges.append(rows)
    _pass_images(supernet, batches)
    for handle in handles:
        handle.remove()
    return [torch.stack(rows) for rows in ranges]


def _pass_images(supernet: Supernet, batches: Iterable[Tensor]) -> None:
    """Run the network on the first batches that have IMAGES images, or on all."""
    images = 0
    for batch in batches:
        supernet.graph(batch)
        images += len(batch)
        if images >= IMAGES:
            return


def _hook(
    rows: list[Tensor], number: int, place: Place, channels: int
) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        x = inputs[0].detach().float()
        by_image = x.abs().movedim(place.axis, 1).reshape(len(x), channels, -1).amax(2)
        typical = x.flatten(1).square().mean(1, keepdim=True).sqrt()
        sizes = (by_image / typical.clamp_min(TINY)).amax(0)
        rows[number] = torch.maximum(rows[number], sizes.cpu())

    return hook


def _factors(span: Span, ranges: Tensor) -> Tensor:
    """k of each channel, float32 [C]: a power of two. ranges: [quantizers, C]."""
    seen = torch.stack([_relative(row) for row in ranges])
    values, least = seen.amax(0), seen.amin(0)
    read = torch.zeros(span.place.channels)  # batch norms and multiplications have room for any
    for reader in span.readers:
        read = torch.maximum(read, _relative(_columns(reader, span.place.channels)))
    balanced = (values / read.clamp_min(TINY)).sqrt()
    # What is far out before a function may not be after it: there it must not get lost.
    limits = (balanced, values, ROOM / read.clamp_min(TINY), OUTLYING * least)
    down = torch.stack(limits).amin(0)
    up = torch.maximum(torch.maximum(balanced, values), _rows(span) / ROOM)
    large = (values > OUTLYING) & (down >= MIN_FACTOR)
    small = (values < 1 / OUTLYING) & (values > TINY) & (read > OUTLYING) & (up <= 1 / MIN_FACTOR)
    factors = torch.where(large, down, torch.where(small, up, torch.ones_like(values)))
    return torch.exp2(factors.log2().round())


def _relative(ranges: Tensor) -> Tensor:
    """Ranges [C] in units of the typical one: the median of the channels that have any."""
    alive = ranges[ranges > TINY]
    if not len(alive):
        return torch.ones_like(ranges)
    return ranges / alive.median()


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
    """Ranges [C] of the weights that grow where a channel does; a norm spares its layer's."""
    if not isinstance(span.producer, ELASTIC):
        return torch.zeros(span.place.channels)
    return _relative(span.producer.weight.detach().flatten(1).abs().amax(1).float().cpu())


def _groups(layer: ElasticLayer) -> int:
    if isinstance(layer, ElasticConv2d):
        return layer.groups
    if isinstance(layer, ElasticConvTranspose2d):
        return int(layer.geometry["groups"])
    return 1


def _rescale(graph: fx.GraphModule, span: Span, factors: Tensor) -> None:
    """Divide the channels by `factors`, float32 [C], where they start, and undo it at each end."""
    factors = factors.to(next(iter(graph.parameters())).device)
    if span.producer is None:
        scale_after(graph, span.start, _across(1 / factors, span.place))
    else:
        _divide(span.producer, factors)
    for reader in span.readers:
        weight, groups = reader.layer.weight, _groups(reader.layer)
        inputs = factors.to(weight).repeat_interleave(reader.repeat).reshape(groups, -1)
        by_row = inputs.repeat_interleave(len(weight) // groups, dim=0)  # [O, I / groups]
        weight.mul_(_beside(by_row, weight))
    for through in span.throughs:
        _hand_on(through, factors)
    for guard in span.guards:
        scale_before(graph, guard.node, guard.source, _across(factors, guard.place))


def _divide(producer: ElasticLayer | Norm, factors: Tensor) -> None:
    scale = factors.to(producer.weight)
    producer.weight.div_(_beside(scale, producer.weight))
    if producer.bias is not None:
        producer.bias.div_(scale)


def _hand_on(through: Through, factors: Tensor) -> None:
    """A depthwise layer gives what it gave, divided; its batch norm undoes it by gamma.

    The variance stays, and so does what is added to it: collected anew, it would lack the factor.
    Post-training keeps its statistics (eqnet/supernet/settling/settle.py).
    """
    layer, norm = through
    scale = factors.to(norm.weight)
    if layer.bias is not None:
        layer.bias.div_(scale)
    assert norm.running_mean is not None
    norm.running_mean.div_(scale)
    norm.weight.mul_(scale)


def _across(factors: Tensor, place: Place) -> Tensor:
    """Factors [C] in a shape that multiplies a tensor with its channels at `place`."""
    repeated = factors.repeat_interleave(place.repeat)
    return repeated.view(repeated.shape + (1,) * (len(place.shape) - place.axis - 1))


def _beside(factors: Tensor, weight: Tensor) -> Tensor:
    """Factors of a weight's first axes, shaped to multiply it."""
    return factors.view(factors.shape + (1,) * (weight.dim() - factors.dim()))
