"""Accuracy of an artifact on the whole test set of its dataset."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.decisions import classes_of
from eqnet.backend.discovery import find_exporter
from eqnet.data import open_dataset
from eqnet.data.image_folder import ImageFolder
from eqnet.data.images import Images
from eqnet.spec.errors import DataError, UsageError
from eqnet.spec.manifest import MODEL, REFERENCE, Manifest
from eqnet.spec.reports import Check
from eqnet.stages.verify import checks
from eqnet.stages.verify.execute import (
    BATCH,
    STAND_IN,
    BatchProgress,
    Deployment,
    Execution,
    count_correct,
    open_graph,
)


def whole_test_set(manifest: Manifest, root: Path) -> tuple[Images, int]:
    """The whole test set of the dataset that the manifest names, and its number of classes.

    Raises DataError or UsageError.
    """
    name = manifest.model.dataset
    if name is None:
        raise UsageError("--data: this artifact's manifest names no dataset to read it as")
    dataset = open_dataset(name, root)
    if isinstance(dataset, ImageFolder):  # images of other datasets are stored in one size
        dataset = dataset.with_inputs(manifest.inputs)
    images = dataset.test()
    if len(images) == 0:
        raise DataError(f"{root}: no test images")
    return images, len(dataset.classes)


def check_accuracy(
    folder: Path,
    manifest: Manifest,
    target: Deployment,
    root: Path,
    threads: int | None,
    progress: BatchProgress | None,
) -> tuple[Check, float | None, int | None]:
    """The accuracy check, the accuracy in [0, 1] and the number of images.

    Without labels, or with those of other classes, the check is skipped and both are None.

    The reference is ``reference.onnx`` without optimizations: export checked it against
    PyTorch, whose own result on these images is not stored.
    """
    images, classes = whole_test_set(manifest, root)
    reason = _unlabelled(images, classes, manifest)
    if reason is not None:
        return checks.skipped("test_accuracy_drop", reason), None, None
    deployed = open_graph(target.executor, folder / MODEL, manifest, optimize=True, threads=threads)
    reference = open_graph(
        find_exporter(STAND_IN), folder / REFERENCE, manifest, optimize=False, threads=threads
    )
    right, expected, labelled = _count((deployed, reference), images, manifest, progress)
    accuracy = right / labelled
    check = checks.accuracy_drop(
        "test_accuracy_drop",
        expected / labelled,
        accuracy,
        labelled,
        manifest.profile.parity.accuracy_drop,
    )
    return check, accuracy, labelled


def _unlabelled(images: Images, classes: int, manifest: Manifest) -> str | None:
    """Why no accuracy can be taken on these images; None where it can."""
    wanted = classes_of(manifest.model.classes)
    if classes not in (0, wanted):
        return f"{images.name}: {classes} classes, the network has {wanted}"
    if classes == 0 or images.take(1)[1][0] < 0:
        return f"{images.name}: they have no labels"
    return None


def _count(
    executions: tuple[Execution, Execution],
    images: Images,
    manifest: Manifest,
    progress: BatchProgress | None,
) -> list[int]:
    """Right answers of each graph, and images with labels."""
    correct, done = [0, 0, 0], 0
    classes = classes_of(manifest.model.classes)
    for pixels, labels in images.batches(BATCH):
        if pixels.shape[1:] != manifest.model.input_shape or labels.max() >= classes:
            raise DataError(
                f"{images.name}: images {list(pixels.shape[1:])} with labels up to {labels.max()} "
                f"(allowed: {list(manifest.model.input_shape)}, {classes} classes)"
            )
        counts = [*count_correct(executions, pixels, labels), int((labels >= 0).sum())]
        correct = [total + count for total, count in zip(correct, counts, strict=True)]
        done += len(labels)
        if progress is not None:
            progress("test set", done, len(images))
    return correct
