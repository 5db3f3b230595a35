"""The table of docs/models.md: model families that capture takes, and their nets for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from nets import randomize
from torch import Tensor, nn

from eqnet.models.loader import load_model
from eqnet.quant.quantizers import ActivationQuantizer
from eqnet.spec.scheme import Granularity, Symmetry, activation_range
from eqnet.supernet.supernet import Supernet

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@dataclass(frozen=True)
class Family:
    """A row: the source, the input size, the number of layers captured, and what was checked."""

    source: str
    size: int
    layers: int
    checked: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.size, self.size)

    def net(self) -> nn.Module:
        """With random weights, statistics and gammas of both signs; no layer is all zeros."""
        torch.manual_seed(0)
        return randomize(load_model(self.source))


def families() -> list[Family]:
    """The rows of the table."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[1].startswith("`"):
            found.append(Family(cells[1].strip("`"), int(cells[2]), int(cells[3]), cells[4]))
    return found


@torch.no_grad()
def set_scales(supernet: Supernet, images: Tensor) -> None:
    """Scales of the 8-bit forms from the largest values: as far as an export test needs them."""
    for layer in supernet.info.layers:
        elastic = supernet.layer(layer.name)
        quantizer = elastic.weight_quantizer
        largest = elastic.weight.flatten(1).abs().amax(1).clamp_min(1e-6)
        key = quantizer.key(Granularity.PER_CHANNEL, Symmetry.SYMMETRIC, 8)
        quantizer.log_scale[key].copy_((largest / 127).log())
    hooks = [
        supernet.activation(tensor.name).register_forward_hook(_set_scale)
        for tensor in supernet.info.tensors
    ]
    supernet.apply_float()
    supernet.graph(images)
    for hook in hooks:
        hook.remove()


def _set_scale(quantizer: ActivationQuantizer, inputs: tuple[Tensor], output: object) -> None:
    low, high = min(0.0, float(inputs[0].min())), max(1e-3, float(inputs[0].max()))
    span = activation_range(8, Symmetry.ASYMMETRIC, quantizer.non_negative)
    scale = (high - low) / (span.hi - span.lo)
    key = "unsigned_8" if quantizer.non_negative else "asymmetric_8"
    quantizer.log_scale[key].fill_(scale).log_()
    if not quantizer.non_negative:
        quantizer.zero_point[key].fill_(round(span.lo - low / scale))
