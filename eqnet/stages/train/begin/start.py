"""What a supernet begins as: a float classifier, checked, and images prepared as it wants them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from eqnet.backend.decisions import classes_of, decide
from eqnet.backend.preprocess import preprocess
from eqnet.data import Dataset, Images, open_dataset
from eqnet.data.registry import guess_dataset
from eqnet.models.loader import LIBRARIES, load_model
from eqnet.models.outside import seeded
from eqnet.models.weights import WeightFile
from eqnet.spec.errors import CaptureError, CheckpointError, UsageError, one_line
from eqnet.spec.inputs import Inputs
from eqnet.spec.progress import Progress
from eqnet.stages.train.begin.inputs import ChosenInputs, implied, with_inputs
from eqnet.supernet.checkpoint import Header, require_restorable
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
# Of a network whose weights say how many they are; any number would do.
USUAL_CLASSES = 1000
RANDOM_WEIGHTS = "no weights given: the model has random weights, and its accuracy means nothing"
ONE_CLASS = (
    f"the first {MANY_IMAGES} calibration images all get one class: the weights look random, "
    "unless the images are of one kind"
)


@dataclass(frozen=True)
class Network:
    """A float classifier and its data, as a user names them.

    model: source of the architecture, weights: its state dict, or a checkpoint that has one.
    weights_key: which weights of a checkpoint with several. data: folder of the dataset
    `dataset` (None: Fashion-MNIST where `data` holds its files, else a folder of images, with
    classes or without). inputs: how images become inputs, where that is not what the network's
    own configuration says (timm's, torchvision's weights', else as is usual for ImageNet).
    allow_code: the model may be a function of the user's own module.
    """

    model: str
    weights: Path | None = None
    weights_key: str | None = None
    data: Path | None = None
    dataset: str | None = None
    inputs: Inputs = field(default_factory=Inputs)
    allow_code: bool = False


class _Accuracy(NamedTuple):
    """Top-1 accuracy in [0, 1], None where it is not known, and what it was measured on."""

    value: float | None
    images: str | None


UNKNOWN = _Accuracy(None, None)


class Start:
    """A float classifier that is a function of its images alone, and its dataset.

    net: in evaluation mode. random: it has random weights. warnings, notes: what the user should
    know, in words. Raises UsageError, DataError, CheckpointError or CaptureError.
    """

    def __init__(self, network: Network, seed: int) -> None:
        """seed: of random initial weights."""
        self.network, self.seed = network, seed
        opened = open_dataset(network.dataset or guess_dataset(network.data), network.data)
        if network.weights_key is not None and network.weights is None:
            raise UsageError(
                f"weights key '{network.weights_key}' without weights (allowed: both, or none)"
            )
        weights = network.weights
        self._file = WeightFile(weights, network.weights_key) if weights else None
        self.dataset, self._chosen = self._with_inputs(opened)
        self.net, warnings = self._load(seed)
        _require_logits(self.net, self.dataset, self._chosen)
        calibration = self.dataset.calibration()
        self._images = torch.cat(list(self._inputs(calibration, CHECK_IMAGES, CHECK_IMAGES)))
        self._run = require_repeatable(self.net, self._images)
        self.random = self._is_random(self._run)
        self.warnings = [*self._chosen.warnings, *warnings]
        self.notes = list(self.dataset.notes)

    @property
    def classes(self) -> int:
        """Logits of the network."""
        return int(self._run.logits.shape[1])

    @property
    def labelled(self) -> bool:
        """Whether the images' classes are the network's."""
        return classes_of(self.classes) == len(self.dataset.classes)

    @property
    def batch(self) -> int:
        """Images in one batch of evaluation."""
        return batch_size(self.dataset.input_shape)

    def inputs_told(self) -> dict[str, Any]:
        """How images become inputs, and whence that was taken, for a summary."""
        return {
            "inputs": self.dataset.preprocessing.model_dump(mode="json"),
            "inputs_from": self._chosen.origin(self.network.inputs),
        }

    def warn_of_weights(self) -> None:
        """Note for the user where the weights look as if they had learned nothing."""
        if self.random:
            self.warnings.append(RANDOM_WEIGHTS)
        elif _is_one_class(self.net, self.dataset):
            self.warnings.append(ONE_CLASS)

    def warn_of_labels(self, header: Header) -> None:
        """Note for the user why accuracies stay unknown, where the header has none."""
        count = len(self.dataset.classes)
        if count and not self.labelled:
            self.warnings.append(
                f"the model has {classes_of(self.classes)} classes and the data {count}: labels "
                "are not used, accuracies stay unknown (an image folder's classes.txt names all "
                "classes)"
            )
        elif header.float_accuracy is None:
            self.notes.append("the images have no labels: accuracies stay unknown")

    def capture(self) -> Supernet:
        """The network's supernet, which computes the same in float. Raises CaptureError."""
        supernet = Supernet(self.net, self.dataset.input_shape)
        supernet.apply_float()
        run = run_float(self.net, self._images)
        require_same_function(self.network.model, run, supernet.graph, self._images)
        if self.network.model.partition(":")[0] not in LIBRARIES:
            require_restorable(supernet, self._header("post_training", UNKNOWN, UNKNOWN))
        return supernet

    def header(
        self, method: Literal["elastic", "post_training"], progress: Progress, device: str = "cpu"
    ) -> Header:
        """The header of a supernet of this network, with the float model's accuracies.

        device: where the network lies.
        """
        test = parity = UNKNOWN
        if self.labelled:
            test = self._accuracy(self.dataset.test(), progress, device)
            parity = self._accuracy(self.dataset.parity(), progress, device)
        return self._header(method, test, parity)

    def _header(self, method: Any, test: _Accuracy, parity: _Accuracy) -> Header:
        data = self.network.data
        return Header(
            model=self.network.model,
            input_shape=self.dataset.input_shape,
            classes=self.classes,
            dataset=self.dataset.name,
            data_root=None if data is None else str(data.resolve()),
            preprocessing=self.dataset.preprocessing,
            method=method,
            seed=self.seed,
            float_accuracy=test.value,
            test_images=test.images,
            float_parity_accuracy=parity.value,
            random_weights=self.random,
        )

    def inputs(self, images: Images, count: int) -> Iterator[Tensor]:
        """The first images, float32 [N, C, H, W], batch by batch."""
        return self._inputs(images, self.batch, min(count, len(images)))

    def _inputs(self, images: Images, batch: int, count: int) -> Iterator[Tensor]:
        return _prepared(images, self.dataset, batch, count)

    def _build(self, classes: int | None, channels: int) -> nn.Module:
        allow_code = self.network.allow_code
        return load_model(
            self.network.model, classes=classes, in_channels=channels, allow_code=allow_code
        )

    def _with_inputs(self, dataset: Dataset) -> tuple[Dataset, ChosenInputs]:
        """The dataset with the network's inputs, for which it may be built once more."""

        def build(channels: int) -> nn.Module:
            with seeded(self.seed):
                return self._build(len(dataset.classes) or None, channels)

        shapes = None if self._file is None else self._shapes
        return with_inputs(self.network.model, dataset, self.network.inputs, build, shapes)

    def _shapes(self, net: nn.Module) -> dict[str, tuple[int, ...]]:
        assert self._file is not None
        tensors = self._file.chosen(net).tensors
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def _load(self, seed: int) -> tuple[nn.Module, list[str]]:
        """The network, with as many classes as its weights have, else as the dataset has.

        Returns also what the user should know of the weights.
        """
        channels = self.dataset.input_shape[0]
        labels = len(self.dataset.classes)
        with seeded(seed):
            if self._file is None:
                return self._build(labels or None, channels), []
            classes = labels or USUAL_CLASSES
            net = self._build(classes, channels)

            def larger() -> nn.Module:
                return self._build(classes + 1, channels)

            stored = implied(self._shapes(net), net, larger, classes)
            if stored != classes:
                net = self._build(stored, channels)
        return net, list(self._file.load(net))

    def _is_random(self, run: FloatRun) -> bool:
        """Whether the weights are random; else the network is the same when built again.

        Raises CaptureError where its code makes another network each time.
        """
        own_code = self.network.model.partition(":")[0] not in LIBRARIES
        if self._file is None and not own_code:
            return True
        again, _ = self._load(self.seed + 1)
        if self._file is None:  # code may load weights of its own
            return not same_run(run, run_float(again, self._images))
        require_same_when_built_again(self.network.model, self.net, again, run, self._images)
        return False

    @torch.no_grad()
    def _accuracy(self, images: Images, progress: Progress, device: str) -> _Accuracy:
        """Accuracy on a split, or on its first images where there are many large ones."""
        channels, height, width = self.dataset.input_shape
        count = min(len(images), max(1, MAX_TEST_VALUES // (channels * height * width)))
        right = labelled = 0
        progress.start("float accuracy", count)
        for pixels, labels in _read(images, self.batch, count):
            prepared = torch.from_numpy(preprocess(pixels, self.dataset.preprocessing))
            decided = decide(self.net(prepared.to(device)).cpu().numpy())
            right += int(((decided == labels) & (labels >= 0)).sum())
            labelled += int((labels >= 0).sum())
            progress.advance(len(labels))
        progress.finish()
        if not labelled:
            return UNKNOWN
        name = images.name if count == len(images) else f"{images.name}, the first {count}"
        return _Accuracy(right / labelled, name)


def _prepared(images: Images, dataset: Dataset, batch: int, count: int) -> Iterator[Tensor]:
    for pixels, _ in _read(images, batch, count):
        yield torch.from_numpy(preprocess(pixels, dataset.preprocessing))


def _read(images: Images, batch: int, count: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, count, batch):
        yield images.read(start, min(start + batch, count))


@torch.no_grad()
def _require_logits(net: nn.Module, dataset: Dataset, chosen: ChosenInputs) -> None:
    """One image gives finite logits. Raises CaptureError or CheckpointError."""
    example = next(_prepared(dataset.calibration(), dataset, 1, 1))
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
    logits = torch.cat([net(batch) for batch in _prepared(images, dataset, CHECK_IMAGES, count)])
    return count == MANY_IMAGES and logits.shape[1] > 1 and len(logits.argmax(1).unique()) == 1
