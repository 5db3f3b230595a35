"""What a network's authors say of its inputs: timm's configurations, torchvision's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from torch import nn

from eqnet.spec.manifest import Fit, Interpolation, Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM_FITS: dict[str | None, Fit] = {"squash": "squash", "border": "contain"}


@dataclass(frozen=True)
class InputConfig:
    """One configuration. origin: whose. size: H, W. crop: side of the crop / resized side.

    fixed: whether the network takes no other size.
    """

    origin: str
    size: tuple[int, int] = (224, 224)
    crop: float | Fraction = Fraction(224, 256)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    fit: Fit = "cover"
    fixed: bool = False

    def rules(self) -> Preprocessing:
        """As preprocessing of images."""
        return Preprocessing(
            mean=self.mean,
            std=self.std,
            size=self.size,
            resize=box_around(self.size, self.crop),
            fit=self.fit,
            interpolation=self.interpolation,
        )


IMAGENET = InputConfig("ImageNet's usual preparation")


def box_around(size: tuple[int, int], crop: float | Fraction) -> tuple[int, int]:
    """The box that an image is resized to, so that `size` is the share `crop` of its sides."""
    return math.floor(size[0] / crop), math.floor(size[1] / crop)


def configured_inputs(source: str) -> InputConfig | None:
    """The configuration of ``timm:NAME`` or ``torchvision:NAME``; None where there is none."""
    library, _, name = source.partition(":")
    if library == "timm":
        return _of_timm(name)
    if library == "torchvision":
        return _of_torchvision(name)
    return None


def inputs_of_network(net: nn.Module) -> InputConfig | None:
    """The configuration that a network carries as timm's do; None where it has none."""
    config = getattr(net, "pretrained_cfg", None)
    if not config:
        return None
    return _of_config("the network's pretrained_cfg", config)


def _of_timm(name: str) -> InputConfig | None:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:
        return None  # building the network says what is missing
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError:
        return None  # as above, of a tag that is not there
    if config is None:
        return None
    if config.tag and "." not in name:
        name = f"{name}.{config.tag}"
    return _of_config(f"timm's configuration of {name}", dict(vars(config)))


def _of_config(origin: str, config: Mapping[str, Any]) -> InputConfig:
    """timm's dictionary, with the defaults of ``timm.data.resolve_data_config``."""
    _, height, width = config.get("input_size") or (3, 224, 224)
    return InputConfig(
        origin=origin,
        size=(height, width),
        crop=config.get("crop_pct") or 0.875,
        mean=tuple(config.get("mean") or IMAGENET_MEAN),
        std=tuple(config.get("std") or IMAGENET_STD),
        interpolation=config.get("interpolation") or "bicubic",
        fit=TIMM_FITS.get(config.get("crop_mode"), "cover"),
        fixed=bool(config.get("fixed_input_size")),
    )


def _of_torchvision(name: str) -> InputConfig | None:
    try:
        from torchvision.models import get_model_weights

        weights = get_model_weights(name).DEFAULT
        preset = weights.transforms()
        crop, resize = preset.crop_size[0], preset.resize_size[0]
    except (ImportError, ValueError, AttributeError):
        return None  # an unknown name, or no classifier with weights
    return InputConfig(
        origin=f"torchvision's transforms of {name}, {weights.name}",
        size=(crop, crop),
        crop=Fraction(crop, resize),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=cast(Interpolation, preset.interpolation.value),
    )
