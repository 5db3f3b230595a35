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

from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.spec.scheme import BITS, Form, all_forms
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.stages.search.accuracy.features import encode
from eqnet.subnets.build import PlacementStyle, build_spec, choose_bits, groups_of
from eqnet.supernet.checkpoint import read_tensors, require_like
from eqnet.supernet.measure import Batches
from eqnet.supernet.settling.settle import Calibration, measure
from eqnet.supernet.supernet import Supernet

SAVE_EVERY = 50
SOURCE_KEY = "measured"
REMAINDER_SHARE = 0.15


class MeasuredSubnets(NamedTuple):
    """features float32 [N, D] and accuracy float32 [N] in [0, 1]."""

    features: NDArray[np.float32]
    accuracy: NDArray[np.float32]


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
    *,
    identity: str,
    count: int,
    seed: int,
    path: Path,
    progress: Progress,
) -> MeasuredSubnets:
    """Measure `count` random subnets; goes on from `path` after an interruption.

    Which subnets are drawn depends on the seed alone. identity: sha256 of the supernet; labels
    in `path` that were measured on another one, or on other images, are made anew.
    Raises CheckpointError for a damaged file and for labels of another seed.
    """
    source = f"{identity}:{len(calibration)}:{len(validation)}"
    rng = random.Random(seed)  # noqa: S311  (not for secrets)
    forms = list(all_forms())
    specs = [draw_subnet(supernet.info, styles, forms, rng) for _ in range(count)]
    features = np.stack([encode(supernet.info, spec) for spec in specs])
    accuracies = _load(path, features, source)
    progress.start("measuring subnets", count)
    progress.advance(len(accuracies))
    for index in range(len(accuracies), count):
        accuracies.append(measure(supernet, specs[index], calibration, validation))
        progress.advance(accuracy=accuracies[-1])
        if (index + 1) % SAVE_EVERY == 0 or index + 1 == count:
            _save(path, features[: index + 1], accuracies, source)
    progress.finish()
    return MeasuredSubnets(features, np.asarray(accuracies, dtype=np.float32))


def _save(path: Path, features: NDArray[np.float32], accuracies: list[float], source: str) -> None:
    accuracy = np.asarray(accuracies, dtype=np.float32)
    tensors = {"features": np.ascontiguousarray(features), "accuracy": accuracy}
    write_file(path, save(tensors, metadata={SOURCE_KEY: source}))


def _load(path: Path, features: NDArray[np.float32], source: str) -> list[float]:
    """Accuracies that an interrupted run has measured; none where there is no such file."""
    if not path.is_file():
        return []
    metadata, tensors = read_tensors(path)
    if set(tensors) != {"features", "accuracy"}:
        raise CheckpointError(f"{path}: not labels of a predictor (remove it to measure anew)")
    if metadata.get(SOURCE_KEY) != source:
        return []
    for name, value in tensors.items():
        require_like(path, name, value, torch.zeros(value.shape))
    if not bool(((tensors["accuracy"] >= 0) & (tensors["accuracy"] <= 1)).all()):
        raise CheckpointError(f"{path}: accuracies outside of 0 to 1 (remove it to measure anew)")
    measured, accuracy = tensors["features"].numpy(), tensors["accuracy"].reshape(-1).tolist()
    common = min(len(accuracy), len(features))
    if len(measured) != len(accuracy) or not np.array_equal(measured[:common], features[:common]):
        raise CheckpointError(
            f"{path}: labels of other subnets (allowed: the same seed; or remove it)"
        )
    return [float(value) for value in accuracy[:common]]
