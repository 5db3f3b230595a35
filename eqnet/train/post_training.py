"""Post-training: the scales of every form for a float model, from a few hundred images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqnet.backend.decisions import classes_of, decide
from eqnet.backend.images import SUFFIXES
from eqnet.backend.preprocess import preprocess
from eqnet.data import Dataset, Images, open_dataset
from eqnet.data.folders import STRAY
from eqnet.models.loader import load_model
from eqnet.models.weights import load_weights, read_tensors
from eqnet.spec.errors import CaptureError, CheckpointError, DataError, UsageError
from eqnet.spec.inputs import Inputs
from eqnet.spec.progress import Progress, Silent
from eqnet.supernet.calibrate import calibrate
from eqnet.supernet.capture import check_same_function
from eqnet.supernet.checkpoint import Header, save_supernet
from eqnet.supernet.measure import batch_size
from eqnet.supernet.supernet import Supernet
from eqnet.train.inputs import Chosen, implied, with_inputs

CHECK_IMAGES = 4
MAX_DIFFERENCE = 1e-3
# 1,000 images of 224 x 224 pixels: a minute of a float ResNet-50 on two cores.
MAX_TEST_VALUES = 1000 * 3 * 224 * 224
IDX_FOLDERS = ("FashionMNIST", "raw")
# Of a network whose weights say how many they are; any number would do.
USUAL_CLASSES = 1000
RANDOM_WEIGHTS = "no weights given: the model has random weights, and its accuracy means nothing"


class _Accuracy(NamedTuple):
    """Top-1 accuracy in [0, 1], None where it is not known, and what it was measured on."""

    value: float | None
    images: str | None


def post_training(
    *,
    model: str,
    weights: Path | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    inputs: Inputs | None = None,
    out: Path,
    images: int = 256,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a supernet of a float classifier in the folder `out`; nothing is trained.

    model: source of the architecture, weights: its state dict. data: folder of the dataset
    `dataset` (None: Fashion-MNIST where `data` holds its files, else a folder of images, with
    classes or without). inputs: how images become inputs, where that is not what the network's
    own configuration says (timm's, torchvision's weights', else as is usual for ImageNet).
    images: training images that the scales are searched on. seed: of random initial weights.
    Returns a summary: `inputs` and `inputs_from` say what was chosen and whence; `warning` and
    `notes`, where there are any, are for the user's eyes.
    Raises UsageError, DataError, CheckpointError, CaptureError or OutputError.
    """
    if images < 1:
        raise UsageError(f"{images} images (allowed: 1 or more)")
    progress = progress or Silent()
    inputs = inputs or Inputs()
    opened = open_dataset(dataset or guess_dataset(data), data)
    source, chosen_inputs = _with_inputs(model, weights, opened, inputs, seed, allow_code)
    net = _load(model, weights, source, seed, allow_code)
    batch = batch_size(source.input_shape)
    classes = _classes(net, source, chosen_inputs)
    warnings = [*chosen_inputs.warnings, *([] if weights else [RANDOM_WEIGHTS])]
    notes = list(source.notes)
    test = parity = _Accuracy(None, None)
    if classes_of(classes) == len(source.classes):
        test = _float_accuracy(net, source, source.test(), batch, progress)
        parity = _float_accuracy(net, source, source.parity(), batch, progress)
    elif source.classes:
        warnings.append(
            f"the model has {classes_of(classes)} classes and the data {len(source.classes)}: "
            "labels are not used, accuracies stay unknown (an image folder's classes.txt names "
            "all classes)"
        )
    if test.value is None and len(source.classes) in (0, classes_of(classes)):
        notes.append("the images have no labels: accuracies stay unknown")
    supernet = _capture(model, net, source)
    chosen = source.calibration()
    count = min(images, len(chosen))
    calibrate(supernet, list(_inputs(chosen, source, batch, count)), progress)
    header = Header(
        model=model, input_shape=source.input_shape, classes=classes, dataset=source.name,
        data_root=None if data is None else str(data.resolve()),
        preprocessing=source.preprocessing, method="post_training",
        seed=seed, float_accuracy=test.value, test_images=test.images,
        float_parity_accuracy=parity.value,
    )  # fmt: skip
    path = save_supernet(out, supernet, header)
    summary: dict[str, Any] = {
        "supernet": str(path),
        "layers": len(supernet.info.layers),
        "tensors": len(supernet.info.tensors),
        "calibration_images": count,
        "float_accuracy": test.value,
        "test_images": test.images,
        "inputs": source.preprocessing.model_dump(mode="json"),
        "inputs_from": chosen_inputs.origin(inputs),
        "notes": notes,
    }
    return {**summary, "warning": "; ".join(warnings)} if warnings else summary


