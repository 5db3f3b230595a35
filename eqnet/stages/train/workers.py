"""Processes that train one network together, each on its part of every batch.

They are started by `accelerate launch` or `torchrun`. All draw the same subnets from the same seed,
so the gradients of all subnets of a step are averaged once, in one message: parameters that a
step does not use have no gradient in any process, and cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eqnet.spec.errors import MissingExtraError, UsageError
from eqnet.stages.train.devices import pick_device


@dataclass(frozen=True)
class Workers:
    """This process among those that train: its number, how many there are, and its device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def part_of(self, batch: int) -> int:
        """Images of a batch that each process takes. Raises UsageError where it does not divide."""
        if batch % self.count:
            raise UsageError(f"a batch of {batch} for {self.count} processes (allowed: a multiple)")
        return batch // self.count

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""
        if self.count == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self.average(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, mean.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    @torch.no_grad()
    def average_buffers(self, net: nn.Module) -> None:
        """Replace what each process knows of its own images, such as statistics, by the mean."""
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.average(buffer))

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes; itself where there is one."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        mean: Tensor = reduce(values, "mean")
        return mean

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def is_first() -> bool:
    """Whether this process writes files and talks to the user, among those of a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def open_workers(device: str) -> Workers:
    """The processes that a launcher has started; one where there is none.

    device: "auto", "cpu" or "cuda". Raises UsageError, or MissingExtraError without accelerate.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Workers(pick_device(device))
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError(
            "accelerate is not installed (pip install 'eqnet[train]'), which several processes need"
        ) from error
    state = PartialState(cpu=pick_device(device).type == "cpu")
    return Workers(torch.device(state.device), state.process_index, state.num_processes)
