"""Variants of a subnet, corrected where they differ, and their logits by partial passes.

The base's own correction or statistics (eqnet/supernet/settling) stay. Only the layers next to a
change are corrected anew, to the mean and the variance that they have in the base: for a
network's own batch norms that is the correction that settling the variant would find there, and
for collected statistics what collecting them behind these layers would do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eqnet.sensitivity.partial import PartialPasses, images_within
from eqnet.sensitivity.places import affected_layers, changed_modules
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.settling.correction import (
    FloatBatch,
    Moments,
    channel_axis,
    gain_and_shift,
    moments_of,
    over_batches,
)
from eqnet.supernet.settling.image_weights import image_weights
from eqnet.supernet.supernet import Supernet

Correction = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Variant:
    """A subnet near the base, the layers whose correction is its own, and that correction."""

    spec: SubnetSpec
    modules: frozenset[str]
    layers: tuple[str, ...]
    corrections: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Variants:
    """The subnet that is in force, settled, as the base of variants that are compared with it."""

    def __init__(self, supernet: Supernet, base: SubnetSpec) -> None:
        """Takes the corrections in force as the base's."""
        self.supernet, self.base = supernet, base
        self._corrections: dict[str, Correction] = {}
        for name in supernet.info.layer_names():
            layer = supernet.layer(name)
            self._corrections[name] = (layer.gain, layer.shift)
        supernet.graph.eval()
        self.batch = images_within(supernet)
        self._passes = PartialPasses(supernet)

    def variant(self, spec: SubnetSpec) -> Variant:
        """A subnet as a variant, without a correction yet."""
        modules = changed_modules(self.base, spec)
        return Variant(spec, modules, affected_layers(self.supernet.info, self.base, spec))

    def restore(self) -> None:
        """Bring the base back into force."""
        self._apply(self.base, self._corrections)

    def _apply(self, spec: SubnetSpec, corrections: dict[str, Correction]) -> None:
        self.supernet.apply(spec)
        for name, (gain, shift) in corrections.items():
            self.supernet.layer(name).correct(gain, shift)

    def _apply_variant(self, variant: Variant) -> None:
        own: dict[str, Correction] = dict.fromkeys(variant.layers, (None, None))
        self._apply(variant.spec, self._corrections | own | variant.corrections)

    def load(self, images: Tensor) -> Tensor:
        """Logits [N, K] of the base on a batch [N, C, H, W], which `logits` then takes."""
        self.restore()
        return self._passes.load(images)

    def logits(self, variant: Variant) -> Tensor:
        """Logits [N, K] of a variant on the loaded batch."""
        self._apply_variant(variant)
        return self._passes.rerun(variant.modules)

    def correct(
        self, variants: Sequence[Variant], images: Iterable[Tensor], progress: Progress
    ) -> None:
        """Find each variant's correction on `images`, float32 [N, C, H, W] a batch."""
        parts = [part for batch in images for part in batch.split(self.batch)]
        progress.start("local corrections", len(parts))
        wanted = sorted({name for variant in variants for name in variant.layers})
        targets: list[dict[str, FloatBatch]] = []
        actual: list[list[dict[str, Moments]]] = [[] for _ in variants]
        for part in parts:
            self.load(part)
            target = {name: self._target(name) for name in wanted}
            targets.append(target)
            for variant, moments in zip(variants, actual, strict=True):
                moments.append(self._moments(variant, target))
            progress.advance()
        progress.finish()
        for variant, moments in zip(variants, actual, strict=True):
            self._apply_variant(variant)
            for name in variant.layers:
                with_gain = self.supernet.layer(name).weight_quantizer.snapped is None
                batches = [target[name] for target in targets]
                weights = torch.stack([batch.weights.sum() for batch in batches])
                before = over_batches([batch.moments for batch in batches], weights)
                after = over_batches([batch[name] for batch in moments], weights)
                gain, shift = gain_and_shift(before, after, with_gain)
                variant.corrections[name] = (gain.float(), shift.float())
        self.restore()

    def _target(self, name: str) -> FloatBatch:
        output = self._passes.value(name)
        weights = image_weights(output)
        return FloatBatch(moments_of(output, channel_axis(self.supernet, name), weights), weights)

    def _moments(self, variant: Variant, target: dict[str, FloatBatch]) -> dict[str, Moments]:
        self._apply_variant(variant)
        found = {}
        for name, output in self._passes.outputs(variant.modules, variant.layers).items():
            axis = channel_axis(self.supernet, name)
            found[name] = moments_of(output, axis, target[name].weights)
        return found