def guess_dataset(data: Path | None) -> str:
    """The dataset that a folder holds. Raises DataError where it holds none that is known."""
    if data is None:
        return "fashion_mnist"
    if not data.is_dir():
        raise DataError(f"{data}: no such folder (allowed: a folder of images, or of IDX files)")
    try:
        paths = [path for path in data.iterdir() if not path.name.startswith(".")]
        names = [path.name for path in paths if path.is_dir() and path.name not in STRAY]
    except OSError as error:
        raise DataError(f"{data}: cannot read: {error.strerror}") from error
    pictures = any(path.name.lower().endswith(SUFFIXES) for path in paths)
    if pictures or [name for name in names if name not in IDX_FOLDERS]:
        return "image_folder"
    if names or any("-ubyte" in path.name for path in paths):
        return "fashion_mnist"
    raise DataError(
        f"{data}: no data found (allowed: images, in a folder for each class or without, or "
        "Fashion-MNIST's IDX files)"
    )


def _with_inputs(
    model: str, weights: Path | None, dataset: Dataset, inputs: Inputs, seed: int, allow_code: bool
) -> tuple[Dataset, Chosen]:
    """The dataset with the network's inputs, for which the network may be built once more."""

    def build(channels: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            classes = len(dataset.classes) or None
            return load_model(model, classes=classes, in_channels=channels, allow_code=allow_code)

    shapes = None if weights is None else lambda net: _shapes(weights)
    return with_inputs(model, dataset, inputs, build, shapes)


def _load(
    model: str, weights: Path | None, dataset: Dataset, seed: int, allow_code: bool
) -> nn.Module:
    """The float model, with as many classes as its weights have, else as the dataset has."""
    channels = dataset.input_shape[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)

        def build(count: int | None) -> nn.Module:
            return load_model(model, classes=count, in_channels=channels, allow_code=allow_code)

        if weights is None:
            return build(len(dataset.classes) or None)
        classes = len(dataset.classes) or USUAL_CLASSES
        net = build(classes)
        found = implied(_shapes(weights), net, lambda: build(classes + 1), classes)
        net = net if found == classes else build(found)
    load_weights(net, weights)
    return net


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in read_tensors(weights).items()}


def _inputs(images: Images, dataset: Dataset, batch: int, count: int) -> Iterator[Tensor]:
    for pixels, _ in _read(images, batch, count):
        yield torch.from_numpy(preprocess(pixels, dataset.preprocessing))


def _read(images: Images, batch: int, count: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, count, batch):
        yield images.read(start, min(start + batch, count))


@torch.no_grad()
def _classes(net: nn.Module, dataset: Dataset, chosen: Chosen) -> int:
    """Run one image; the width of the logits. Raises CaptureError or CheckpointError."""
    example = next(_inputs(dataset.calibration(), dataset, 1, 1))
    try:
        logits = net(example)
    except Exception as error:  # a model may refuse an input with anything
        line = " ".join(str(error).split()) or type(error).__name__
        raise CaptureError(
            f"the model does not accept an input of shape {list(example.shape)}: {line} "
            f"({'; '.join(chosen.warnings) or f'inputs are by {chosen.config.origin}'}; see size "
            "and channels)"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise CaptureError("the model's output is not one tensor of logits [N, classes]")
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError("the model's logits are not finite (allowed: weights that work)")
    return int(logits.shape[1])


@torch.no_grad()
def _float_accuracy(
    net: nn.Module, dataset: Dataset, images: Images, batch: int, progress: Progress
) -> _Accuracy:
    """Accuracy on a split, or on its first images where there are many large ones."""
    channels, height, width = dataset.input_shape
    count = min(len(images), max(1, MAX_TEST_VALUES // (channels * height * width)))
    right = known = 0
    progress.start("float accuracy", count)
    for pixels, labels in _read(images, batch, count):
        found = decide(net(torch.from_numpy(preprocess(pixels, dataset.preprocessing))).numpy())
        right += int(((found == labels) & (labels >= 0)).sum())
        known += int((labels >= 0).sum())
        progress.advance(len(labels))
    progress.finish()
    name = images.name if count == len(images) else f"{images.name}, the first {count}"
    return _Accuracy(right / known, name) if known else _Accuracy(None, None)


def _capture(source: str, net: nn.Module, dataset: Dataset) -> Supernet:
    """The supernet, checked to be the same float function. Raises CaptureError if it is not."""
    original = copy.deepcopy(net)
    supernet = Supernet(net, dataset.input_shape)
    supernet.apply_float()
    images = torch.cat(list(_inputs(dataset.calibration(), dataset, CHECK_IMAGES, CHECK_IMAGES)))
    with torch.no_grad():
        size = float(original(images.clone()).abs().max())
    difference = check_same_function(original, supernet.graph, images)
    if not difference <= MAX_DIFFERENCE * max(size, 1e-12):
        raise CaptureError(
            f"{source}: the captured network computes another function: its logits differ by "
            f"{difference:.3g} at a size of {size:.3g} (allowed: {MAX_DIFFERENCE} of it)"
        )
    return supernet
