"""Post-training: the scales of every form for a float model, from a few hundred images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqnet.backend.preprocess import preprocess
from eqnet.data import Dataset, Images, open_dataset
from eqnet.models.loader import LIBRARIES, load_model
from eqnet.models.outside import seeded
from eqnet.models.weights import WeightFile
from eqnet.spec.errors import CaptureError, CheckpointError, DataError, UsageError
from eqnet.spec.progress import Progress, Silent
from eqnet.supernet.calibrate import calibrate
from eqnet.supernet.checkpoint import Header, require_restorable, save_supernet
from eqnet.supernet.float_checks import (
    require_repeatable,
    require_same_function,
    require_same_when_built_again,
)
from eqnet.supernet.measure import batch_size
from eqnet.supernet.supernet import Supernet

CHECK_IMAGES = 4
# 1,000 images of 224 x 224 pixels: a minute of a float ResNet-50 on two cores.
MAX_TEST_VALUES = 1000 * 3 * 224 * 224
IDX_FOLDERS = ("FashionMNIST", "raw")
RANDOM_WEIGHTS = "no weights given: the model has random weights, and its accuracy means nothing"


class _Accuracy(NamedTuple):
    """Top-1 accuracy in [0, 1], None where it is not known, and what it was measured on."""

    value: float | None
    images: str | None


def post_training(
    *,
    model: str,
    weights: Path | None = None,
    weights_key: str | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    out: Path,
    images: int = 256,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a supernet of a float classifier in the folder `out`; nothing is trained.

    model: source of the architecture, weights: its state dict, or a checkpoint that has one.
    weights_key: which weights of a checkpoint with several. data: folder of the dataset
    `dataset` (None: an image folder where `data` has one folder a class, else Fashion-MNIST).
    images: training images that the scales are searched on. seed: of random initial weights.
    Returns a summary; its `warning`, where there is one, is for the user's eyes.
    Raises UsageError, DataError, CheckpointError, CaptureError or OutputError.
    """
    if images < 1:
        raise UsageError(f"{images} images (allowed: 1 or more)")
    progress = progress or Silent()
    source = open_dataset(dataset or guess_dataset(data), data)
    file = WeightFile(weights, weights_key) if weights else None
    net, warnings = _load(model, file, source, seed, allow_code)
    batch = batch_size(source.input_shape)
    classes = _classes(net, source)
    test = parity = _Accuracy(None, None)
    if classes == len(source.classes):
        test = _float_accuracy(net, source, source.test(), batch, progress)
        parity = _float_accuracy(net, source, source.parity(), batch, progress)
    else:
        warnings.append(
            f"the model has {classes} classes and the data {len(source.classes)}: labels are not "
            "used, accuracies stay unknown (an image folder's classes.txt names all classes)"
        )
    again = _load(model, file, source, seed + 1, allow_code)[0] if file else None
    supernet = _capture(model, net, again, source)
    header = Header(
        model=model, input_shape=source.input_shape, classes=classes, dataset=source.name,
        data_root=None if data is None else str(data.resolve()), method="post_training",
        seed=seed, float_accuracy=test.value, test_images=test.images,
        float_parity_accuracy=parity.value, random_weights=file is None,
    )  # fmt: skip
    if model.partition(":")[0] not in LIBRARIES:
        require_restorable(supernet, header)
    chosen = source.calibration()
    count = min(images, len(chosen))
    calibrate(supernet, list(_inputs(chosen, source, batch, count)), progress)
    path = save_supernet(out, supernet, header)
    summary: dict[str, Any] = {
        "supernet": str(path),
        "layers": len(supernet.info.layers),
        "tensors": len(supernet.info.tensors),
        "calibration_images": count,
        "float_accuracy": test.value,
        "test_images": test.images,
    }
    return {**summary, "warning": "; ".join(warnings)} if warnings else summary


