"""Elastic reconstruction: every form's integers and scales fitted to the layers' float outputs.

One layer after the other, all bit-widths, granularities and symmetries at once: the rounding of a
form minimises the error of the layer's own output on the calibration images, so it does not
depend on what a subnet chooses for other layers, and one run serves every subnet. What errors of
several layers add up to is left to the correction of each subnet
(eqnet/supernet/settling/correction.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eqnet.backend.files import write_file
from eqnet.ptq.moments import InputMoments, input_moments
from eqnet.quant.functional import whole_zero_point
from eqnet.quant.layers import ElasticLayer
from eqnet.quant.quantizers import WeightQuantizer
from eqnet.quant.rounding import (
    WIDE,
    Decomposition,
    WeightGrid,
    damped,
    near,
    output_error,
    refitted,
    round_columns,
)
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.scheme import BITS, Granularity, Symmetry, weight_range
from eqnet.supernet.supernet import Supernet

PARTIAL = "reconstruction.partial.safetensors"
IDENTITY = "eqnet.network"
SAVE_SECONDS = 20.0
MIN_POWER = 1e-30
# Scales that are tried, as shares of the clip search's.
RATIOS = (0.8, 0.9, 1.0, 1.1)
# Weights of all forms that are rounded together: 32 MiB a tensor.
MAX_VALUES = 1 << 23


class WeightForm(NamedTuple):
    """One form of a weight: the key of its parameters, and what its grid needs."""

    granularity: Granularity
    symmetry: Symmetry
    bits: int

    @property
    def key(self) -> str:
        """As in WeightQuantizer."""
        return WeightQuantizer.key(self.granularity, self.symmetry, self.bits)


FORMS = tuple(WeightForm(*choices) for choices in product(Granularity, Symmetry, BITS))


@torch.no_grad()
def reconstruct(
    supernet: Supernet,
    batches: Iterable[Tensor],
    progress: Progress | None = None,
    *,
    partial: Path | None = None,
) -> None:
    """Fit the rounding and the scales of every layer's weight in every form.

    batches: preprocessed images, float32 [N, C, H, W], without labels. The scales must have been
    set by `calibrate`. The float network, and with it every batch norm, stays as it is. partial:
    where finished layers are saved from time to time, and taken from when an interrupted run of
    the same network and scales goes on; the caller removes it.
    """
    progress = progress or Silent()
    identity = _identity(supernet)
    moments = input_moments(supernet, batches)
    progress.start("reconstruction", len(moments))
    finished: dict[str, Tensor] = {}
    if partial is not None:
        finished = _load(partial, identity)
    saved = time.monotonic()
    for name in list(moments):
        inputs = moments.pop(name)
        quantizer = supernet.layer(name).weight_quantizer
        if not _restore(quantizer, name, finished):
            reconstruct_layer(supernet.layer(name), inputs)
            finished |= _state(quantizer, name)
        if partial is not None and time.monotonic() - saved > SAVE_SECONDS:
            write_file(partial, save(finished, metadata={IDENTITY: identity}))
            saved = time.monotonic()
        progress.advance(layer=name)
    progress.finish()


def _identity(supernet: Supernet) -> str:
    """Of a network and its scales before reconstruction: they follow from weights and images."""
    digest = hashlib.sha256()
    for name, value in sorted(supernet.graph.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _load(partial: Path, identity: str) -> dict[str, Tensor]:
    """What an interrupted run had finished; nothing where it was another run's, or is damaged."""
    try:
        with safe_open(partial, framework="pt") as file:
            if (file.metadata() or {}).get(IDENTITY) != identity:
                return {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return {}
    sound = all(bool(torch.isfinite(value.float()).all()) for value in tensors.values())
    return tensors if sound else {}


def _state(quantizer: WeightQuantizer, layer: str) -> dict[str, Tensor]:
    """Rounding and scales of a layer, by names that `_restore` reads."""
    state: dict[str, Tensor] = {}
    for key, packed in quantizer.rounding.named_buffers():
        state[f"{layer}:rounding.{key}"] = packed.detach().cpu().clone()
    for key, scale in quantizer.log_scale.items():
        state[f"{layer}:log_scale.{key}"] = scale.detach().cpu().clone()
    return state


def _restore(quantizer: WeightQuantizer, layer: str, finished: dict[str, Tensor]) -> bool:
    """Take a finished layer's rounding and scales; False where it is not finished."""
    for form in FORMS:
        packed = finished.get(f"{layer}:rounding.{form.key}")
        scale = finished.get(f"{layer}:log_scale.{form.key}")
        if packed is None or scale is None:
            return False
        stored = quantizer.log_scale[form.key]
        quantizer.rounding.register_buffer(form.key, packed.to(stored.device))
        stored.copy_(scale)
    return True


@torch.no_grad()
def reconstruct_layer(layer: ElasticLayer, inputs: InputMoments) -> None:
    """Fit one layer's weight in every form to its float output."""
    moments = damped(inputs.moments)
    groups, width = moments.shape[:2]
    weight = layer.weight.detach().float().reshape(groups, -1, width)
    parts = Decomposition.of(moments)
    quantizer = layer.weight_quantizer
    for forms in _chunks(weight):
        grid = _grid(quantizer, forms, groups)
        scale = _best_scale(weight, grid, parts, forms)
        grid = grid._replace(scale=scale)
        rows = weight.repeat(1, len(forms), 1)
        offsets = round_columns(rows, grid, parts) - grid.nearest(rows)
        for index, form in enumerate(forms):
            chosen = slice(index * weight.shape[1], (index + 1) * weight.shape[1])
            quantizer.set_rounding(form.key, offsets[:, chosen].reshape(layer.weight.shape))
            stored = quantizer.log_scale[form.key]
            stored.copy_(scale[:, chosen].reshape(-1)[: len(stored)].log())


def _chunks(weight: Tensor) -> Iterator[tuple[WeightForm, ...]]:
    size = max(1, MAX_VALUES // weight.numel())
    for start in range(0, len(FORMS), size):
        yield FORMS[start : start + size]


def _grid(quantizer: WeightQuantizer, forms: tuple[WeightForm, ...], groups: int) -> WeightGrid:
    """The forms' grids as the clip search left them, as further rows: [G, len(forms) * R, 1]."""
    columns: list[tuple[Tensor, ...]] = []
    for form in forms:
        scale = quantizer.log_scale[form.key].exp().expand(quantizer.channels)
        span = weight_range(form.bits, form.symmetry)
        zero = torch.zeros_like(scale)
        if form.key in quantizer.zero_point:
            zero = whole_zero_point(quantizer.zero_point[form.key], span.lo, span.hi)
            zero = zero.expand(quantizer.channels)
        bounds = torch.full_like(scale, span.lo), torch.full_like(scale, span.hi)
        columns.append(tuple(part.reshape(groups, -1, 1) for part in (scale, zero, *bounds)))
    return WeightGrid(*(torch.cat(parts, 1) for parts in zip(*columns, strict=True)))


def _best_scale(
    weight: Tensor, grid: WeightGrid, parts: Decomposition, forms: tuple[WeightForm, ...]
) -> Tensor:
    """The scale of least output error for each row, or for each form that has only one.

    Of a few shares of the clip search's scale the best, fitted to its integers; of wide layers
    the clip search's own.
    """
    if weight.shape[2] > WIDE:
        return grid.scale
    rows = weight.repeat(1, len(forms), 1)
    power = _output_power(weight, parts).repeat(1, len(forms))
    best, least = grid.scale, torch.full_like(power, torch.inf)
    for ratio in RATIOS:
        tried = grid._replace(scale=grid.scale * ratio)
        error = _pooled(output_error(rows, tried, parts) / power, forms)
        best = torch.where((error < least)[:, :, None], tried.scale, best)
        least = torch.minimum(error, least)
    products, squares = refitted(rows, grid._replace(scale=best), parts)
    pooled = _pooled(products / power, forms), _pooled(squares / power, forms)
    return near(best[:, :, 0], *pooled)[:, :, None]


def _output_power(weight: Tensor, parts: Decomposition) -> Tensor:
    """w H w of each row [G, R]: its errors count relative to it, as batch norm divides by it."""
    ordered = weight[:, :, parts.order]
    return ((ordered @ parts.moments) * ordered).sum(2).clamp_min(MIN_POWER)


def _pooled(values: Tensor, forms: tuple[WeightForm, ...]) -> Tensor:
    """Values [G, rows] as they are, or added up over the rows of each per-tensor form."""
    parts = list(values.chunk(len(forms), dim=1))
    for index, form in enumerate(forms):
        if form.granularity is Granularity.PER_TENSOR:
            parts[index] = parts[index].sum().expand_as(parts[index])
    return torch.cat(parts, 1)
