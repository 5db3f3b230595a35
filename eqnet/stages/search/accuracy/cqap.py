"""CQAP: the Conditional Quantization-Aware Accuracy Predictor of EQ-Net.

A multilayer perceptron from a subnet's condition flags and one-hot bits to its accuracy. A few
networks of different seeds are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError
from eqnet.spec.fields import first_problem
from eqnet.spec.progress import Progress
from eqnet.spec.scheme import Frozen
from eqnet.stages.search.accuracy.labels import MeasuredSubnets
from eqnet.supernet.checkpoint import read_tensors, require_like

CQAP_FILE = "cqap.safetensors"
WIDTH = 200
HIDDEN_LAYERS = 7
HOLDOUT = 0.2
BATCH = 128


class CqapHeader(Frozen):
    """What the predictor was fitted on, and how well it ranks subnets that it never saw."""

    schema_version: Literal[1] = 1
    supernet: str
    subnets: int
    images: int
    members: int = Field(ge=1, le=64)
    mean: float
    deviation: float
    kendall_tau: float
    pearson: float
    mean_absolute_error: float


def _member(size: int) -> nn.Sequential:
    hidden: list[nn.Module] = [nn.Linear(size, WIDTH), nn.ReLU()]
    for _ in range(HIDDEN_LAYERS - 2):
        hidden += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1))


class Cqap(NamedTuple):
    """A fitted predictor for one supernet."""

    header: CqapHeader
    members: nn.ModuleList

    @torch.no_grad()
    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Accuracies float32 [N] of subnets encoded as [N, D]."""
        inputs = torch.from_numpy(features)
        with _one_thread():
            mean = torch.stack([member(inputs)[:, 0] for member in self.members]).mean(0)
        result: NDArray[np.float32] = (mean * self.header.deviation + self.header.mean).numpy()
        return result


def fit(
    labels: MeasuredSubnets,
    *,
    supernet: str,
    images: int,
    epochs: int,
    members: int,
    seed: int,
    progress: Progress,
) -> Cqap:
    """Fit on 80% of the labels, report rank quality on the other 20% (paper: 80/20, SmoothL1)."""
    order = np.random.default_rng(seed).permutation(len(labels.accuracy))
    held = order[: int(HOLDOUT * len(order))]
    used = order[len(held) :]
    mean, deviation = float(labels.accuracy[used].mean()), float(labels.accuracy[used].std() + 1e-6)
    x = torch.from_numpy(labels.features)
    y = (torch.from_numpy(labels.accuracy) - mean) / deviation
    progress.start("fitting the predictor", members * epochs)
    nets = nn.ModuleList()
    with _one_thread():
        for index in range(members):
            nets.append(_fit_member(x[used], y[used], epochs, seed * 1000 + index, progress))
    progress.finish()
    header = CqapHeader(
        supernet=supernet,
        subnets=len(order),
        images=images,
        members=members,
        mean=mean,
        deviation=deviation,
        kendall_tau=0.0,
        pearson=0.0,
        mean_absolute_error=0.0,
    )
    predicted = Cqap(header, nets).predict(labels.features[held])
    truth = labels.accuracy[held]
    scored = header.model_copy(
        update={
            "kendall_tau": kendall_tau(predicted, truth),
            "pearson": pearson(predicted, truth),
            "mean_absolute_error": float(np.abs(predicted - truth).mean()),
        }
    )
    return Cqap(scored, nets)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit_member(x: Tensor, y: Tensor, epochs: int, seed: int, progress: Progress) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _member(x.shape[1])
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for chosen in torch.randperm(len(y)).split(BATCH):
                loss = nn.functional.smooth_l1_loss(net(x[chosen])[:, 0], y[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            schedule.step()
            progress.advance(loss=loss.item())
    return net.eval()


def pearson(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's correlation in [-1, 1]; 0 where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def kendall_tau(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Kendall's tau-b: agreement of two rankings in [-1, 1], ties accounted for."""
    upper = np.triu_indices(len(a), 1)
    sign_a = np.sign(a[:, None] - a[None, :])[upper]
    sign_b = np.sign(b[:, None] - b[None, :])[upper]
    pairs = np.sqrt(float((sign_a != 0).sum()) * float((sign_b != 0).sum()))
    if pairs == 0:
        return 0.0
    return float((sign_a * sign_b).sum() / pairs)


def save_cqap(folder: Path, cqap: Cqap) -> Path:
    """Write ``folder/cqap.safetensors``, in float16: a third of a megabyte."""
    tensors = {name: value.half().contiguous() for name, value in cqap.members.state_dict().items()}
    path = folder / CQAP_FILE
    write_file(path, save(tensors, metadata={"eqnet": cqap.header.model_dump_json()}))
    return path


def load_cqap(folder: Path, supernet: str, features: int) -> Cqap:
    """The predictor of a supernet. Raises CheckpointError if it is missing or of another one."""
    path = folder / CQAP_FILE
    metadata, tensors = read_tensors(path)
    try:
        header = CqapHeader.model_validate_json(metadata.get("eqnet", "{}"))
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a predictor: {first_problem(error)}") from error
    if header.supernet != supernet:
        raise CheckpointError(
            f"{path}: made for another supernet ({header.supernet[:12]}, allowed: "
            f"{supernet[:12]}; remove it to have one made)"
        )
    for name, value in tensors.items():
        require_like(path, name, value, torch.zeros(value.shape, dtype=torch.float16))
    members = nn.ModuleList(_member(features) for _ in range(header.members))
    try:
        members.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: other tensors than this network needs") from error
    return Cqap(header, members.eval())
