"""CQAP: the Conditional Quantization-Aware Accuracy Predictor of EQ-Net.

A multilayer perceptron from a subnet's condition flags and bits to how far it is from the float
network, and from there by a monotone map to its accuracy. A few of different seeds are averaged.
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
from eqnet.backend.ranks import kendall_tau
from eqnet.spec.errors import CheckpointError
from eqnet.spec.fields import first_problem
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.spec.scheme import Frozen
from eqnet.stages.search.accuracy.features import CODES, OFF, in_common
from eqnet.stages.search.accuracy.labels import MeasuredSubnets
from eqnet.stages.search.accuracy.mapping import TINY, AccuracyOfKl
from eqnet.supernet.checkpoint import read_tensors, require_like

CQAP_FILE = "cqap.safetensors"
WIDTH = 200
HIDDEN_LAYERS = 7
HOLDOUT = 0.2
BATCH = 128
LEAST_IN_BAND = 8

Ranked = NDArray[np.float32] | NDArray[np.float64]


class CqapHeader(Frozen):
    """What the predictor was fitted on, and how well it ranks subnets that it never saw.

    layers, read: of the network, the places whose bits it looks at. mean, deviation: of the
    logarithm of KL. logs, accuracies: of `AccuracyOfKl`. kendall_tau, pearson: between predicted
    and measured KL; log_error: root mean square of its logarithm; local_tau: the mean tau of
    subnets whose average weight bits differ by 0.5 at most. kendall_tau_accuracy: with measured
    accuracy. ceilings: tau between what two halves of the images say of the held-out subnets, of
    KL and of accuracy: no predictor can be expected to do much better.
    """

    schema_version: Literal[2] = 2
    supernet: str
    subnets: int
    images: int
    members: int = Field(ge=1, le=64)
    layers: int = Field(ge=1)
    read: int = Field(ge=1)
    mean: float
    deviation: float = Field(gt=0)
    logs: tuple[float, ...] = Field(min_length=1)
    accuracies: tuple[float, ...] = Field(min_length=1)
    kendall_tau: float = 0.0
    pearson: float = 0.0
    log_error: float = 0.0
    local_tau: float | None = None
    kendall_tau_accuracy: float = 0.0
    ceilings: tuple[float, float] = (0.0, 0.0)


def _member(size: int) -> nn.Sequential:
    hidden: list[nn.Module] = [nn.Linear(size, WIDTH), nn.ReLU()]
    for _ in range(HIDDEN_LAYERS - 2):
        hidden += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1))


def inputs_of(features: NDArray[np.float32], layers: int, read: int) -> NDArray[np.float32]:
    """What a member reads of subnets encoded as [N, D], float32 [N, D + layers + read].

    The features, and for each layer's weights and each tensor that layers read the square of a
    step of its grid, 4^(2 - b) with b bits and 0 in float, to which the energy of rounding is in
    proportion. docs/results.md has what else was tried.
    """
    places = layers + read
    codes = features[:, -places * len(CODES) :].reshape(-1, places, len(CODES))
    energies = [0.0 if bits == OFF else 4.0 ** (2 - bits) for bits in CODES]
    squares = codes @ np.array(energies, np.float32)
    return np.ascontiguousarray(np.concatenate([features, squares], axis=1), dtype=np.float32)


class Cqap(NamedTuple):
    """A fitted predictor for one supernet."""

    header: CqapHeader
    members: nn.ModuleList

    @torch.no_grad()
    def log_divergence(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logarithms of KL in nats, float64 [M, N], by each member, of subnets encoded [N, D]."""
        inputs = torch.from_numpy(inputs_of(features, self.header.layers, self.header.read))
        with _one_thread():
            found = torch.stack([member(inputs)[:, 0] for member in self.members])
        logs: NDArray[np.float64] = found.double().numpy()
        return logs * self.header.deviation + self.header.mean

    @property
    def mapping(self) -> AccuracyOfKl:
        """The accuracy that belongs to a KL."""
        return AccuracyOfKl(np.array(self.header.logs), np.array(self.header.accuracies))

    def log_kl(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean of the members' logarithms of KL, float64 [N]."""
        found: NDArray[np.float64] = self.log_divergence(features).mean(0)
        return found

    def doubts(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """What subnets have in common, float64 [N, D]: a perceptron tells nothing of its parts."""
        return in_common(features)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Accuracies float32 [N], in [0, 1], of subnets encoded as [N, D]."""
        return self.mapping.of(self.log_kl(features))


def fit(
    labels: MeasuredSubnets,
    *,
    info: NetworkInfo,
    supernet: str,
    images: int,
    epochs: int,
    members: int,
    seed: int,
    progress: Progress,
    holdout: float = HOLDOUT,
) -> Cqap:
    """Fit on 80% of the labels, report rank quality on the other 20% (paper: 80/20, SmoothL1).

    The paper's perceptron predicts accuracy, which saturates; here its label is the logarithm of
    KL to the float network, or to the 8-bit one.
    """
    order = np.random.default_rng(seed).permutation(len(labels.features))
    held = order[: int(holdout * len(order))]
    used = order[len(held) :]
    logs = np.log(labels.divergence.mean(1).astype(np.float64) + TINY)
    mapping = AccuracyOfKl.fit(logs[used], labels.accuracy[used].mean(1).astype(np.float64))
    header = CqapHeader(
        supernet=supernet,
        subnets=len(order),
        images=images,
        members=members,
        layers=len(info.layers),
        read=len(info.read_tensors()),
        mean=float(logs[used].mean()),
        deviation=float(logs[used].std() + 1e-6),
        logs=tuple(mapping.logs.tolist()),
        accuracies=tuple(mapping.accuracies.tolist()),
    )
    x = torch.from_numpy(inputs_of(labels.features[used], header.layers, header.read))
    y = torch.from_numpy(((logs[used] - header.mean) / header.deviation).astype(np.float32))
    progress.start("fitting the predictor", members * epochs)
    nets = nn.ModuleList()
    with _one_thread():
        for index in range(members):
            nets.append(fit_member(x, y, epochs, seed * 1000 + index, progress))
    progress.finish()
    fitted = Cqap(header, nets)
    return Cqap(header.model_copy(update=_quality(fitted, labels, held, info)), nets)


def _quality(
    cqap: Cqap, labels: MeasuredSubnets, held: NDArray[np.int64], info: NetworkInfo
) -> dict[str, object]:
    """The header's fields about subnets that were held out; none where there are none."""
    if not len(held):
        return {}
    predicted = cqap.log_divergence(labels.features[held]).mean(0)
    halves, right = labels.divergence[held], labels.accuracy[held]
    truth = np.log(halves.mean(1).astype(np.float64) + TINY)
    return {
        "kendall_tau": kendall_tau(predicted, truth),
        "pearson": pearson(np.exp(predicted), np.exp(truth)),
        "log_error": float(np.sqrt(((predicted - truth) ** 2).mean())),
        "local_tau": local_tau(predicted, truth, average_bits(labels.features[held], info)),
        "kendall_tau_accuracy": kendall_tau(-predicted, right.mean(1)),
        "ceilings": (
            kendall_tau(halves[:, 0], halves[:, 1]),
            kendall_tau(right[:, 0], right[:, 1]),
        ),
    }


def average_bits(features: NDArray[np.float32], info: NetworkInfo) -> NDArray[np.float64]:
    """Mean bits of the weights of subnets encoded as [N, D], by layer; float counts 32."""
    layers, places = len(info.layers), len(info.layers) + len(info.read_tensors())
    codes = features[:, features.shape[1] - places * len(CODES) :]
    widths = np.array([32 if bits == OFF else bits for bits in CODES], np.float64)
    bits = codes.reshape(len(features), places, len(CODES))[:, :layers] @ widths
    found: NDArray[np.float64] = bits @ np.array([one.weights for one in info.layers], np.float64)
    return found / sum(one.weights for one in info.layers)


def local_tau(
    predicted: NDArray[np.float64], truth: NDArray[np.float64], bits: NDArray[np.float64]
) -> float | None:
    """Tau within bands of half a bit, weighed by their subnets; bands of fewer than 8 are left."""
    found, counts = [], []
    for low in np.arange(2.0, 8.0, 0.5):
        band = (bits >= low) & (bits < low + 0.5)
        if band.sum() >= LEAST_IN_BAND:
            found.append(kendall_tau(predicted[band], truth[band]))
            counts.append(int(band.sum()))
    return float(np.average(found, weights=counts)) if found else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit_member(x: Tensor, y: Tensor, epochs: int, seed: int, progress: Progress) -> nn.Sequential:
    """One perceptron from inputs [N, D'] to targets [N]; the seed alone decides."""
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


def pearson(a: Ranked, b: Ranked) -> float:
    """Pearson's correlation in [-1, 1]; 0 where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


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
    told = metadata.get("eqnet", "{}")
    if '"schema_version":1' in told:
        raise CheckpointError(
            f"{path}: a predictor of an earlier version (allowed: version 2; remove it to have "
            "one made)"
        )
    try:
        header = CqapHeader.model_validate_json(told)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a predictor: {first_problem(error)}") from error
    if header.supernet != supernet:
        raise CheckpointError(
            f"{path}: made for another supernet ({header.supernet[:12]}, allowed: "
            f"{supernet[:12]}; remove it to have one made)"
        )
    for name, value in tensors.items():
        require_like(path, name, value, torch.zeros(value.shape, dtype=torch.float16))
    places = header.layers + header.read
    if features <= places * len(CODES) or len(header.logs) != len(header.accuracies):
        raise CheckpointError(f"{path}: of another network than this one")
    members = nn.ModuleList(_member(features + places) for _ in range(header.members))
    try:
        members.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: other tensors than this network needs") from error
    return Cqap(header, members.eval())
