"""Whether a float model is a function of its images alone, and where it is not, why."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from eqnet.capture.source_lines import line_of_frame
from eqnet.capture.writes import tensors_in
from eqnet.models.outside import outside_tensors, seeded
from eqnet.spec.errors import CaptureError

# Sums of floats in another order differ by less than this share of the largest logit.
SAME_RUN = 1e-5
MAX_DIFFERENCE = 1e-3
# A layer that is left out now and then is seen in one of so many runs of a few images.
RUNS = 6


class Draw(NamedTuple):
    """An operation that draws random numbers: its name, where it stands, a digest of its result."""

    name: str
    line: str
    value: float


class FloatRun(NamedTuple):
    """What a float model computes [N, K], and what was seen of how it does."""

    logits: Tensor
    draws: tuple[Draw, ...]
    autocast: str | None


class _Draws(TorchDispatchMode):
    """Within: notes operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it so
        self.seen: list[Draw] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`."""
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            value = sum(_digest(tensor) for tensor in tensors_in(result)[:1])
            name = func._schema.name.partition("::")[2].rstrip("_")
            self.seen.append(Draw(name, line_of_frame(sys._getframe(1)), value))
        return result


def _digest(tensor: Tensor) -> float:
    """A number that tells tensors apart, permutations of one another too."""
    flat = tensor.detach().double().flatten()
    return float(flat @ torch.arange(1, len(flat) + 1, dtype=flat.dtype, device=flat.device))


class _Autocast(TorchFunctionMode):
    """Within: notes the first line that computes under autocast, if that was off before."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device, self._outer = device, torch.is_autocast_enabled(device)
        self.line: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`."""
        if self.line is None and not self._outer and torch.is_autocast_enabled(self._device):
            self.line = line_of_frame(sys._getframe(1))
        return func(*args, **(kwargs or {}))


def run_float(model: nn.Module, images: Tensor, seed: int = 0) -> FloatRun:
    """Logits of images [N, C, H, W], which stay as they are even if the model writes into them."""
    draws, autocast = _Draws(), _Autocast(images.device.type)
    with torch.no_grad(), seeded(seed), autocast, draws:
        logits = model(images.clone())
    return FloatRun(logits.float(), tuple(draws.seen), autocast.line)


def require_repeatable(model: nn.Module, images: Tensor) -> FloatRun:
    """A model's run, if other runs on the same images give the same logits.

    Raises CaptureError that names the random operation, where there is one.
    """
    first = run_float(model, images)
    runs = RUNS if first.draws else 2
    for seed in range(1, runs):
        again = run_float(model, images, seed)
        apart = relative_difference(first.logits, again.logits)
        if not apart <= SAME_RUN:
            raise CaptureError(_random(first, again, apart))
    return first


def _random(first: FloatRun, again: FloatRun, apart: float) -> str:
    draw = _first_other(first.draws, again.draws)
    share = f"logits of the same images differ by {apart:.2g} of their size from run to run"
    if draw is None:
        return f"the model computes otherwise each time: {share} (allowed: a function of the image)"
    return (
        f"{draw.line}: operation '{draw.name}' draws random numbers in evaluation mode: {share} "
        "(allowed: dropout and the like that are off then, such as nn.Dropout or "
        "dropout(x, training=self.training))"
    )


def _first_other(draws: tuple[Draw, ...], others: tuple[Draw, ...]) -> Draw | None:
    """The first draw that another run did not have at its place, or None."""
    for draw, other in zip(draws, others, strict=False):
        if draw != other:
            return draw
    return None


def same_run(run: FloatRun, other: FloatRun) -> bool:
    """Whether two runs gave the same logits."""
    return relative_difference(run.logits, other.logits) <= SAME_RUN


def relative_difference(logits: Tensor, other: Tensor) -> float:
    """Largest difference of two tensors of logits as a share of the first one's largest."""
    if logits.shape != other.shape:
        return float("inf")
    return float((logits - other).abs().max()) / max(float(logits.abs().max()), 1e-12)


def require_same_function(source: str, run: FloatRun, captured: nn.Module, images: Tensor) -> None:
    """The captured network in float computes what `run` did. Raises CaptureError with the reason.

    images: [N, C, H, W], those of the run.
    """
    with torch.no_grad():
        apart = relative_difference(run.logits, captured.eval()(images.clone()))
    if apart <= MAX_DIFFERENCE:
        return
    if run.autocast is not None:
        raise CaptureError(
            f"{run.autocast}: autocast inside of forward computes in fewer bits, which the "
            f"captured network does not: its logits differ by {apart:.2g} of their size (allowed: "
            "float32 inside; autocast around the model, not in it)"
        )
    raise CaptureError(
        f"{source}: the captured network computes another function: its logits differ by "
        f"{apart:.3g} of their size (allowed: {MAX_DIFFERENCE})"
    )


def require_same_when_built_again(
    source: str, model: nn.Module, again: nn.Module, run: FloatRun, images: Tensor
) -> None:
    """`again`, built with other random numbers and filled from the same weights, computes `run`.

    Otherwise the network that the weights were saved from is not known. Raises CaptureError
    that names the tensors that the weights lack.
    """
    other = run_float(again, images)
    apart = relative_difference(run.logits, other.logits)
    if apart <= SAME_RUN:
        return
    first, second = outside_tensors(model), outside_tensors(again)
    names = [name for name, tensor in first.items() if not _equal(tensor, second.get(name))]
    what = ", ".join(f"'{name}'" for name in names[:3]) or "something that is in no state dict"
    raise CaptureError(
        f"{source}: {what} is random whenever the model is built, and its weights do not hold it: "
        f"logits differ by {apart:.2g} of their size from one building to the next (allowed: a "
        "persistent buffer, or a file of weights that has these tensors too)"
    )


def _equal(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and tensor.shape == other.shape and torch.equal(tensor, other)
