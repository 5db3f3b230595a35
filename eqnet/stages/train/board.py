"""A training run on TensorBoard: losses by group, and how weights are distributed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from eqnet.spec.errors import MissingExtraError
from eqnet.stages.train.steps.losses import kurtosis, skewness
from eqnet.supernet.supernet import Supernet

FOLDER = "tensorboard"


class Board(Protocol):
    """Who is told of a run after each epoch."""

    def losses(self, epoch: int, losses: Mapping[str, float]) -> None:
        """The mean of each loss over an epoch."""
        ...

    def weights(self, epoch: int, supernet: Supernet) -> None:
        """The latent float weights as they are after `epoch` epochs."""
        ...


class NoBoard:
    """Nobody."""

    def losses(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Do nothing."""

    def weights(self, epoch: int, supernet: Supernet) -> None:
        """Do nothing."""


class TensorBoard:
    """Event files in `folder`, which `tensorboard --logdir` shows.

    Epochs that a resumed run computes again take the place of those before. Raises
    MissingExtraError where the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_epoch: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "tensorboard is not installed (pip install 'eqnet[tensorboard]')"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def losses(self, epoch: int, losses: Mapping[str, float]) -> None:
        """One curve for each loss, under ``loss/``."""
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, epoch)
        self._writer.flush()

    @torch.no_grad()
    def weights(self, epoch: int, supernet: Supernet) -> None:
        """A histogram of each layer's weight, and its skewness and kurtosis."""
        for layer in supernet.info.layers:
            weight = supernet.layer(layer.name).weight.detach().float().cpu()
            self._writer.add_histogram(f"weight/{layer.name}", weight, epoch)
            self._writer.add_scalar(f"skewness/{layer.name}", float(skewness(weight)), epoch)
            self._writer.add_scalar(f"kurtosis/{layer.name}", float(kurtosis(weight)), epoch)
        self._writer.flush()


def open_board(folder: Path | None, first_epoch: int) -> Board:
    """A TensorBoard in `folder` from that epoch on; None for no board. Raises MissingExtraError."""
    if folder is None:
        return NoBoard()
    return TensorBoard(folder, first_epoch)
