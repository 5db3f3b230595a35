"""Measuring subnets for the accuracy predictor, on validation images only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from eqnet.backend.decisions import decide
from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.spec.scheme import BITS, Form, all_forms
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.stages.search.accuracy.features import encode
from eqnet.subnets.build import PlacementStyle, build_spec, choose_bits, groups_of
from eqnet.supernet.checkpoint import read_tensors, require_like
from eqnet.supernet.measure import Batches, kl_divergence, logits
from eqnet.supernet.settling.settle import Calibration
from eqnet.supernet.supernet import Supernet

SAVE_EVERY = 50
SOURCE_KEY = "measured"
REMAINDER_SHARE = 0.15


class MeasuredSubnets(NamedTuple):
    """What was measured of N subnets.

    features: float32 [N, D]. divergence: mean KL in nats to the reference network, float32
    [N, 2], on every other image and on the rest: what the two halves agree in is what can be
    learned. accuracy: in [0, 1], float32 [N, 2], likewise.
    """

    features: NDArray[np.float32]
    divergence: NDArray[np.float32]
    accuracy: NDArray[np.float32]


class Score(NamedTuple):
    """Of one subnet: mean KL in nats, and accuracy, each on the two halves of the images."""

    divergence: tuple[float, float]
    accuracy: tuple[float, float]


def score(
    supernet: Supernet,
    spec: SubnetSpec,
    calibration: Calibration,
    images: Batches,
    reference: Tensor,
) -> Score:
    """Measure a subnet that `calibration` brings into force. reference: logits [N, K]."""
    calibration.settle(supernet, spec)
    found = logits(supernet.graph, images).cpu()
    kl = kl_divergence(reference, found).numpy()
    right = decide(found.numpy()) == images.labels.cpu().numpy()
    return Score(
        (float(kl[::2].mean()), float(kl[1::2].mean())),
        (float(right[::2].mean()), float(right[1::2].mean())),
    )


def draw_subnet(
    info: NetworkInfo, styles: Sequence[PlacementStyle], forms: Sequence[Form], rng: random.Random
) -> SubnetSpec:
    """A subnet to measure: random form, placement, and bits within a random band.

    Bits drawn from all widths alike would give averages near 5 only; a band first spreads the
    averages over the whole space. Some subnets leave whole op groups in the remainder.
    """
    form, style = rng.choice(list(forms)), rng.choice(list(styles))
    weight_band, activation_band = _band(rng), _band(rng)
    dropped = [group for group in sorted(groups_of(info)) if rng.random() < REMAINDER_SHARE]
    weights, activations = choose_bits(
        info, lambda: rng.choice(weight_band), lambda: rng.choice(activation_band)
    )
    for layer in info.layers:
        if layer.group in dropped:
            weights[layer.name] = REMAINDER
    return build_spec(info, style, form, weights, activations)


def _band(rng: random.Random) -> range:
    low, high = sorted((rng.choice(BITS), rng.choice(BITS)))
    return range(low, high + 1)


def measure_labels(
    supernet: Supernet,
    styles: Sequence[PlacementStyle],
    calibration: Calibration,
    validation: Batches,
    reference: Tensor,
    *,
    identity: str,
    count: int,
    seed: int,
    path: Path,
    progress: Progress,
) -> MeasuredSubnets:
    """Measure `count` random subnets; goes on from `path` after an interruption.

    Which subnets are drawn depends on the seed alone. validation: at least two images.
    reference: logits [N, K] on them of the network that KL is taken to. identity: sha256 of the
    supernet; labels in `path` that were measured on another one, or on other images, are made
    anew.
    Raises CheckpointError for a damaged file and for labels of another seed.
    """
    source = f"{identity}:{len(calibration)}:{len(validation)}"
    rng = random.Random(seed)  # noqa: S311  (not for secrets)
    forms = list(all_forms())
    specs = [draw_subnet(supernet.info, styles, forms, rng) for _ in range(count)]
    features = np.stack([encode(supernet.info, spec) for spec in specs])
    scores = _load(path, features, source)
    progress.start("measuring subnets", count)
    progress.advance(len(scores))
    for index in range(len(scores), count):
        scores.append(score(supernet, specs[index], calibration, validation, reference))
        progress.advance(kl=float(np.mean(scores[-1].divergence)))
        if (index + 1) % SAVE_EVERY == 0 or index + 1 == count:
            _save(path, _measured(features[: index + 1], scores), source)
    progress.finish()
    return _measured(features, scores)


def _measured(features: NDArray[np.float32], scores: Sequence[Score]) -> MeasuredSubnets:
    divergence = np.array([one.divergence for one in scores], dtype=np.float32)
    accuracy = np.array([one.accuracy for one in scores], dtype=np.float32)
    return MeasuredSubnets(features, divergence, accuracy)


def _save(path: Path, measured: MeasuredSubnets, source: str) -> None:
    tensors = {name: np.ascontiguousarray(value) for name, value in measured._asdict().items()}
    write_file(path, save(tensors, metadata={SOURCE_KEY: source}))


def _load(path: Path, features: NDArray[np.float32], source: str) -> list[Score]:
    """What an interrupted run has measured; nothing where there is no such file."""
    if not path.is_file():
        return []
    metadata, tensors = read_tensors(path)
    if set(tensors) != set(MeasuredSubnets._fields):
        raise CheckpointError(f"{path}: not labels of a predictor (remove it to measure anew)")
    if metadata.get(SOURCE_KEY) != source:
        return []
    for name, value in tensors.items():
        require_like(path, name, value, torch.zeros(value.shape))
    accuracy, divergence = tensors["accuracy"], tensors["divergence"]
    if not bool(((accuracy >= 0) & (accuracy <= 1)).all()):
        raise CheckpointError(f"{path}: accuracies outside of 0 to 1 (remove it to measure anew)")
    if not bool((divergence >= 0).all()):
        raise CheckpointError(f"{path}: KL below 0 (remove it to measure anew)")
    measured = tensors["features"].numpy()
    pairs = accuracy.ndim == 2 and accuracy.shape == divergence.shape == (len(measured), 2)
    common = min(len(measured), len(features))
    if not pairs or not np.array_equal(measured[:common], features[:common]):
        raise CheckpointError(
            f"{path}: labels of other subnets (allowed: the same seed; or remove it)"
        )
    rows = zip(divergence.tolist()[:common], accuracy.tolist()[:common], strict=True)
    return [Score(tuple(kl), tuple(right)) for kl, right in rows]
