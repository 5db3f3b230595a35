"""Post-training: the scales of every form for a float model, from a few hundred images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqnet.backend.decisions import classes_of, decide
from eqnet.backend.images import SUFFIXES
from eqnet.backend.preprocess import preprocess
from eqnet.data import Dataset, Images, open_dataset
from eqnet.data.folders import STRAY
from eqnet.models.loader import LIBRARIES, load_model
from eqnet.models.outside import seeded
from eqnet.models.weights import WeightFile
from eqnet.ptq.equalize import equalize
from eqnet.ptq.reconstruct import PARTIAL
from eqnet.ptq.reconstruct import reconstruct as fit_rounding
from eqnet.spec.errors import CaptureError, CheckpointError, DataError, UsageError, one_line
from eqnet.spec.inputs import Inputs
from eqnet.spec.progress import Progress, Silent
from eqnet.stages.train.elastic import pick_device
from eqnet.stages.train.inputs import ChosenInputs, implied, with_inputs
from eqnet.supernet.checkpoint import Header, require_restorable, save_supernet
from eqnet.supernet.first_scales import calibrate
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
# Images by which subnets are corrected: 96 of 224 x 224 were enough for what 512 gave.
KEPT_IMAGES, MIN_KEPT, KEPT_BYTES = 512, 32, 16 << 20
# 1,000 images of 224 x 224 pixels: a minute of a float ResNet-50 on two cores.
MAX_TEST_VALUES = 1000 * 3 * 224 * 224
IDX_FOLDERS = ("FashionMNIST", "raw")
# Of a network whose weights say how many they are; any number would do.
USUAL_CLASSES = 1000
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
    inputs: Inputs | None = None,
    out: Path,
    images: int = 256,
    reconstruct: bool = True,
    seed: int = 0,
    device: str = "cpu",
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a supernet of a float classifier in the folder `out`; nothing is trained.

    model: source of the architecture, weights: its state dict, or a checkpoint that has one.
    weights_key: which weights of a checkpoint with several. data: folder of the dataset
    `dataset` (None: Fashion-MNIST where `data` holds its files, else a folder of images, with
    classes or without). inputs: how images become inputs, where that is not what the network's
    own configuration says (timm's, torchvision's weights', else as is usual for ImageNet).
    images: training images that the scales are searched on. reconstruct: fit the rounding of the
    weights in every form to the layers' outputs on these images; an interrupted run goes on from
    `out`. seed: of random initial weights. device: "cpu", "cuda" or "auto", for the scales and
    the reconstruction.
    Returns a summary: `inputs` and `inputs_from` say what was chosen and whence; `warning` and
    `notes`, where there are any, are for the user's eyes.
    Raises UsageError, DataError, CheckpointError, CaptureError or OutputError.
    """
    if images < 1:
        raise UsageError(f"{images} images (allowed: 1 or more)")
    progress = progress or Silent()
    device = pick_device(device).type
    inputs = inputs or Inputs()
    opened = open_dataset(dataset or guess_dataset(data), data)
    if weights_key is not None and weights is None:
        raise UsageError(f"weights key '{weights_key}' without weights (allowed: both, or none)")
    file = WeightFile(weights, weights_key) if weights else None
    source, chosen_inputs = _with_inputs(model, file, opened, inputs, seed, allow_code)
    start = _float_model(model, file, source, chosen_inputs, seed, allow_code)
    net, warnings = start.net, [*chosen_inputs.warnings, *start.warnings]
    batch, classes = batch_size(source.input_shape), start.run.logits.shape[1]
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
    supernet = Supernet(net, source.input_shape)
    supernet.apply_float()
    require_same_function(model, start.run, supernet.graph, start.images)
    root = None if data is None else str(data.resolve())
    header = Header(
        model=model,
        input_shape=source.input_shape,
        classes=classes,
        dataset=source.name,
        data_root=root,
        preprocessing=source.preprocessing,
        method="post_training",
        seed=seed,
        float_accuracy=test.value,
        test_images=test.images,
        float_parity_accuracy=parity.value,
        random_weights=start.random,
    )
    if model.partition(":")[0] not in LIBRARIES:
        require_restorable(supernet, header)
    chosen = source.calibration()
    count = min(images, len(chosen))
    batches = [part.to(device) for part in _inputs(chosen, source, batch, count)]
    supernet.graph.to(device)
    rescaled = equalize(supernet, batches)
    if rescaled:
        notes.append(_rescaling_note(rescaled))
    calibrate(supernet, batches, progress)
    if reconstruct:
        fit_rounding(supernet, batches, progress, partial=out / PARTIAL)
    supernet.calibration = _kept_pixels(chosen)
    path = save_supernet(out, supernet, header)
    (out / PARTIAL).unlink(missing_ok=True)
    summary: dict[str, Any] = {
        "supernet": str(path),
        "layers": len(supernet.info.layers),
        "tensors": len(supernet.info.tensors),
        "calibration_images": count,
        "reconstructed": reconstruct,
        "float_accuracy": test.value,
        "test_images": test.images,
        "inputs": source.preprocessing.model_dump(mode="json"),
        "inputs_from": chosen_inputs.origin(inputs),
        "notes": notes,
    }
    if warnings:
        summary["warning"] = "; ".join(warnings)
    return summary


