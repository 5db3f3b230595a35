"""Training the float model that the supernet begins as, and that teaches it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from eqnet.spec.errors import TrainingError
from eqnet.spec.progress import Progress
from eqnet.stages.train.feed import Feed
from eqnet.stages.train.recipe import FloatRecipe


def fit_float(model: nn.Module, feed: Feed, recipe: FloatRecipe, progress: Progress) -> None:
    """Train `model` in place with SGD, Nesterov momentum and a cosine schedule.

    Raises TrainingError where the loss of an epoch is no number.
    """
    steps = max(1, recipe.epochs * len(feed))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    progress.start("float training", recipe.epochs)
    model.train()
    for epoch in range(recipe.epochs):
        total = torch.zeros((), device=feed.device)
        for images, labels in feed.epoch(epoch):
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"float training, epoch {epoch + 1}: the loss is not finite (allowed: numbers; try "
                "a lower float_model.learning_rate)"
            )
        progress.advance(loss=float(total) / max(1, len(feed)))
    progress.finish()
    model.eval()
