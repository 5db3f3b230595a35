"""An artifact on images of one's own: a dataset's whole test set, or any folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.decisions import classes_of
from eqnet.backend.discovery import find_exporter
from eqnet.backend.judge import clear_agreement
from eqnet.backend.protocol import Array
from eqnet.data import open_dataset
from eqnet.data.image_folder import ImageFolder
from eqnet.data.images import Images
from eqnet.data.registry import guess_dataset
from eqnet.spec.errors import DataError
from eqnet.spec.judging.comparison import OutputComparison
from eqnet.spec.manifest import MODEL, REFERENCE, Manifest
from eqnet.spec.reports import Check
from eqnet.stages.verify import checks
from eqnet.stages.verify.execute import (
    BATCH,
    STAND_IN,
    BatchProgress,
    Deployment,
    Execution,
    open_graph,
)
from eqnet.stages.verify.outputs import compare_outputs, right_of

IMAGE_FOLDER = "image_folder"


@dataclass(frozen=True)
class OnData:
    """What verification finds on such images.

    accuracy, images: in the runtime, in [0, 1], and of how many; None where they have no labels
    of the network's classes.
    """

    checks: list[Check]
    outputs: list[OutputComparison]
    accuracy: float | None
    images: int | None


def images_of(manifest: Manifest, root: Path) -> tuple[Images, int]:
    """The images of a folder, prepared as the manifest says, and their number of classes.

    A dataset's test set; all images of a folder whose labels say nothing, because there are none
    (0 classes) or those of another network. Raises DataError.
    """
    dataset = open_dataset(guess_dataset(root), root)
    if not isinstance(dataset, ImageFolder):  # its images are stored in one size
        return dataset.test(), len(dataset.classes)
    dataset = dataset.with_inputs(manifest.inputs)
    labelled = len(dataset.classes) == classes_of(manifest.model.classes)
    images = dataset.test() if labelled else dataset.every()
    if len(images) == 0:
        raise DataError(f"{root}: no test images")
    return images, len(dataset.classes)


def check_data(
    folder: Path,
    manifest: Manifest,
    target: Deployment,
    root: Path,
    threads: int | None,
    progress: BatchProgress | None,
) -> OnData:
    """Compare the runtime with ``reference.onnx`` on images of one's own.

    Export checked the reference against PyTorch, whose own results on these images are not
    stored; it runs in ONNX Runtime without optimizations. Without labels, or with those of other
    classes, the check of accuracy is skipped. Raises DataError.
    """
    images, classes = images_of(manifest, root)

    def opened(name: str, optimize: bool) -> Execution:
        executor = target.executor if name == MODEL else find_exporter(STAND_IN)
        return open_graph(executor, folder / name, manifest, optimize=optimize, threads=threads)

    graphs = (opened(MODEL, True), opened(MODEL, False), opened(REFERENCE, False))
    (deployed, semantics, truth), labels = _run(graphs, images, manifest, progress)
    reason = _unlabelled(images, classes, labels, manifest)
    if reason is not None:
        labels = np.full_like(labels, -1)
    outputs = [
        compare_outputs("semantics", "subnet", images.name, semantics, truth, labels),
        compare_outputs("deployed", "subnet", images.name, deployed, truth, labels),
    ]
    found = [_agreement(deployed, truth, manifest)]
    if reason is not None:
        return OnData([*found, checks.skipped("test_accuracy_drop", reason)], outputs, None, None)
    known = labels >= 0
    right, expected = (
        right_of(deployed[known], labels[known]),
        right_of(truth[known], labels[known]),
    )
    accuracy, count = float(right.mean()), int(known.sum())
    limit = manifest.profile.parity.accuracy_drop
    found.append(
        checks.accuracy_drop("test_accuracy_drop", float(expected.mean()), accuracy, count, limit)
    )
    return OnData(found, outputs, accuracy, count)


def _agreement(deployed: Array, truth: Array, manifest: Manifest) -> Check:
    """As `top1_agreement` demands of the stored images."""
    step = float(truth.max() - truth.min()) / 255
    share = clear_agreement(deployed, truth, step)
    limit = manifest.profile.parity.top1_agreement
    return checks.agreement_of("test_agreement", share, len(truth), limit)


def _unlabelled(
    images: Images, classes: int, labels: NDArray[np.int64], manifest: Manifest
) -> str | None:
    """Why no accuracy can be taken on these images; None where it can."""
    wanted = classes_of(manifest.model.classes)
    if classes not in (0, wanted):
        return f"{images.name}: {classes} classes, the network has {wanted}"
    if classes == 0 or not (labels >= 0).any():
        return f"{images.name}: they have no labels"
    return None


def _run(
    graphs: tuple[Execution, ...],
    images: Images,
    manifest: Manifest,
    progress: BatchProgress | None,
) -> tuple[list[Array], NDArray[np.int64]]:
    """Logits of each graph [N, K], and the labels [N]."""
    logits: list[list[Array]] = [[] for _ in graphs]
    known: list[NDArray[np.int64]] = []
    done = 0
    for pixels, labels in images.batches(BATCH):
        if pixels.shape[1:] != manifest.model.input_shape:
            raise DataError(
                f"{images.name}: images {list(pixels.shape[1:])} (allowed: "
                f"{list(manifest.model.input_shape)})"
            )
        for graph, parts in zip(graphs, logits, strict=True):
            parts.append(graph(pixels))
        known.append(labels)
        done += len(labels)
        if progress is not None:
            progress("test set", done, len(images))
    return [np.concatenate(parts) for parts in logits], np.concatenate(known)
