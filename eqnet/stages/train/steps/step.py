"""One optimizer step of elastic training: three guided groups and the regularization."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eqnet.spec.scheme import CARRIER_BITS, Form, all_forms
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.train.recipe import ElasticRecipe
from eqnet.stages.train.steps.diverged import first_not_finite
from eqnet.stages.train.steps.losses import TERMS, guided_loss, weight_distribution_loss
from eqnet.subnets.build import PlacementStyle, random_subnet, uniform
from eqnet.supernet.settling.correction import FloatBatch, corrected, float_batch
from eqnet.supernet.supernet import Supernet

GROUPS = ("high", "random", "low")
TINY = 1e-12


class ElasticStep:
    """Draws a form and a placement for each step, and accumulates the gradients of its groups.

    H is the subnet of the highest bits, R one of random bits, L the one of the lowest; H
    guides R and R guides L. A float teacher may guide H. For a network that keeps its batch norm
    statistics (`batch_norm: own`), that teacher is the float network which the supernet began
    as, and its tensors are what each layer is corrected by, in the batch as when it is settled.
    """

    @property
    def losses(self) -> tuple[str, ...]:
        """What a step's losses are called, in order."""
        return (*GROUPS, *TERMS)

    def __init__(
        self,
        supernet: Supernet,
        teacher: nn.Module | None,
        recipe: ElasticRecipe,
        styles: Sequence[PlacementStyle],
    ) -> None:
        self.supernet, self.teacher, self.recipe = supernet, teacher, recipe
        self._target: dict[str, FloatBatch] = {}
        self._last: list[SubnetSpec] = []
        self.styles = list(styles)
        self.forms = list(all_forms())
        names = supernet.info.layer_names()[1:]
        self._regularized = [supernet.layer(name).weight for name in names]

    def begin_epoch(self, rng: random.Random) -> None:
        """Prepare for an epoch; nothing to do here."""

    def backward(self, images: Tensor, labels: Tensor, rng: random.Random) -> Tensor:
        """Accumulate the gradients of one step; returns its losses, float32, named in `losses`."""
        form, style = rng.choice(self.forms), rng.choice(self.styles)
        guidance = self.recipe.gpg.guidance
        losses = []
        guide, weight = self._teacher_guide(images)
        self._last = self._groups(form, style, rng)
        for spec in self._last:
            self.supernet.apply(spec)
            logits = self._logits(images)
            loss = guided_loss(logits, labels, guide, weight)
            losses.append(loss.detach())
            (loss * self._share_of(losses)).backward()
            guide, weight = logits.detach(), guidance
        return torch.cat([torch.stack(losses), self._regularize()])

    def _share_of(self, losses: Sequence[Tensor]) -> Tensor | float:
        """How much the last of these losses counts beside the first, by `gpg.balance`."""
        balance = self.recipe.gpg.balance
        if balance == 0.0 or len(losses) == 1:
            return 1.0
        return (losses[0] / losses[-1].clamp_min(TINY)) ** balance

    def problem_of(self, losses: Tensor, images: Tensor) -> str | None:
        """What of the last step is not finite, in words; None where all of it is.

        losses: as `backward` gave them. images: the batch, float32 [N, C, H, W].
        """
        finite = torch.isfinite(losses).tolist()
        broken = [name for name, fine in zip(self.losses, finite, strict=True) if not fine]
        if not broken:
            return None
        name = broken[0]
        if name not in GROUPS or len(self._last) != len(GROUPS):
            return f"loss '{name}': {first_not_finite(self.supernet, lambda: self._logits(images))}"
        spec = self._last[GROUPS.index(name)]
        self._teacher_guide(images)
        self.supernet.apply(spec)
        place = first_not_finite(self.supernet, lambda: self._logits(images))
        bits = sorted({str(choice) for choice in spec.weights.values()})
        return f"loss of the subnet '{name}' ({spec.form.label()}, {'/'.join(bits)} bits): {place}"

    def _teacher_guide(self, images: Tensor) -> tuple[Tensor | None, float]:
        weight = self.recipe.gpg.teacher
        if self.recipe.batch_norm == "own":
            logits, self._target = float_batch(self.supernet, images)
            return logits, weight
        if self.teacher is None or weight == 0:
            return None, 0.0
        with torch.no_grad():
            return self.teacher(images), weight

    def _logits(self, images: Tensor) -> Tensor:
        """Of the subnet in force, as it will be settled."""
        if self.recipe.batch_norm == "own":
            return corrected(self.supernet, images, self._target)[0]
        logits: Tensor = self.supernet.graph(images)
        return logits

    def _groups(self, form: Form, style: PlacementStyle, rng: random.Random) -> list[SubnetSpec]:
        info, bits = self.supernet.info, self.recipe.bits
        high = min(CARRIER_BITS, max(bits))
        return [
            uniform(info, style, form, high, high),
            random_subnet(info, style, form, rng, bits),
            uniform(info, style, form, min(bits), min(bits)),
        ]

    def _regularize(self) -> Tensor:
        terms = weight_distribution_loss(self._regularized, self.recipe.wdr)
        if any(self.recipe.wdr.values()):
            terms.sum().backward()
        return terms.detach()


class StaticStep(ElasticStep):
    """The same step for one form at one bit-width, or in float: LSQ with the same teacher.

    No group guides another, and nothing needs a weight distribution that serves several grids.
    """

    @property
    def losses(self) -> tuple[str, ...]:
        """The one loss."""
        return ("static",)

    def backward(self, images: Tensor, labels: Tensor, rng: random.Random) -> Tensor:
        """Accumulate the gradients of one step; returns its loss, float32 [1]."""
        static = self.recipe.static
        assert static is not None
        if static.weight_bits is None or static.activation_bits is None:
            self.supernet.apply_float()
        else:
            bits = static.weight_bits, static.activation_bits
            style = rng.choice(self.styles)
            self.supernet.apply(uniform(self.supernet.info, style, static.form, *bits))
        guide, weight = self._teacher_guide(images)
        loss = guided_loss(self._logits(images), labels, guide, weight)
        loss.backward()
        return loss.detach()[None]
