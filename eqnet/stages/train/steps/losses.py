"""The losses of EQ-Net: Weight Distribution Regularization and Group Progressive Guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

UNIFORM_KURTOSIS = 1.8


def skewness(weight: Tensor) -> Tensor:
    """Third standardized moment of all entries of a tensor."""
    centred = weight - weight.mean()
    return (centred**3).mean() / (centred**2).mean().clamp_min(1e-12) ** 1.5


def kurtosis(weight: Tensor) -> Tensor:
    """Fourth standardized moment of all entries of a tensor; 1.8 for a uniform distribution."""
    centred = weight - weight.mean()
    return (centred**4).mean() / (centred**2).mean().clamp_min(1e-12) ** 2


# The terms of WDR, of one layer's latent float weight. A recipe's `wdr` weighs them by these names,
# and each is logged. A uniform distribution is what all grids, coarse and fine, lose least on.
TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "skewness": lambda weight: skewness(weight) ** 2,
    "kurtosis": lambda weight: (kurtosis(weight) - UNIFORM_KURTOSIS) ** 2,
}


def weight_distribution_loss(weights: Sequence[Tensor], factors: Mapping[str, float]) -> Tensor:
    """WDR: for each of `TERMS` its factor times its mean over layers, float32 [len(TERMS)].

    weights: the latent float weights, the first layer left out. The paper's loss is the sum,
    the mean over layers of a Skew(W)^2 + b (Kurt(W) - 1.8)^2.
    """
    terms = []
    for name, term in TERMS.items():
        mean = torch.stack([term(weight) for weight in weights]).mean()
        terms.append(factors[name] * mean)
    return torch.stack(terms)


def guided_loss(logits: Tensor, labels: Tensor, guide: Tensor | None, guidance: float) -> Tensor:
    """GPG's loss of one group: lambda KL(student, guide) + (1 - lambda) CE.

    logits, guide: float32 [N, K]; the guide is detached. labels: int64 [N]. Without a guide,
    cross entropy alone; with lambda 1 the guide alone, and labels are not read.
    """
    if guide is None:
        return functional.cross_entropy(logits, labels)
    divergence = functional.kl_div(
        functional.log_softmax(logits, dim=1),
        functional.log_softmax(guide.detach(), dim=1),
        reduction="batchmean",
        log_target=True,
    )
    if guidance == 1.0:
        return divergence
    return guidance * divergence + (1.0 - guidance) * functional.cross_entropy(logits, labels)
