"""Weights that lose more to quantization than their bits explain: damaged or unsuited scales.

Such a layer need not cost the network much today (one channel of many), so KL alone would not
name it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from eqnet.spec.scheme import Granularity
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.supernet import Supernet

DB_A_BIT = 6.02
BITS_MISSING = 2.5
"""A channel with the noise of so many bits less than it has is suspect."""
BELL = 8.5
"""dB that weights like a bell curve lose to a grid that reaches their ends, against 6.02 a bit."""
FAINT = 1e-4
"""Of a layer's mean energy: a channel below it has no effect, however it is rounded."""


class Suspect(NamedTuple):
    """A layer's worst channel: signal-to-noise ratio of its weights, and what bits explain, dB.

    channel: None where one scale serves the whole layer.
    """

    layer: str
    channel: int | None
    snr: float
    expected: float


@torch.no_grad()
def suspects(supernet: Supernet, spec: SubnetSpec) -> list[Suspect]:
    """The layers of a subnet with such weights, the worst first. Brings `spec` into force."""
    supernet.apply(spec)
    found = []
    for name in spec.quantized_layers():
        layer = supernet.layer(name)
        weight = layer.weight.detach().float()
        rows = weight.reshape(1, -1)
        noise = (weight - layer.weight_quantizer(weight)).reshape(1, -1)
        by_channel = spec.form.weight_granularity is Granularity.PER_CHANNEL
        if by_channel:
            rows, noise = (part.reshape(len(weight), -1) for part in (rows, noise))
        energy = rows.double().square().mean(1)
        ratio = energy / noise.double().square().mean(1).clamp_min(torch.finfo(torch.float64).tiny)
        snr = 10 * ratio.clamp_min(1e-30).log10()
        snr[energy <= FAINT * energy.mean()] = torch.inf
        worst = int(snr.argmin())
        expected = DB_A_BIT * int(spec.weights[name]) - BELL
        if float(snr[worst]) < expected - DB_A_BIT * BITS_MISSING:
            channel = worst if by_channel else None
            found.append(Suspect(name, channel, float(snr[worst]), expected))
    return sorted(found, key=lambda one: one.snr - one.expected)
