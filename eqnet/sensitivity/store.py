"""Sensitivities on disk: what was measured of each place, image by image, to go on from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.checkpoint import read_tensors
from eqnet.supernet.measure import Batches

FOLDER = "sensitivity"
SOURCE_KEY = "source"
VERSION = "1"


class Found(NamedTuple):
    """What quantizing a place did to the first N images.

    kl: nats, float32 [N]. moved: whether the top-1 class is another, bool [N].
    """

    kl: NDArray[np.float32]
    moved: NDArray[np.bool_]

    @classmethod
    def none(cls) -> Found:
        """Of no images."""
        return cls(np.zeros(0, np.float32), np.zeros(0, np.bool_))

    def __len__(self) -> int:
        """How many images were measured."""
        return len(self.kl)

    def first(self, count: int) -> Found:
        """The first `count` images alone."""
        return Found(self.kl[:count], self.moved[:count])

    def joined(self, more: Found) -> Found:
        """With further images."""
        return Found(np.concatenate([self.kl, more.kl]), np.concatenate([self.moved, more.moved]))

    def mean_kl(self) -> float:
        """Nats, over the images."""
        return float(self.kl.mean(dtype=np.float64))

    def error(self) -> float:
        """Standard error of the mean KL; 0 of a single image."""
        if len(self) < 2:
            return 0.0
        return float(self.kl.std(ddof=1, dtype=np.float64) / len(self) ** 0.5)

    def lost(self) -> float:
        """Share of the images, in [0, 1], whose top-1 class is another."""
        return float(self.moved.mean())


def source_of(identity: str, spec: SubnetSpec, settled_on: str, images: Batches) -> str:
    """sha256 of all that sensitivities of a float base depend on.

    identity: sha256 of the supernet. spec: a subnet, of which the form and storage count.
    settled_on: how many images subnets are settled on. images: those that are measured on.
    """
    pixels = images.images.cpu().contiguous().numpy()
    storage = f"{spec.weight_scales} {spec.activation_scales} {spec.weight_storage_bits}"
    told = f"{VERSION} {identity} {spec.form.label()} {storage} {settled_on} {pixels.shape} "
    return hashlib.sha256(told.encode() + pixels.tobytes()).hexdigest()


def path_of(folder: Path, source: str) -> Path:
    """Where the sensitivities of that source lie in a supernet's folder."""
    return folder / FOLDER / f"{source[:16]}.safetensors"


def save_found(path: Path, source: str, found: dict[str, Found]) -> None:
    """Write what is known of each place, by its key. Raises OutputError."""
    tensors = {}
    for key, one in sorted(found.items()):
        tensors[f"kl:{key}"] = np.ascontiguousarray(one.kl)
        tensors[f"moved:{key}"] = one.moved.astype(np.uint8)
    write_file(path, save(tensors, metadata={SOURCE_KEY: source}))


def load_found(path: Path, source: str) -> dict[str, Found]:
    """What an earlier run has measured, by the places' keys; nothing of another source.

    Raises CheckpointError for a damaged file.
    """
    if not path.is_file():
        return {}
    metadata, tensors = read_tensors(path)
    if metadata.get(SOURCE_KEY) != source:
        return {}
    found = {}
    for name, tensor in tensors.items():
        kind, _, key = name.partition(":")
        if kind == "kl":
            found[key] = _checked(path, key, tensor, tensors.get(f"moved:{key}"))
    return found


def _checked(path: Path, key: str, kl: Tensor, moved: Tensor | None) -> Found:
    sound = moved is not None and kl.dim() == 1 and moved.shape == kl.shape
    if not sound or not bool((kl.isfinite() & (kl >= 0)).all()):
        raise CheckpointError(
            f"{path}: '{key}': no sensitivities (remove the file to measure anew)"
        )
    assert moved is not None
    return Found(kl.float().numpy(), moved.numpy() != 0)