def _rescaling_note(channels: Mapping[str, int]) -> str:
    """channels: how many of each tensor were rescaled."""
    names = [f"'{name}'" for name in channels]
    if len(names) > 3:
        names = [*names[:3], "..."]
    return (
        f"{sum(channels.values())} outlying channels of {len(channels)} tensors were rescaled "
        f"({', '.join(names)}): the float function is the same"
    )


def _kept_pixels(images: Images) -> Tensor:
    """The first images, uint8 [N, C, H, W]: kept, so that each subnet is settled on the same."""
    first, _ = images.take(1)
    pixels, _ = images.take(min(KEPT_IMAGES, max(MIN_KEPT, KEPT_BYTES // first.nbytes)))
    return torch.from_numpy(pixels)


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
    model: str,
    weights: WeightFile | None,
    dataset: Dataset,
    inputs: Inputs,
    seed: int,
    allow_code: bool,
) -> tuple[Dataset, ChosenInputs]:
    """The dataset with the network's inputs, for which the network may be built once more."""

    def build(channels: int) -> nn.Module:
        with seeded(seed):
            classes = len(dataset.classes) or None
            return load_model(model, classes=classes, in_channels=channels, allow_code=allow_code)

    shapes = None if weights is None else lambda net: _shapes(weights, net)
    return with_inputs(model, dataset, inputs, build, shapes)


def _float_model(
    model: str,
    file: WeightFile | None,
    dataset: Dataset,
    chosen: ChosenInputs,
    seed: int,
    allow_code: bool,
) -> _Float:
    """The float model, checked to be a function of the images and of its weights alone.

    Raises CheckpointError or CaptureError where it is none.
    """
    net, warnings = _load(model, file, dataset, seed, allow_code)
    _require_logits(net, dataset, chosen)
    images = torch.cat(list(_inputs(dataset.calibration(), dataset, CHECK_IMAGES, CHECK_IMAGES)))
    run = require_repeatable(net, images)
    own_code = model.partition(":")[0] not in LIBRARIES
    random = file is None
    if file is not None or own_code:
        again, _ = _load(model, file, dataset, seed + 1, allow_code)
        if file is not None:
            require_same_when_built_again(model, net, again, run, images)
        else:  # code may load weights of its own
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
    channels = dataset.input_shape[0]
    with seeded(seed):

        def build(count: int | None) -> nn.Module:
            return load_model(model, classes=count, in_channels=channels, allow_code=allow_code)

        if weights is None:
            return build(len(dataset.classes) or None), []
        classes = len(dataset.classes) or USUAL_CLASSES
        net = build(classes)
        stored = implied(_shapes(weights, net), net, lambda: build(classes + 1), classes)
        if stored != classes:
            net = build(stored)
    return net, list(weights.load(net))


def _shapes(weights: WeightFile, net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.chosen(net).tensors.items()}


def _inputs(images: Images, dataset: Dataset, batch: int, count: int) -> Iterator[Tensor]:
    for pixels, _ in _read(images, batch, count):
        yield torch.from_numpy(preprocess(pixels, dataset.preprocessing))


def _read(images: Images, batch: int, count: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, count, batch):
        yield images.read(start, min(start + batch, count))


@torch.no_grad()
def _require_logits(net: nn.Module, dataset: Dataset, chosen: ChosenInputs) -> None:
    """One image gives finite logits. Raises CaptureError or CheckpointError."""
    example = next(_inputs(dataset.calibration(), dataset, 1, 1))
    try:
        logits = net(example)
    except Exception as error:  # a model may refuse an input with anything
        raise CaptureError(
            f"the model does not accept an input of shape {list(example.shape)}: {one_line(error)} "
            f"({'; '.join(chosen.warnings) or f'inputs are by {chosen.config.origin}'}; see size "
            "and channels)"
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
    logits = torch.cat([net(batch) for batch in _inputs(images, dataset, CHECK_IMAGES, count)])
    return count == MANY_IMAGES and logits.shape[1] > 1 and len(logits.argmax(1).unique()) == 1


@torch.no_grad()
def _float_accuracy(
    net: nn.Module, dataset: Dataset, images: Images, batch: int, progress: Progress
) -> _Accuracy:
    """Accuracy on a split, or on its first images where there are many large ones."""
    channels, height, width = dataset.input_shape
    count = min(len(images), max(1, MAX_TEST_VALUES // (channels * height * width)))
    right = labelled = 0
    progress.start("float accuracy", count)
    for pixels, labels in _read(images, batch, count):
        classes = decide(net(torch.from_numpy(preprocess(pixels, dataset.preprocessing))).numpy())
        right += int(((classes == labels) & (labels >= 0)).sum())
        labelled += int((labels >= 0).sum())
        progress.advance(len(labels))
    progress.finish()
    if not labelled:
        return _Accuracy(None, None)
    name = images.name if count == len(images) else f"{images.name}, the first {count}"
    return _Accuracy(right / labelled, name)
