"""Random crops of image files, for training: Inception's, with half of the images mirrored."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from eqnet.backend.images import load_image
from eqnet.data.images import Pixels
from eqnet.spec.manifest import Preprocessing

# Share of the image's area, and ratio of width to height. From 0.08 of the area, as is usual, a
# network learns more in hundreds of epochs; in a few, crops that show little of the object cost.
AREA, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)
TRIES = 10


def load_random_crop(path: Path, seed: tuple[int, ...], rules: Preprocessing) -> Pixels:
    """A random part of an image in the rules' size, uint8 [C, H, W]; depends on `seed` alone.

    Szegedy et al. 2015, section 6. Raises DataError naming the file.
    """
    rng = np.random.default_rng(seed)
    pixels = load_image(path, rules, partial(_draw, rng=rng))
    if rng.random() < 0.5:
        return pixels[:, :, ::-1]
    return pixels


def _draw(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = size
    for _ in range(TRIES):
        area = rng.uniform(*AREA) * width * height
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if wide <= width and high <= height:
            left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
            return left, top, left + wide, top + high
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