def guess_dataset(data: Path | None) -> str:
    """The dataset that a folder holds. Raises DataError where it holds none that is known."""
    if data is None:
        return "fashion_mnist"
    if not data.is_dir():
        raise DataError(f"{data}: no such folder (allowed: one folder of images a class, or IDX)")
    try:
        names = sorted(path.name for path in data.iterdir() if path.is_dir())
        files = any("-ubyte" in path.name for path in data.iterdir())
    except OSError as error:
        raise DataError(f"{data}: cannot read: {error.strerror}") from error
    if [name for name in names if not name.startswith(".") and name not in IDX_FOLDERS]:
        return "image_folder"
    if files or names:
        return "fashion_mnist"
    raise DataError(
        f"{data}: no data found (allowed: one folder of images a class, or Fashion-MNIST's IDX "
        "files)"
    )


def _load(
    model: str, weights: WeightFile | None, dataset: Dataset, seed: int, allow_code: bool
) -> tuple[nn.Module, list[str]]:
    """The float model, with as many classes as its weights have, else as the dataset has.

    Returns also what the user should know of the weights.
    """
    channels, classes = dataset.input_shape[0], len(dataset.classes)
    with seeded(seed):

        def build(count: int) -> nn.Module:
            return load_model(model, classes=count, in_channels=channels, allow_code=allow_code)

        net = build(classes)
        if weights is None:
            return net, [RANDOM_WEIGHTS]
        found = _classes_of(weights, dataset, net, lambda: build(classes + 1))
        net = net if found == classes else build(found)
    return net, list(weights.load(net))


def _classes_of(
    weights: WeightFile, dataset: Dataset, net: nn.Module, larger: Callable[[], nn.Module]
) -> int:
    """Classes that a file of weights is for, as the shapes of its tensors tell.

    net: the network with as many classes as the data; larger: makes it with one class more, so
    that the tensors that grow with the classes show, wherever the head stands.
    """
    found = {name: tensor.shape for name, tensor in weights.chosen(net).tensors.items()}
    own = {name: tensor.shape for name, tensor in net.state_dict().items()}
    classes = len(dataset.classes)
    odd = [name for name in own if len(found.get(name, ())) == len(own[name]) != 0]
    odd = [name for name in odd if found[name] != own[name]]
    grown = larger().state_dict() if odd else {}
    for name in odd:
        for given, usual, more in zip(found[name], own[name], grown[name].shape, strict=True):
            if more != usual:
                return max(1, int(classes + (given - usual) // (more - usual)))
    return classes


def _inputs(images: Images, dataset: Dataset, batch: int, count: int) -> Iterator[Tensor]:
    for pixels, _ in _read(images, batch, count):
        yield torch.from_numpy(preprocess(pixels, dataset.preprocessing))


def _read(images: Images, batch: int, count: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, count, batch):
        yield images.read(start, min(start + batch, count))


@torch.no_grad()
def _classes(net: nn.Module, dataset: Dataset) -> int:
    """Run one image; the width of the logits. Raises CaptureError or CheckpointError."""
    example = next(_inputs(dataset.calibration(), dataset, 1, 1))
    try:
        logits = net(example)
    except Exception as error:  # a model may refuse an input with anything
        line = " ".join(str(error).split()) or type(error).__name__
        raise CaptureError(
            f"the model does not accept an input of shape {list(example.shape)}: {line}"
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
        found = net(torch.from_numpy(preprocess(pixels, dataset.preprocessing))).argmax(1).numpy()
        right += int(((found == labels) & (labels >= 0)).sum())
        known += int((labels >= 0).sum())
        progress.advance(len(labels))
    progress.finish()
    name = images.name if count == len(images) else f"{images.name}, the first {count}"
    return _Accuracy(right / known, name) if known else _Accuracy(None, None)


def _capture(source: str, net: nn.Module, again: nn.Module | None, dataset: Dataset) -> Supernet:
    """The supernet, checked to be the same float function. Raises CaptureError if it is not.

    again: the model built with other random numbers and filled from the same weights.
    """
    images = torch.cat(list(_inputs(dataset.calibration(), dataset, CHECK_IMAGES, CHECK_IMAGES)))
    run = require_repeatable(net, images)
    if again is not None:
        require_same_when_built_again(source, net, again, run, images)
    supernet = Supernet(net, dataset.input_shape)
    supernet.apply_float()
    require_same_function(source, run, supernet.graph, images)
    return supernet
