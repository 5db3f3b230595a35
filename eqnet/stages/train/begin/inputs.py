"""Which preprocessing a network's images get: the user's word, else its authors'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from eqnet.data import Dataset
from eqnet.data.image_folder import ImageFolder
from eqnet.models.inputs import (
    IMAGENET,
    InputConfig,
    box_around,
    configured_inputs,
    inputs_of_network,
)
from eqnet.models.loader import LIBRARIES
from eqnet.spec.errors import CheckpointError, UsageError
from eqnet.spec.inputs import CHANNELS, Inputs, each, pair
from eqnet.spec.manifest import Fit, Interpolation, Preprocessing


class ChosenInputs(NamedTuple):
    """Preprocessing, whose configuration it starts from, and what contradicts the network."""

    rules: Preprocessing
    config: InputConfig
    warnings: tuple[str, ...] = ()

    def origin(self, inputs: Inputs) -> str:
        """Whence the values are, in words."""
        named = inputs.named()
        if not named:
            return self.config.origin
        return f"{self.config.origin}, but for {', '.join(named)}"


def config_of(model: str, dataset: Dataset) -> InputConfig:
    """What is known before the network is built. Images that are stored in one size rule."""
    if isinstance(dataset, ImageFolder):
        return configured_inputs(model) or IMAGENET
    rules = dataset.preprocessing
    origin, size = f"the data set {dataset.name}", dataset.input_shape[1:]
    return InputConfig(origin, size, 1, rules.mean, rules.std, rules.interpolation, rules.fit)


def with_inputs(
    model: str,
    dataset: Dataset,
    inputs: Inputs,
    build: Callable[[int], nn.Module],
    shapes: Callable[[nn.Module], dict[str, tuple[int, ...]]] | None,
) -> tuple[Dataset, ChosenInputs]:
    """The dataset with the inputs that the network `model` wants, and how they were chosen.

    build: makes the network for a number of channels. shapes: those of its weights by its names,
    None where there are none. Raises UsageError, DataError or CheckpointError.
    """
    config = config_of(model, dataset)
    if not isinstance(dataset, ImageFolder):
        chosen = choose_inputs(config, inputs)
        if inputs.named():
            dataset = dataset.with_inputs(chosen.rules)
        return dataset, chosen
    channels, read = choose_inputs(config, inputs).rules.channels, None
    if shapes is not None or model.partition(":")[0] not in LIBRARIES:
        net = build(channels)
        if config is IMAGENET:
            config = inputs_of_network(net) or config
        read = channels_of(model, net)
        if shapes is not None:
            stored = implied(shapes(net), net, lambda: build(channels + 1), channels)
            _check_channels(stored, channels, inputs)
            if stored != channels:
                read = stored
    chosen = choose_inputs(config, inputs, read)
    return dataset.with_inputs(chosen.rules), chosen


def _check_channels(stored: int, channels: int, inputs: Inputs) -> None:
    if inputs.channels is not None and stored != channels:
        raise CheckpointError(
            f"the first layer of the weights reads {_channels(stored)} (allowed: {channels}, as "
            "channels says)"
        )


def choose_inputs(config: InputConfig, inputs: Inputs, channels: int | None = None) -> ChosenInputs:
    """The user's values, and the configuration's where there are none.

    channels: of the network, where they are known. Raises UsageError for values that contradict
    each other.
    """
    count = inputs.channels or channels or len(config.mean)
    size = config.size if inputs.size is None else pair(inputs.size)
    box, fit = _box(config, inputs, size)
    warnings = []
    if inputs.channels and channels and inputs.channels != channels:
        warnings.append(
            f"the network's first convolution reads {_channels(channels)}, not {inputs.channels}"
        )
    if config.fixed and size != config.size:
        warnings.append(
            f"{config.origin} says {_sides(config.size)} and no other size, not {_sides(size)}"
        )
    mean, std = _values(config.mean, inputs.mean, count), _values(config.std, inputs.std, count)
    averaged = []
    for name in ("mean", "std"):
        if getattr(inputs, name) is None and len(getattr(config, name)) != count:
            averaged.append(name)
    if averaged:
        warnings.append(
            f"{' and '.join(averaged)} of {_channels(count)} averaged from {len(config.mean)} "
            f"(see {' and '.join(averaged)})"
        )
    interpolation: Interpolation = config.interpolation
    if inputs.interpolation is not None:
        interpolation = inputs.interpolation  # type: ignore[assignment]  # checked by Inputs
    rules = Preprocessing(
        mean=mean, std=std, size=size, resize=box, fit=fit, interpolation=interpolation
    )
    return ChosenInputs(rules, config, tuple(warnings))


def _box(config: InputConfig, inputs: Inputs, size: tuple[int, int]) -> tuple[tuple[int, int], Fit]:
    """The box to resize to, and how."""
    if inputs.resize is None:
        crop = config.crop if inputs.crop is None else inputs.crop
        return box_around(size, crop), config.fit
    box = pair(inputs.resize)
    if any(outer < inner for outer, inner in zip(box, size, strict=True)):
        raise UsageError(
            f"resize {_sides(box)} is smaller than the input (allowed: {_sides(size)} or more)"
        )
    if isinstance(inputs.resize, int):
        return box, "cover"
    return box, "squash"


def _values(
    usual: tuple[float, ...], wanted: float | Sequence[float] | None, channels: int
) -> tuple[float, ...]:
    """One number a channel: the user's, the configuration's, or the average of those."""
    if wanted is not None:
        return each(wanted, channels)
    if len(usual) == channels:
        return usual
    return (sum(usual) / len(usual),) * channels


def channels_of(source: str, net: nn.Module) -> int | None:
    """Channels that a user's own network reads, as its first convolution tells; None if unknown.

    Networks of the libraries are built for any number of channels.
    """
    if source.partition(":")[0] in LIBRARIES:
        return None
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels if module.in_channels in CHANNELS else None
    return None


def implied(
    shapes: dict[str, tuple[int, ...]], net: nn.Module, larger: Callable[[], nn.Module], count: int
) -> int:
    """How many classes, or channels, a file of weights is for, as its shapes tell.

    net: the network for `count` of them; larger: makes it for one more, so that the tensors that
    grow with them show, wherever they stand.
    """
    usual = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    odd = []
    for name, shape in usual.items():
        stored = shapes.get(name, ())
        if shape and len(stored) == len(shape) and stored != shape:
            odd.append(name)
    if not odd:
        return count
    grown = larger().state_dict()
    for name in odd:
        for wanted, few, more in zip(shapes[name], usual[name], grown[name].shape, strict=True):
            if more != few:
                return max(1, int(count + (wanted - few) // (more - few)))
    return count


def _sides(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"


def _channels(count: int) -> str:
    return f"{count} channels" if count > 1 else f"{count} channel"
