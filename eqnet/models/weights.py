"""Reading a user's float weights: safetensors, or PyTorch files without any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqnet.spec.errors import CheckpointError

PYTORCH_SUFFIXES = (".pth", ".pt", ".bin")
ALLOWED = ".safetensors, or .pth, .pt, .bin with tensors only"
# Where training scripts put the weights inside of a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into `model`, in place.

    Raises CheckpointError with one line when the file is missing, damaged, holds anything but
    tensors, or when its names, shapes or values do not fit the model.
    """
    tensors = read_tensors(path)
    own = model.state_dict()
    # Counters of old files that batch norm of today does not need for inference.
    missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    foreign = [name for name in tensors if name not in own]
    if missing or foreign:
        parts = [("lacks", missing), ("has unknown", foreign)]
        found = "; ".join(f"{verb} {_few(names)}" for verb, names in parts if names)
        raise CheckpointError(f"{path}: not weights of this model: {found}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: {name}: shape {list(tensor.shape)} (allowed: {list(own[name].shape)})"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name}: holds NaN or infinity")
    model.load_state_dict(tensors, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file. Raises CheckpointError with one line."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file (allowed: {ALLOWED})")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in PYTORCH_SUFFIXES:
        tensors = _read_pytorch(path)
    else:
        kind = path.suffix or path.name
        raise CheckpointError(f"{path}: unknown kind of weights '{kind}' (allowed: {ALLOWED})")
    if all(name.startswith("module.") for name in tensors):  # saved from DataParallel
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {_line(error)}") from error


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a file of tensors alone, loading it could run code (allowed: {ALLOWED})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged PyTorch file: {_line(error)}") from error
    return _state_dict(path, content)


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no named tensors (allowed: a state_dict)")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name}: {type(value).__name__} (allowed: tensors)")
    return {str(name): value for name, value in content.items()}


def _few(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else f"{text[:197]}..."
