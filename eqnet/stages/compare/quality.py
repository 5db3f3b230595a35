"""What the models answer on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.artifact import read_parity
from eqnet.backend.decisions import classes_of, decide
from eqnet.backend.judge import compare_with_float, share_interval
from eqnet.backend.preprocess import preprocess
from eqnet.data import open_dataset
from eqnet.data.image_folder import IMAGENET, ImageFolder
from eqnet.spec.errors import DataError, EqnetError
from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.manifest import Preprocessing
from eqnet.stages.compare.candidates import Candidate

MOST_IMAGES = 1000


class CommonImages(NamedTuple):
    """Images that every model is asked about.

    pixels: uint8 [N, C, H, W]; labels: int64 [N], -1 where unknown; rules: for models that say
    none themselves. float_logits: of an artifact's float model, of whom `owner` tells.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rules: Preprocessing
    source: str
    float_logits: NDArray[np.float32] | None = None
    owner: str = ""


class Quality(NamedTuple):
    """One model on the images; None where it is not known."""

    comparison: FloatComparison | None
    interval: tuple[float, float] | None
    accuracy: float | None


UNKNOWN = Quality(None, None, None)


def common_images(candidates: Sequence[Candidate], data: Path | None) -> CommonImages | None:
    """Images of `data`, else those that the first artifact holds; None without either.

    Raises DataError for a folder that cannot be read.
    """
    if data is not None:
        return _of_folder(candidates, data)
    for candidate in candidates:
        if candidate.manifest is not None:
            parity = read_parity(candidate.path, candidate.manifest)
            return CommonImages(
                parity.pixels,
                parity.labels,
                candidate.manifest.preprocessing,
                f"the stored images of {candidate.name}",
                parity.float_logits,
                candidate.name,
            )
    return None


def _of_folder(candidates: Sequence[Candidate], root: Path) -> CommonImages:
    manifests = [one.manifest for one in candidates if one.manifest is not None]
    if manifests:
        name, rules = manifests[0].model.dataset or "image_folder", manifests[0].inputs
    else:
        name, rules = "image_folder", _usual_rules(candidates)
    dataset = open_dataset(name, root)
    if isinstance(dataset, ImageFolder):  # images of other datasets are stored in one size
        dataset = dataset.with_inputs(rules)
    images = dataset.test()
    if len(images) == 0:
        raise DataError(f"{root}: no test images")
    pixels, labels = images.take(MOST_IMAGES)
    return CommonImages(pixels, labels, rules, images.name)


def _usual_rules(candidates: Sequence[Candidate]) -> Preprocessing:
    """As is usual for ImageNet, in the size of the first model that tells one."""
    for candidate in candidates:
        shape = candidate.image_shape()
        if shape is not None and len(shape) == 3 and shape[0] == len(IMAGENET.mean):
            usual = IMAGENET.model_copy(update={"size": None, "resize": None})
            return usual.complete(*shape[1:])
    raise DataError(
        "--data: no model has an input [N, 3, height, width] (allowed: an artifact among the "
        "models, or such an input)"
    )


def qualities(
    candidates: Sequence[Candidate], images: CommonImages | None, seed: int
) -> tuple[list[Quality], str | None]:
    """Each model's answers, and whose they are compared with."""
    if images is None:
        return [UNKNOWN] * len(candidates), None
    answers = [_answers(one, images) for one in candidates]
    truth, reference = _reference(candidates, answers, images)
    if truth is None:
        return [UNKNOWN] * len(candidates), None
    found = []
    for candidate, logits in zip(candidates, answers, strict=True):
        if logits is not None and logits.shape[1] != truth.shape[1]:
            candidate.reasons.append(
                f"no agreement: {logits.shape[1]} classes (the reference has {truth.shape[1]})"
            )
            logits = None
        found.append(UNKNOWN if logits is None else _quality(logits, truth, images, seed))
    return found, reference


def _answers(candidate: Candidate, images: CommonImages) -> NDArray[np.float32] | None:
    """Logits on the images; None, with a reason, where there are none."""
    if candidate.runner is None:
        return None
    shape, wanted = candidate.image_shape(), images.pixels.shape[1:]
    if shape != wanted:
        said = "not of one known size" if shape is None else f"{list(shape)}"
        candidate.reasons.append(f"no agreement: its input is {said} (images: {list(wanted)})")
        return None
    rules = candidate.manifest.preprocessing if candidate.manifest else images.rules
    try:
        return candidate.run(preprocess(images.pixels, rules))
    except EqnetError as error:
        candidate.reasons.append(f"no agreement: {error}")
        return None


def _reference(
    candidates: Sequence[Candidate],
    answers: Sequence[NDArray[np.float32] | None],
    images: CommonImages,
) -> tuple[NDArray[np.float32] | None, str | None]:
    """The float model's stored logits, else the first float model's, else the first one's."""
    if images.float_logits is not None:
        return images.float_logits, f"the float model of {images.owner}"
    known = [pair for pair in zip(candidates, answers, strict=True) if pair[1] is not None]
    for candidate, logits in known:
        if candidate.is_float:
            return logits, candidate.name
    if known:
        return known[0][1], known[0][0].name
    return None, None


def _quality(
    logits: NDArray[np.float32], truth: NDArray[np.float32], images: CommonImages, seed: int
) -> Quality:
    labels = images.labels
    if labels.size and labels.max() >= classes_of(logits.shape[1]):  # of other classes
        labels = np.full_like(labels, -1)
    comparison = compare_with_float(logits, truth, labels, seed=seed)
    known, accuracy, interval = labels >= 0, None, None
    if known.any():
        accuracy = float(np.mean(decide(logits)[known] == labels[known]))
    if comparison.agreement is not None:
        interval = share_interval(comparison.agreement, comparison.images, seed)
    return Quality(comparison, interval, accuracy)
