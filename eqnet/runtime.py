"""Use an artifact from Python, with numpy alone: ``load("artifacts/x")("photo.jpg")``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.images import ARRAY_MODES, load_image, pixels_of, pixels_of_array
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, Runner, host_limit
from eqnet.backend.running import CheckedRunner
from eqnet.spec.errors import HostWarning, UsageError
from eqnet.spec.manifest import MANIFEST, MODEL, Manifest, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage


Image: TypeAlias = "PilImage | Path | str | NDArray[np.uint8]"
ImageInput: TypeAlias = "Image | Sequence[Image] | NDArray[np.float32]"


@dataclass(frozen=True)
class Model:
    """A loaded artifact. `runtime` is the name and version of what executes it."""

    manifest: Manifest
    runtime: str
    runner: Runner

    def __call__(self, images: ImageInput) -> Array:
        """Logits float32 [N, classes] of one image, of N of them, or of an array.

        See `inputs` for what an image may be. Raises what it raises, and ArtifactError where
        the runtime fails.
        """
        return self.runner(self.inputs(images))

    def inputs(self, images: ImageInput) -> NDArray[np.float32]:
        """What the network reads of images: normalized float32 [N, C, H, W].

        images: a PIL image, the path of an image file, uint8 [height, width] or [height, width,
        channels] of any size, or a list of such: these are converted, resized and cropped as the
        manifest's preprocessing says, as in calibration and verification; or uint8 pixels
        [N, C, H, W] of the network's size, which are normalized; or float32 [N, C, H, W], which
        is taken as normalized. Raises UsageError on another dtype or shape,
        DataError for a file that is no image and MissingExtraError without Pillow.
        """
        if isinstance(images, np.ndarray):
            ready = self._ready(images)
            if ready is not None:
                return ready
        several: Sequence[Any] = [images]
        if isinstance(images, list | tuple) or (
            isinstance(images, np.ndarray) and images.ndim == 4
        ):
            several = list(images)
        if not several:
            raise UsageError(f"no images (allowed: {self._allowed()})")
        rules = self.manifest.inputs
        return preprocess(np.stack([self._pixels(image, rules) for image in several]), rules)

    def _ready(self, array: NDArray[Any]) -> NDArray[np.float32] | None:
        """An array of the network's own shape as its input; None for images yet to be resized."""
        shape = self.manifest.model.input_shape
        if array.ndim == 4 and not len(array):
            raise UsageError(f"no images (allowed: {self._allowed()})")
        if array.ndim == 4 and array.shape[1:] == shape and array.dtype == np.uint8:
            return preprocess(array.astype(np.uint8), self.manifest.inputs)
        if array.ndim == 4 and array.shape[1:] == shape and array.dtype == np.float32:
            return array.astype(np.float32)
        picture = array[0] if array.ndim == 4 and len(array) else array
        if not _is_picture(picture):
            raise UsageError(
                f"input is {array.dtype} {list(array.shape)} (allowed: {self._allowed()})"
            )
        return None

    def _pixels(self, image: Image, rules: Preprocessing) -> NDArray[np.uint8]:
        """One image of a list as uint8 [C, H, W]."""
        if isinstance(image, str | Path):
            return load_image(Path(image), rules)
        if isinstance(image, np.ndarray):
            if _is_picture(image):
                return pixels_of_array(image, rules)
            what = f"{image.dtype} {list(image.shape)}"
        elif hasattr(image, "getbands"):  # PIL's, without importing Pillow
            return pixels_of(image, rules)
        else:
            what = type(image).__name__
        raise UsageError(f"an image is {what} (allowed: {self._allowed()})")

    def _allowed(self) -> str:
        shape = ", ".join(str(size) for size in self.manifest.model.input_shape)
        return (
            f"uint8 pixels or normalized float32, [N, {shape}]; or PIL images, paths, uint8 "
            "[height, width, channels], or a list of them"
        )


def _is_picture(array: NDArray[Any]) -> bool:
    """Whether an array is an image, uint8 [height, width] or [height, width, channels]."""
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in ARRAY_MODES)
    return shaped and array.size > 0 and array.dtype == np.uint8


def load(
    artifact: Path | str,
    *,
    optimize: bool = True,
    threads: int | None = None,
    expect: str | None = None,
) -> Model:
    """Load an artifact folder into the runtime, precision and device that it was exported for.

    `optimize=False` turns the runtime's graph optimizations off; `threads=None` leaves their
    number to the runtime. expect: the digest that the artifact must have, as `eqnet export` and
    `eqnet verify` print it. Raises ArtifactError if the folder is damaged or of another digest,
    and UsageError if this machine cannot execute it. Warns, with `HostWarning`, where this CPU
    computes the artifact otherwise or by slower kernels than the one that it was exported for.
    """
    folder = Path(artifact)
    opened = read_as_one(folder / MANIFEST, partial(_open, folder, optimize, threads, expect))
    manifest = opened.manifest
    limit = host_limit(find_exporter(manifest.backend), manifest.profile)
    if limit is not None and optimize:
        warnings.warn(f"{folder}: {limit.reason}", HostWarning, stacklevel=2)
    return opened


def _open(folder: Path, optimize: bool, threads: int | None, expect: str | None) -> Model:
    manifest = read_manifest(folder, expect=expect)
    check_files(folder, manifest)
    exporter = find_exporter(manifest.backend)
    reason = exporter.unavailable(manifest.profile)
    if reason is not None:
        raise UsageError(f"{folder}: backend '{manifest.backend}' cannot execute here: {reason}")
    runner = exporter.open(
        folder / MODEL, optimize=optimize, threads=threads, profile=manifest.profile
    )
    checked = CheckedRunner(folder / MODEL, runner, manifest.model.classes)
    return Model(manifest, exporter.runtime_version(), checked)
