"""Saving and resuming a training run: supernet, optimizer and epoch, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError, one_line
from eqnet.supernet.checkpoint import read_tensors, require_like
from eqnet.supernet.supernet import Supernet

STATE_FILE = "resume.safetensors"
STEP, SQUARES = "step", "exp_avg_sq"
MOMENTS = (STEP, "exp_avg", SQUARES)


def save_state(
    path: Path, supernet: Supernet, optimizer: torch.optim.Optimizer, epoch: int, recipe: str
) -> None:
    """Write the state after `epoch` epochs, whole or not at all."""
    tensors = {f"net.{k}": v for k, v in supernet.graph.state_dict().items()}
    for name, parameter in supernet.graph.named_parameters():
        moments = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in moments:
                tensors[f"{moment}.{name}"] = moments[moment]
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_file(path, save(whole, metadata={"epoch": str(epoch), "recipe": recipe}))


def require_same(path: Path, stored: str | None, wanted: str) -> None:
    """Two JSON texts say the same. Raises CheckpointError: `path` is of another run."""
    try:
        same = stored is not None and json.loads(stored) == json.loads(wanted)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: what it was made with is not JSON: {error}") from error
    if not same:
        raise CheckpointError(
            f"{path}: made with another recipe or seed (allowed: the same recipe, or a new --out)"
        )


def load_state(
    path: Path, supernet: Supernet, optimizer: torch.optim.Optimizer, recipe: str
) -> int:
    """Restore a run; returns the epochs that are done. Raises CheckpointError."""
    metadata, tensors = read_tensors(path)
    try:
        return _restore(path, metadata, tensors, supernet, optimizer, recipe)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the state of such a run: {one_line(error)}") from error


def _restore(
    path: Path,
    metadata: dict[str, str],
    tensors: dict[str, Tensor],
    supernet: Supernet,
    optimizer: torch.optim.Optimizer,
    recipe: str,
) -> int:
    require_same(path, metadata.get("recipe"), recipe)
    epoch = int(metadata["epoch"])
    if epoch < 1:
        raise CheckpointError(f"{path}: epoch {epoch} (allowed: 1 or more)")
    _require_sound(path, tensors, supernet)
    supernet.graph.load_state_dict(
        {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
    )
    for name, parameter in supernet.graph.named_parameters():
        state = _moments(tensors, name, parameter)
        if state:
            optimizer.state[parameter] = state
    return epoch


def _require_sound(path: Path, tensors: dict[str, Tensor], supernet: Supernet) -> None:
    """Every tensor is like the one that it stands for. Raises CheckpointError."""
    targets = {f"net.{name}": value for name, value in supernet.graph.state_dict().items()}
    for name, parameter in supernet.graph.named_parameters():
        for moment in MOMENTS:
            like = torch.zeros((), dtype=torch.float32) if moment == STEP else parameter
            targets[f"{moment}.{name}"] = like
    for name, value in tensors.items():
        if name in targets:
            require_like(path, name, value, targets[name])
        if name.startswith((f"{STEP}.", f"{SQUARES}.")) and bool((value < 0).any()):
            raise CheckpointError(f"{path}: tensor '{name}' holds numbers below 0")


def _moments(tensors: dict[str, Tensor], name: str, parameter: Tensor) -> dict[str, Tensor]:
    moments = {}
    for moment in MOMENTS:
        if f"{moment}.{name}" in tensors:
            moments[moment] = tensors[f"{moment}.{name}"].to(parameter.device)
    return moments
