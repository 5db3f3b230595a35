"""Accuracy of an artifact on the whole test set of its dataset."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.decisions import classes_of
from eqnet.backend.discovery import find_exporter
from eqnet.data import open_dataset
from eqnet.data.images import Images
from eqnet.spec.errors import DataError, UsageError
from eqnet.spec.manifest import MODEL, REFERENCE, Manifest
from eqnet.spec.reports import Check
from eqnet.verify import checks
from eqnet.verify.execute import (
    BATCH,
    STAND_IN,
    Execution,
    Progress,
    Target,
    count_correct,
    open_graph,
)

# Preparation that image classifiers are trained with: a crop of 224 out of 256.
RESIZE_PER_CROP = 256 / 224


def whole_test_set(manifest: Manifest, root: Path) -> Images:
    """The whole test set of the dataset that the manifest names. Raises DataError, UsageError."""
    name = manifest.model.dataset
    if name is None:
        raise UsageError("--data: this artifact's manifest names no dataset to read it as")
    side = manifest.model.input_shape[1]
    images = open_dataset(name, root, crop=side, resize=round(side * RESIZE_PER_CROP)).test()
    if len(images) == 0:
        raise DataError(f"{root}: no test images")
    return images


def check_accuracy(
    folder: Path,
    manifest: Manifest,
    target: Target,
    root: Path,
    threads: int | None,
    progress: Progress | None,
) -> tuple[Check, float, int]:
    """The accuracy check, the accuracy in [0, 1] and the number of images.

    The reference is ``reference.onnx`` without optimizations: export checked it against
    PyTorch, whose own result on these images is not stored.
    """
    images = whole_test_set(manifest, root)
    deployed = open_graph(target.executor, folder / MODEL, manifest, optimize=True, threads=threads)
    reference = open_graph(
        find_exporter(STAND_IN), folder / REFERENCE, manifest, optimize=False, threads=threads
    )
    correct = _count((deployed, reference), images, manifest, progress)
    found, expected = (count / len(images) for count in correct)
    check = checks.accuracy_drop(
        "test_accuracy_drop",
        expected,
        found,
        len(images),
        manifest.profile.parity.accuracy_drop,
    )
    return check, found, len(images)


def _count(
    executions: tuple[Execution, Execution],
    images: Images,
    manifest: Manifest,
    progress: Progress | None,
) -> list[int]:
    correct, done = [0, 0], 0
    classes = classes_of(manifest.model.classes)
    for pixels, labels in images.batches(BATCH):
        if pixels.shape[1:] != manifest.model.input_shape or labels.max() >= classes:
            raise DataError(
                f"{images.name}: images {list(pixels.shape[1:])} with labels up to {labels.max()} "
                f"(allowed: {list(manifest.model.input_shape)}, {classes} classes)"
            )
        counts = count_correct(executions, pixels, labels)
        correct = [total + count for total, count in zip(correct, counts, strict=True)]
        done += len(labels)
        if progress is not None:
            progress("test set", done, len(images))
    return correct
