"""From image files, PIL images and arrays to uint8 pixels: one implementation for all callers.

Resizing and cropping equal torchvision's and timm's transforms on PIL images bit for bit, so
accuracies are those of the networks' authors. Like them it does not turn images as their EXIF
orientation says, and drops what is transparent by ignoring alpha. Pillow is imported when an
image is read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.errors import DataError, MissingExtraError, one_line
from eqnet.spec.manifest import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Crop = Callable[[tuple[int, int]], tuple[float, float, float, float]]
"""Which part of an image of W x H pixels becomes the input: left, top, right, bottom."""

# Decoders that an image may ask for. Pillow has others that start programs (EPS).
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
# What torchvision's ImageFolder reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ARRAY_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Pixels of a resized image before its middle is cut out, so that a narrow strip whose shorter
# side grows does not take gigabytes: 16 million, or four times the box where that is larger.
MAX_RESIZED, MAX_BOXES = 1 << 24, 4


def load_image(path: Path, rules: Preprocessing, crop: Crop | None = None) -> Pixels:
    """Decode one file, uint8 [C, H, W] as `rules` say. Raises DataError naming the file.

    `rules` must have a size; see `Preprocessing.complete`. crop: the part that is squashed to
    that size, instead of resizing and cutting out the middle.
    """
    Image = _pillow()
    try:
        with Image.open(path, formats=FORMATS) as image:
            return pixels_of(image, rules, crop)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file (allowed: an image)") from error
    except Exception as error:  # decoders of damaged files raise anything, MemoryError too
        raise DataError(f"{path}: not a readable image: {one_line(error)}") from error


def pixels_of(image: Image, rules: Preprocessing, crop: Crop | None = None) -> Pixels:
    """A PIL image as uint8 [C, H, W]. Raises DataError for what cannot be scaled to 8 bits."""
    converted = to_channels(image, rules.channels)
    if crop is None:
        pixels = np.asarray(resize_and_crop(converted, rules))
    else:
        pixels = np.asarray(_squashed(converted, rules, crop(converted.size)))
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.transpose(2, 0, 1)


def pixels_of_array(array: Pixels, rules: Preprocessing) -> Pixels:
    """As `pixels_of`, of an image uint8 [H, W] or [H, W, channels]."""
    Image = _pillow()
    height, width, channels = (*array.shape, 1)[:3]
    content = np.ascontiguousarray(array).tobytes()
    return pixels_of(Image.frombytes(ARRAY_MODES[channels], (width, height), content), rules)


def to_channels(image: Image, channels: int) -> Image:
    """A PIL image of any mode as gray (1), RGB (3) or RGBA (4), 8 bits a channel.

    Integers of 16 bits are divided by 257, floats in [0, 1] multiplied by 255 and rounded.
    Raises DataError for other numbers, whose range nobody knows.
    """
    if channels not in MODES:
        raise DataError(f"{channels} channels cannot be read from images (allowed: 1, 3 or 4)")
    image = _eight_bits(image)
    if image.mode in ("P", "PA") and (channels == 4 or "transparency" in image.info):
        image = image.convert("RGBA")  # Pillow warns of what RGB would lose
    if channels == 1 and image.mode not in ("L", "LA", "La", "1"):
        image = image.convert("RGB")
    if image.mode == MODES[channels]:
        return image
    return image.convert(MODES[channels])


def _eight_bits(image: Image) -> Image:
    """The image itself, or its integers and floats of more bits scaled to 8."""
    from PIL import Image

    if image.mode == "F":
        values = np.asarray(image)
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise DataError("floats outside of 0 to 1 (allowed: 8 or 16 bits, or floats in [0, 1])")
        return Image.fromarray(np.round(values * np.float32(255)).astype(np.uint8))
    # Mode I of these formats holds 16 bits scaled to their full range; of others, anything.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "I":
        raise DataError("integers of 32 bits (allowed: 8 or 16 bits, or floats in [0, 1])")
    return image


def resize_and_crop(image: Image, rules: Preprocessing) -> Image:
    """Resize to the rules' box and cut out the middle, both as torchvision and timm do.

    Where the resized image is smaller than the input the rest is black, or the mean where the
    whole image is to be seen. Raises DataError where a narrow image would become huge.
    """
    from PIL.Image import Resampling

    if rules.size is None:
        raise ValueError("rules without a size (see Preprocessing.complete)")
    box = rules.resize or rules.size
    width, height = _resized(image.size, box, rules.fit)
    if width * height > max(MAX_RESIZED, MAX_BOXES * box[0] * box[1]):
        raise DataError(
            f"{image.width} x {image.height} pixels become {width} x {height} before the crop "
            "(allowed: images less narrow)"
        )
    if (width, height) != image.size:
        image = image.resize((width, height), Resampling[rules.interpolation.upper()])
    fill = None
    if rules.fit == "contain":
        fill = [round(255 * mean) for mean in rules.mean]
    return _center(image, rules.size, fill)


def _squashed(image: Image, rules: Preprocessing, box: tuple[float, ...]) -> Image:
    """A part of an image (left, top, right, bottom) in the rules' size."""
    from PIL.Image import Resampling

    if rules.size is None:
        raise ValueError("rules without a size (see Preprocessing.complete)")
    height, width = rules.size
    resampling = Resampling[rules.interpolation.upper()]
    left, top, right, bottom = box
    return image.resize((width, height), resampling, box=(left, top, right, bottom))


def _resized(size: tuple[int, int], box: tuple[int, int], fit: str) -> tuple[int, int]:
    """Width and height of an image (W, H) that is brought to a box (H, W)."""
    width, height = size
    if fit == "squash":
        return box[1], box[0]
    if fit == "cover" and box[0] == box[1]:
        # The rounding, down here, is torchvision's; below, to even, timm's.
        side = box[0]
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side
    ratios = height / box[0], width / box[1]
    ratio = min(ratios) if fit == "cover" else max(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _center(image: Image, size: tuple[int, int], fill: list[int] | None) -> Image:
    """The middle (H, W); sides that are too short get a border of `fill` (None: 0) first."""
    from PIL import Image

    height, width = size
    if image.width < width or image.height < height:
        wide, high = max(image.width, width), max(image.height, height)
        border = tuple(fill or [0] * len(image.getbands()))
        color = border if len(border) > 1 else border[0]
        padded = Image.new(image.mode, (wide, high), color)
        padded.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
        image = padded
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))


def _pillow() -> ModuleType:
    """Pillow's module of images. Raises MissingExtraError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "pillow is not installed, reading images needs it (pip install 'eqnet[images]')"
        ) from error
    return Image
