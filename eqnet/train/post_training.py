"""Post-training: the scales of every form for a float model, from a few hundred images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqnet.backend.decisions import classes_of, decide
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
    FloatRun,
    require_repeatable,
    require_same_function,
    require_same_when_built_again,
    run_float,
    same_run,
)
from eqnet.supernet.measure import batch_size
from eqnet.supernet.supernet import Supernet

CHECK_IMAGES = 4
MANY_IMAGES = 32
# 1,000 images of 224 x 224 pixels: a minute of a float ResNet-50 on two cores.
MAX_TEST_VALUES = 1000 * 3 * 224 * 224
IDX_FOLDERS = ("FashionMNIST", "raw")
RANDOM_WEIGHTS = "no weights given: the model has random weights, and its accuracy means nothing"

ONE_CLASS = (
    f"the first {MANY_IMAGES} calibration images all get one class: the weights look random, "
    "unless the images are of one kind"
)


class _Float(NamedTuple):
    """A float model, its logits on a few images [N, C, H, W], and what the user should know."""

    net: nn.Module
    run: FloatRun
    images: Tensor
    random: bool
    warnings: list[str]


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
    if weights_key is not None and weights is None:
        raise UsageError(f"weights key '{weights_key}' without weights (allowed: both, or none)")
    file = WeightFile(weights, weights_key) if weights else None
    start = _float_model(model, file, source, seed, allow_code)
    net, warnings = start.net, start.warnings
    batch, classes = batch_size(source.input_shape), start.run.logits.shape[1]
    test = parity = _Accuracy(None, None)
    if classes_of(classes) == len(source.classes):
        test = _float_accuracy(net, source, source.test(), batch, progress)
        parity = _float_accuracy(net, source, source.parity(), batch, progress)
    else:
        warnings.append(
            f"the model has {classes_of(classes)} classes and the data {len(source.classes)}: "
            "labels are not used, accuracies stay unknown (an image folder's classes.txt names "
            "all classes)"
        )
    supernet = Supernet(net, source.input_shape)
    supernet.apply_float()
    require_same_function(model, start.run, supernet.graph, start.images)
    header = Header(
        model=model, input_shape=source.input_shape, classes=classes, dataset=source.name,
        data_root=None if data is None else str(data.resolve()), method="post_training",
        seed=seed, float_accuracy=test.value, test_images=test.images,
        float_parity_accuracy=parity.value, random_weights=start.random,
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


def _float_model(
    model: str, file: WeightFile | None, dataset: Dataset, seed: int, allow_code: bool
) -> _Float:
    """The float model, checked to be a function of the images and of its weights alone.

    Raises CheckpointError or CaptureError where it is none.
    """
    net, warnings = _load(model, file, dataset, seed, allow_code)
    _require_logits(net, dataset)
    images = torch.cat(list(_inputs(dataset.calibration(), dataset, CHECK_IMAGES, CHECK_IMAGES)))
    run = require_repeatable(net, images)
    random = file is None
    if file is not None or model.partition(":")[0] not in LIBRARIES:
        again, _ = _load(model, file, dataset, seed + 1, allow_code)
        if file is not None:
            require_same_when_built_again(model, net, again, run, images)
        random = not same_run(run, run_float(again, images))
    if random:
        warnings.append(RANDOM_WEIGHTS)
    elif _is_one_class(net, dataset):
        warnings.append(ONE_CLASS)
    return _Float(net, run, images, random, warnings)


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
            return net, []
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
def _require_logits(net: nn.Module, dataset: Dataset) -> None:
    """One image gives finite logits. Raises CaptureError or CheckpointError."""
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


@torch.no_grad()
def _is_one_class(net: nn.Module, dataset: Dataset) -> bool:
    """Whether many images all get the same class."""
    images = dataset.calibration()
    count = min(len(images), MANY_IMAGES)
    found = torch.cat([net(batch) for batch in _inputs(images, dataset, CHECK_IMAGES, count)])
    return count == MANY_IMAGES and found.shape[1] > 1 and len(found.argmax(1).unique()) == 1


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
