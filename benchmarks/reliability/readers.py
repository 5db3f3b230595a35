"""Every reader of files, with a whole file of its kind: what `fuzz.py` damages."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from artifacts import pixels, profile, write_artifact
from eqnet_exporters.lowbit.integer import integer_program
from eqnet_exporters.lowbit.layers import packed_tensors
from graphs import inputs, residual_net
from mutations import damaged, flipped, written
from torch import nn

from eqnet.backend.artifact import read_manifest, read_parity
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.images import load_image
from eqnet.backend.lowbit.integer import INTEGER, PACKED, load_integer
from eqnet.backend.lowbit.packed import read_packed, write_packed
from eqnet.data.idx import read_idx, write_idx
from eqnet.models.weights import load_weights
from eqnet.runtime import load
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY, Preprocessing
from eqnet.spec.seal import sealed
from eqnet.spec.subnet import load_subnet
from eqnet.stages.bench import bench
from eqnet.stages.bench.baseline import read_report
from eqnet.stages.train.recipe import load_recipe, recipes_dir
from eqnet.supernet.checkpoint import SUPERNET_FILE, bundled_supernet, load_supernet


@dataclass(frozen=True)
class Reader:
    """How a damaged file is made, and how it is read.

    spoil: writes one. read: raises an EqnetError, or accepts what is there.
    """

    spoil: Callable[[random.Random], object]
    read: Callable[[], object]


def _yaml(folder: Path, home: Path, read: Callable[[Path], object]) -> Reader:
    texts = [path.read_bytes() for path in sorted(home.glob("*.yaml"))]
    path = folder / "file.yaml"

    def spoil(rng: random.Random) -> None:
        text = rng.choice(texts)
        if rng.random() < 0.5:
            path.write_bytes(flipped(text, rng))
        else:
            path.write_bytes(written(damaged(yaml.safe_load(text), rng)))

    return Reader(spoil, lambda: read(path))


def profiles(folder: Path) -> Reader:
    """Hardware profiles."""
    return _yaml(folder, profiles_dir(), lambda path: load_profile(str(path)).sha256())


def recipes(folder: Path) -> Reader:
    """Training recipes."""
    return _yaml(folder, recipes_dir(), load_recipe)


def subnets(folder: Path) -> Reader:
    """Subnet files."""
    manifest = write_artifact(folder / "a", residual_net(), profile())
    whole = json.loads(manifest.subnet.model_dump_json())
    path = folder / "subnet.json"
    return Reader(
        lambda rng: path.write_bytes(_json(whole, rng)), lambda: load_subnet(path).sha256()
    )


def _json(document: Any, rng: random.Random) -> bytes:
    if rng.random() < 0.7:
        return written(damaged(document, rng))
    return flipped(written(document), rng)


def manifests(folder: Path) -> Reader:
    """Manifests whose digest is right, and what is opened by them."""
    artifact = folder / "a"
    write_artifact(artifact, residual_net(), profile())
    whole, images = json.loads((artifact / MANIFEST).read_text()), pixels(2)

    def spoil(rng: random.Random) -> None:
        document = damaged(whole, rng)
        # What cannot be sealed is read as it is.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            document = sealed(document)
        (artifact / MANIFEST).write_bytes(written(document))

    return Reader(spoil, lambda: load(artifact, threads=1)(images))


def parities(folder: Path) -> Reader:
    """Stored images and logits."""
    artifact = folder / "a"
    write_artifact(artifact, residual_net(), profile())
    manifest, whole = read_manifest(artifact), (artifact / PARITY).read_bytes()

    def spoil(rng: random.Random) -> None:
        (artifact / PARITY).write_bytes(flipped(whole[:600], rng) + whole[600:])

    return Reader(spoil, lambda: read_parity(artifact, manifest))


def baselines(folder: Path) -> Reader:
    """Latency reports of a former run."""
    artifact, path = folder / "a", folder / "baseline.json"
    manifest = write_artifact(artifact, residual_net(), profile())
    report = bench(artifact, repeats=5)
    whole = json.loads(report.model_dump_json())
    return Reader(
        lambda rng: path.write_bytes(_json(whole, rng)),
        lambda: read_report(path, manifest, manifest.profile.bench, whole["host"]),
    )


def graphs(folder: Path) -> Reader:
    """ONNX files."""
    artifact, path = folder / "a", folder / MODEL
    write_artifact(artifact, residual_net(), profile())
    whole = (artifact / MODEL).read_bytes()
    return Reader(
        lambda rng: path.write_bytes(flipped(whole, rng)), lambda: list(load_graph(path).graph)
    )


def integer_programs(folder: Path) -> Reader:
    """Programs of integer-only hardware with their packed weights, run on one image."""
    from onnx_ir import from_proto

    graph, image = from_proto(residual_net()), inputs(1)
    whole = integer_program(graph)
    write_packed(folder / PACKED, packed_tensors(graph))
    weights = (folder / PACKED).read_bytes()

    def spoil(rng: random.Random) -> None:
        (folder / INTEGER).write_bytes(written(damaged(whole, rng)))
        (folder / PACKED).write_bytes(flipped(weights, rng) if rng.random() < 0.2 else weights)

    return Reader(spoil, lambda: load_integer(folder)(image))


def packed(folder: Path) -> Reader:
    """Bit-packed weights."""
    from onnx_ir import from_proto

    path = folder / PACKED
    write_packed(path, packed_tensors(from_proto(residual_net())))
    whole = path.read_bytes()
    return Reader(lambda rng: path.write_bytes(flipped(whole, rng)), lambda: read_packed(path))


def idx_files(folder: Path) -> Reader:
    """Images of Fashion-MNIST's format, gzipped."""
    path = folder / "images"
    write_idx(path, np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28))
    whole = path.read_bytes()
    return Reader(lambda rng: path.write_bytes(flipped(whole, rng)), lambda: read_idx(path, 3))


def images(folder: Path) -> Reader:
    """Image files."""
    from PIL import Image

    rng = np.random.default_rng(0)
    kinds, path = [], folder / "image.png"
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path, kind)
        kinds.append(path.read_bytes())
    rules = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, size=(16, 16), resize=(18, 18))
    return Reader(
        lambda draw: path.write_bytes(flipped(draw.choice(kinds), draw)),
        lambda: load_image(path, rules),
    )


def weights(folder: Path) -> Reader:
    """State dicts: PyTorch's zip and its old form, and safetensors."""
    from safetensors.torch import save

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))

    state, path = net().state_dict(), folder / "weights.pt"
    kinds = [save(state)]
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        kinds.append(path.read_bytes())
    return Reader(
        lambda rng: path.write_bytes(flipped(rng.choice(kinds), rng)),
        lambda: load_weights(net(), path),
    )


def supernets(folder: Path) -> Reader:
    """Supernets: their header, and the table of their tensors."""
    whole = (bundled_supernet() / SUPERNET_FILE).read_bytes()
    table = int.from_bytes(whole[:8], "little") + 8

    def spoil(rng: random.Random) -> None:
        (folder / SUPERNET_FILE).write_bytes(flipped(whole[:table], rng) + whole[table:])

    return Reader(spoil, lambda: load_supernet(folder))


READERS: dict[str, Callable[[Path], Reader]] = {
    "baselines": baselines,
    "graphs": graphs,
    "idx": idx_files,
    "images": images,
    "integer": integer_programs,
    "manifests": manifests,
    "packed": packed,
    "parity": parities,
    "profiles": profiles,
    "recipes": recipes,
    "subnets": subnets,
    "supernets": supernets,
    "weights": weights,
}
