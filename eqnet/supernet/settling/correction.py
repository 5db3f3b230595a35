"""Correction of what quantization shifts, for networks that keep their own batch norm statistics.

A post-training network's batch norms stand for data that nobody has here. They stay; what
quantization moved is moved back where it arises, at each layer's output: ``gain * y + shift``
per channel gives the quantized layer the mean and the variance that the float layer has on the
calibration images. Before a batch norm that is ``mu' = mu + (mean_q - mean_float)`` and
``var' = var * var_q / var_float`` (design, section 4.5); elsewhere it is a correction of the
bias and, as a factor of the weight's scales, of the gain.

Images count as eqnet/supernet/settling/image_weights.py says: few that are far from all others,
and that their quantizers cut off, would otherwise decide the gain for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eqnet.quant.functional import along
from eqnet.supernet.settling.image_weights import image_weights
from eqnet.supernet.supernet import Supernet

# A channel whose deviation quantization changes by more than this factor is all but gone, or was
# all but constant: its gain would be an accident of these images.
MAX_GAIN = 2.0
# Below this share of the squared mean a float32 variance is rounding noise.
MIN_RELATIVE_VARIANCE = 1e-8

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


class Moments(NamedTuple):
    """Mean and variance of each channel of a layer's output, float64 [C] each."""

    mean: Tensor
    variance: Tensor


class FloatBatch(NamedTuple):
    """A layer's output in the float network: its moments, and each image's weight, float64 [N]."""

    moments: Moments
    weights: Tensor


FloatMoments = list[dict[str, FloatBatch]]
"""For each batch of images what every layer gives in the float network."""


def float_moments(supernet: Supernet, batches: Iterable[Tensor]) -> FloatMoments:
    """What the float network gives on each batch, float32 [N, C, H, W]; applies no subnet."""
    return [float_batch(supernet, batch)[1] for batch in batches]


@torch.no_grad()
def float_batch(supernet: Supernet, images: Tensor) -> tuple[Tensor, dict[str, FloatBatch]]:
    """Logits [N, K] of the float network, and what every layer gives in it; applies no subnet.

    images: float32 [N, C, H, W].
    """
    supernet.apply_float()
    moments = {}

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weights = image_weights(output)
            moments[name] = FloatBatch(
                moments_of(output, channel_axis(supernet, name), weights), weights
            )

        return hook

    with _hooked(supernet, watch):
        return supernet.original(images), moments


def corrected(
    supernet: Supernet, images: Tensor, target: Mapping[str, FloatBatch]
) -> tuple[Tensor, dict[str, Moments]]:
    """Logits [N, K] of the subnet in force, each layer corrected by this batch's own shift.

    So each layer sees corrected inputs. images: float32 [N, C, H, W], which `target` is of.
    Returns also the moments of every layer before its correction. Gradients pass through the
    correction, as through a batch norm: without that part, weights grow where their size has no
    effect, and training diverges.
    """
    moments: dict[str, Moments] = {}

    def watch(name: str) -> Hook:
        layer, axis = supernet.layer(name), channel_axis(supernet, name)

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            moments[name] = moments_of(output, axis, target[name].weights)
            with_gain = layer.weight_quantizer.snapped is None
            gain, shift = gain_and_shift(target[name].moments, moments[name], with_gain)
            shape = along(axis, output.dim())
            return output * gain.float().view(shape) + shift.float().view(shape)

        return hook

    with _hooked(supernet, watch):
        return supernet.graph(images), moments


@torch.no_grad()
def correct(supernet: Supernet, batches: Iterable[Tensor], targets: FloatMoments) -> None:
    """Correct every layer of the subnet in force, one after the other in one pass.

    batches: the images, batch by batch, that `targets` are of. While a batch passes, each layer is
    corrected by that batch's own shift; what stays is the correction by the shift over all
    batches. Where scales are powers of two only means are corrected: a gain would take the scales
    off their grid.
    """
    supernet.correct({})
    supernet.graph.eval()
    actual = []
    for batch, target in zip(batches, targets, strict=True):
        actual.append(corrected(supernet, batch, target)[1])
    corrections = {}
    for layer in supernet.info.layers:
        with_gain = supernet.layer(layer.name).weight_quantizer.snapped is None
        wanted = [batch[layer.name] for batch in targets]
        weights = torch.stack([batch.weights.sum() for batch in wanted])
        pooled = over_batches([batch.moments for batch in wanted], weights)
        moments = over_batches([batch[layer.name] for batch in actual], weights)
        corrections[layer.name] = gain_and_shift(pooled, moments, with_gain)
    supernet.correct(corrections)


def moments_of(output: Tensor, axis: int, weights: Tensor) -> Moments:
    """Moments of a float tensor [N, ...] over all its axes but `axis`; weights: of images [N]."""
    inner = [dim for dim in range(1, output.dim()) if dim != axis % output.dim()]
    if not inner:
        return _pooled(output, torch.zeros_like(output), weights)
    # Two passes: on a CPU `torch.var_mean` takes 6 to 19 times as long.
    mean = output.mean(inner, keepdim=True)
    variance = (output - mean).square().mean(inner)
    return _pooled(mean.view_as(variance), variance, weights)


def gain_and_shift(target: Moments, actual: Moments, with_gain: bool) -> tuple[Tensor, Tensor]:
    """gain and shift, float64 [C], that bring the `actual` moments to the `target`'s."""
    gain = torch.ones_like(target.mean)
    if with_gain:
        alive = _alive(target) & _alive(actual)
        wanted = torch.where(alive, target.variance, torch.ones_like(gain))
        ratio = wanted / torch.where(alive, actual.variance, torch.ones_like(gain))
        within = (ratio < MAX_GAIN**2) & (ratio > MAX_GAIN**-2)
        gain = torch.where(within, ratio.sqrt(), gain)
    return gain, target.mean - gain * actual.mean


def _alive(moments: Moments) -> Tensor:
    floor = MIN_RELATIVE_VARIANCE * moments.mean.square() + torch.finfo(torch.float32).tiny
    return moments.variance > floor


def over_batches(batches: list[Moments], weights: Tensor) -> Moments:
    """Moments over all batches, each counted by its part of `weights`, [batches]."""
    means, variances = zip(*batches, strict=True)
    return _pooled(torch.stack(means), torch.stack(variances), weights)


def _pooled(means: Tensor, variances: Tensor, weights: Tensor) -> Moments:
    """Moments [C] over K parts [K, C]: the variance within them and that between their means."""
    share = (weights / weights.sum())[:, None]
    mean = (share * means).sum(0)
    return Moments(mean, (share * (variances + (means - mean).square())).sum(0))


def channel_axis(supernet: Supernet, name: str) -> int:
    """Where a layer's output has its channels: last for linear layers, else after the images."""
    return -1 if isinstance(supernet.layer(name), nn.Linear) else 1


@contextmanager
def _hooked(supernet: Supernet, hook_of: Callable[[str], Hook]) -> Iterator[None]:
    """Within: each layer has its own forward hook."""
    handles = []
    for layer in supernet.info.layers:
        hook = hook_of(layer.name)
        handles.append(supernet.layer(layer.name).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
