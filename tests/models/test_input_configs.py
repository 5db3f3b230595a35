"""A network's own preprocessing: equal to timm's and torchvision's transforms, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eqnet.backend.images import pixels_of
from eqnet.backend.preprocess import preprocess
from eqnet.models.inputs import IMAGENET, configured_inputs
from eqnet.spec.manifest import Preprocessing

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"
# Landscape, portrait, smaller than any input, square, and a strip.
SHAPES = ((331, 250), (247, 640), (57, 91), (256, 256), (1200, 83))


def photographs() -> list[Image.Image]:
    rng = np.random.RandomState(3)
    small = [rng.randint(0, 256, (9, 7, 3), np.uint8) for _ in SHAPES]
    return [
        Image.fromarray(pixels).resize(shape, Image.Resampling.BICUBIC)
        for pixels, shape in zip(small, SHAPES, strict=True)
    ]


def prepared(image: Image.Image, rules: Preprocessing) -> np.ndarray:
    return preprocess(pixels_of(image, rules)[None], rules)[0]


def timm_names() -> list[str]:
    return re.findall(r"`timm:([\w.]+)`", DOCUMENT.read_text("utf-8"))


def test_every_documented_timm_network_gets_its_own_inputs():
    data = pytest.importorskip("timm.data")
    from timm.models import get_pretrained_cfg

    names, unusual, images = timm_names(), 0, photographs()
    assert len(names) > 50
    transforms: dict[Preprocessing, dict[str, Any]] = {}
    for name in names:
        config = configured_inputs(f"timm:{name}")
        wanted = data.resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
        rules = config.rules()
        unusual += rules != IMAGENET.rules()
        transforms.setdefault(rules, {})[str(wanted)] = wanted
    assert unusual >= 18
    for rules, several in transforms.items():
        assert len(several) == 1
        transform = data.create_transform(**next(iter(several.values())), is_training=False)
        for image in images:
            np.testing.assert_array_equal(prepared(image, rules), transform(image).numpy())


@pytest.mark.parametrize(
    "name",
    [
        "volo_d5_512",  # a crop larger than the resized image
        "vit_base_patch16_clip_384",  # squashed
        "naflexvit_base_patch16_gap",
        "convnext_xxlarge",
    ],
)
def test_unusual_timm_configurations(name):
    timm = pytest.importorskip("timm")
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    check_timm(
        timm.models.get_pretrained_cfg(name).to_dict(), configured_inputs(f"timm:{name}").rules()
    )


def check_timm(config: dict[str, Any], rules: Preprocessing) -> None:
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    wanted = resolve_data_config({}, pretrained_cfg=config)
    transform = create_transform(**wanted, is_training=False)
    for image in photographs():
        np.testing.assert_array_equal(prepared(image, rules), transform(image).numpy())


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop", [1.0, 0.95, 0.8, 1.15])
@pytest.mark.parametrize("sides", [(64, 64), (48, 97), (96, 50)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_every_kind_of_timm_configuration(mode, crop, sides, interpolation):
    pytest.importorskip("timm")
    from torch import nn

    from eqnet.models.inputs import inputs_of_network

    config = {
        "input_size": (3, *sides),
        "crop_pct": crop,
        "crop_mode": mode,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.3, 0.2),
        "interpolation": interpolation,
    }
    net = nn.Identity()
    net.pretrained_cfg = config  # type: ignore[assignment]  # a plain attribute, no module
    check_timm(config, inputs_of_network(net).rules())


def test_every_torchvision_classifier_gets_its_own_inputs():
    from torchvision import models

    images = photographs()
    seen: dict[Preprocessing, dict[str, Any]] = {}
    for name in models.list_models(module=models):
        preset = models.get_model_weights(name).DEFAULT.transforms()
        seen.setdefault(configured_inputs(f"torchvision:{name}").rules(), {})[str(preset)] = preset
    assert len(seen) > 20
    for rules, presets in seen.items():
        assert len(presets) == 1
        for image in images:
            expected = next(iter(presets.values()))(image).numpy()
            np.testing.assert_array_equal(prepared(image, rules), expected)


def test_networks_without_a_configuration_have_none():
    assert configured_inputs("eqnet:resnet20") is None
    assert configured_inputs("my_nets:tiny") is None
    assert configured_inputs("torchvision:no_such_net") is None
    assert configured_inputs("torchvision:raft_large") is None  # no classifier
    assert configured_inputs("timm:no_such_net") is None
    assert configured_inputs("timm:resnet18.no_such_tag") is None
