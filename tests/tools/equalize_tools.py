"""What the tests of equalization share: a network beside its 8-bit subnet, and their distance."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from eqnet.ptq.equalize import equalize
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import Form, Granularity
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import PlacementStyle, uniform
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.measure import Batches
from eqnet.supernet.settling.settle import Calibration
from eqnet.supernet.supernet import Supernet


def subnet(supernet: Supernet, granularity: Granularity) -> SubnetSpec:
    """Every layer and tensor in 8 bits, as CPUs want them."""
    style = PlacementStyle.of(load_profile("onnxruntime_x86"))
    form = Form().model_copy(update={"weight_granularity": granularity})
    return uniform(supernet.info, style, form, 8, 8)


@torch.no_grad()
def float_and_quantized(
    net: nn.Module, x: Tensor, equalized: bool, granularity: Granularity = Granularity.PER_CHANNEL
) -> tuple[Tensor, Tensor]:
    """Logits of a network's float form and of its settled subnet of 8 bits."""
    _, channels, height, width = x.shape
    supernet = Supernet(copy.deepcopy(net), (channels, height, width))
    if equalized:
        equalize(supernet, [x])
    calibrate(supernet, [x])
    target = supernet.float_logits(x)
    labels = torch.zeros(len(x), dtype=torch.int64)
    Calibration(Batches(x, labels, 32), "post_training").settle(
        supernet, subnet(supernet, granularity)
    )
    return target, supernet.graph(x)


def signal_to_noise(target: Tensor, actual: Tensor) -> float:
    """What is left of the signal, in decibels, after its mean over the images is taken off."""
    signal = (target - target.mean(0)).square().mean()
    return float(10 * torch.log10(signal / (actual - target).square().mean()))
