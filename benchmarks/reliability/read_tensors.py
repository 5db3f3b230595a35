"""Readers of tensors: supernets, predictors, states of training, weights, images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny
import torch
from artifacts import profile, write_artifact
from graphs import residual_net
from mutations import flipped
from readers import Make, Reader, binary_file, headed_file
from safetensors.numpy import save as save_arrays
from torch import nn

from eqnet.backend.artifact import read_manifest, read_parity
from eqnet.backend.images import load_image
from eqnet.data.idx import read_idx, write_idx
from eqnet.models.weights import load_weights
from eqnet.spec.manifest import PARITY, Preprocessing
from eqnet.stages.search.accuracy import cqap, labels
from eqnet.stages.search.accuracy.features import CODES
from eqnet.stages.train.state import load_state, save_state
from eqnet.supernet.checkpoint import SUPERNET_FILE, Header, load_supernet, save_supernet
from eqnet.supernet.supernet import Supernet


def parities(folder: Path) -> Reader:
    """Stored images and logits."""
    artifact = folder / "a"
    write_artifact(artifact, residual_net(), profile())
    manifest, path = read_manifest(artifact), artifact / PARITY
    return headed_file(path, path.read_bytes(), lambda: read_parity(artifact, manifest))


def idx_files(folder: Path) -> Reader:
    """Images of Fashion-MNIST's format, gzipped."""
    path = folder / "images"
    write_idx(path, np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28))

    def read() -> object:
        found = read_idx(path, 3)
        return found.shape, found.tobytes()

    return binary_file(path, [path.read_bytes()], read, hashed=True)


def images(folder: Path) -> Reader:
    """Image files."""
    from PIL import Image

    rng = np.random.default_rng(0)
    kinds, path = [], folder / "image.png"
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path, kind)
        kinds.append(path.read_bytes())
    rules = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, size=(16, 16), resize=(18, 18))
    return binary_file(path, kinds, lambda: load_image(path, rules))


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
    """Supernets, built again by what their header says."""
    header = Header(
        model=tiny.SOURCE,
        input_shape=tiny.SHAPE,
        classes=2,
        dataset="image_folder",
        method="elastic",
        seed=0,
    )
    torch.manual_seed(0)
    save_supernet(folder, Supernet(tiny.network(2, 1).eval(), tiny.SHAPE), header)
    path = folder / SUPERNET_FILE
    return headed_file(path, path.read_bytes(), lambda: load_supernet(folder, allow_code=True)[2])


def states(folder: Path) -> Reader:
    """resume.safetensors: a network, its optimizer and how many epochs are done."""

    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
        return net, torch.optim.Adam(net.parameters())

    net, optimizer = begun()
    net(torch.zeros(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    path, recipe = folder / "resume.safetensors", '{"seed": 1}'
    save_state(path, net, optimizer, 3, recipe)
    return headed_file(path, path.read_bytes(), lambda: load_state(path, *begun(), recipe))


def predictors(folder: Path) -> Reader:
    """cqap.safetensors."""
    header = cqap.CqapHeader(
        supernet="1" * 64,
        subnets=20,
        images=100,
        members=1,
        layers=3,
        read=2,
        mean=0.5,
        deviation=1.0,
        logs=(-1.0, 1.0),
        accuracies=(0.9, 0.5),
    )
    size = 5 * len(CODES) + 4
    members = nn.ModuleList([cqap._member(size + 5)])
    path = cqap.save_cqap(folder, cqap.Cqap(header, members))
    return headed_file(
        path, path.read_bytes(), lambda: cqap.load_cqap(folder, header.supernet, size)
    )


def measured_labels(folder: Path) -> Reader:
    """cqap_labels.safetensors."""
    path, features = folder / "cqap_labels.safetensors", np.eye(6, 9, dtype=np.float32)
    values = np.full((6, 2), 0.5, np.float32)
    tensors = {"features": features, "divergence": values, "accuracy": values}
    whole = save_arrays(tensors, metadata={labels.SOURCE_KEY: "a:1:2"})
    return headed_file(path, whole, lambda: labels._load(path, features, "a:1:2"))


TENSORS: dict[str, Make] = {
    "cqap": predictors,
    "cqap labels": measured_labels,
    "idx": idx_files,
    "images": images,
    "parity": parities,
    "states": states,
    "supernets": supernets,
    "weights": weights,
}
