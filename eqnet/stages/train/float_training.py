"""Training the float model that the supernet begins as, and that teaches it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from eqnet.spec.errors import TrainingError
from eqnet.spec.progress import Progress
from eqnet.stages.train.feed import Feed
from eqnet.stages.train.recipe import FloatRecipe
from eqnet.stages.train.state import load_state, save_state


class Kept(NamedTuple):
    """The file that holds the state after each epoch, whose run it is of, and whether to go on."""

    path: Path
    identity: str
    resume: bool


def fit_float(
    model: nn.Module, feed: Feed, recipe: FloatRecipe, progress: Progress, kept: Kept | None = None
) -> None:
    """Train `model` in place with SGD, Nesterov momentum and a cosine schedule.

    kept: None for a run that cannot be resumed. Raises TrainingError where the loss of an epoch
    is no number, and CheckpointError where `kept` is the state of another run.
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    done = 0
    if kept is not None and kept.resume and kept.path.is_file():
        done = load_state(kept.path, model, optimizer, kept.identity)
    past, total = done * len(feed), recipe.epochs * len(feed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(past + step, total))
    progress.start("float training", recipe.epochs)
    progress.advance(done)
    model.train()
    for epoch in range(done, recipe.epochs):
        # What a network draws itself (dropout) must not depend on where a run was resumed.
        torch.manual_seed(feed.seed * 1_000_003 + epoch)
        loss = _epoch(model, feed, epoch, optimizer, schedule)
        feed.workers.average_buffers(model)
        if kept is not None and feed.workers.first:
            save_state(kept.path, model, optimizer, epoch + 1, kept.identity)
        progress.advance(loss=loss)
    progress.finish()
    model.eval()


def _epoch(
    model: nn.Module,
    feed: Feed,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> float:
    total = torch.zeros((), device=feed.device)
    for images, labels in feed.epoch(epoch):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        feed.workers.average_gradients(model.parameters())
        optimizer.step()
        schedule.step()
        total += loss.detach()
    total = feed.workers.average(total)
    if not bool(torch.isfinite(total)):
        raise TrainingError(
            f"float training, epoch {epoch + 1}: the loss is not finite (allowed: numbers; try a "
            "lower float_model.learning_rate)"
        )
    return float(total) / max(1, len(feed))


def cosine(step: int, total: int) -> float:
    """The share of the learning rate that is left after `step` of `total` steps."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, total))))
