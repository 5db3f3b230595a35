"""What an interrupted run left in its folder, taken up only where it belongs to the same run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError, one_line
from eqnet.spec.texts import parse_json
from eqnet.stages.train.recipe import Recipe
from eqnet.stages.train.state import STATE_FILE, require_same
from eqnet.supernet.checkpoint import (
    SUPERNET_FILE,
    Header,
    parse_header,
    read_tensors,
    require_like,
)

FLOAT_FILE = "float.safetensors"
FLOAT_STATE = "float.resume.safetensors"
LOG_FILE = "train.jsonl"
IDENTITY_KEY = "identity"
FLOAT_FIELDS = {
    "model",
    "weights_sha256",
    "weights_key",
    "dataset",
    "inputs",
    "seed",
    "augment",
    "float_model",
}


def float_identity(plan: Recipe) -> str:
    """All of a recipe that its float model depends on, as JSON."""
    return plan.model_dump_json(include=FLOAT_FIELDS)


def save_float(folder: Path, model: nn.Module, plan: Recipe) -> None:
    """Write the trained float model with its identity, whole or not at all."""
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_file(folder / FLOAT_FILE, save(tensors, metadata={IDENTITY_KEY: float_identity(plan)}))


def load_float(folder: Path, model: nn.Module, plan: Recipe) -> bool:
    """Fill `model` from the folder; False where no float model lies there.

    Raises CheckpointError where the file is damaged or of another recipe, seed or network.
    """
    path = folder / FLOAT_FILE
    if not path.is_file():
        return False
    metadata, tensors = read_tensors(path)
    require_same(path, metadata.get(IDENTITY_KEY), float_identity(plan))
    targets = model.state_dict()
    for name in tensors.keys() & targets.keys():
        require_like(path, name, tensors[name], targets[name])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: not the weights of {plan.model}: {one_line(error)}"
        ) from error
    model.eval()
    return True


def remove_states(folder: Path, plan: Recipe, *names: str) -> None:
    """Remove states of this run, whose results are written: one that was killed in between left
    them. Those of another run stay, and so does what cannot be read.
    """
    for name in names:
        path = folder / name
        whose = float_identity(plan) if name == FLOAT_STATE else json.dumps(plan.identity())
        if path.is_file():
            with contextlib.suppress(CheckpointError):
                require_same(path, read_tensors(path)[0].get("recipe"), whose)
                path.unlink(missing_ok=True)


def require_own_state(folder: Path, plan: Recipe) -> None:
    """A state of elastic training, if there is one, is of this run. Raises CheckpointError."""
    path = folder / STATE_FILE
    if path.is_file():
        require_same(path, read_tensors(path)[0].get("recipe"), json.dumps(plan.identity()))


def finished(folder: Path, plan: Recipe) -> Header | None:
    """The header of the supernet that this very recipe made, or None.

    Raises CheckpointError where a supernet lies there that cannot be read.
    """
    path = folder / SUPERNET_FILE
    if not path.is_file():
        return None
    header = parse_header(path, read_tensors(path)[0])
    return header if header.recipe == plan.identity() else None


def read_log(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The first `epochs` records of the log. Raises CheckpointError where it has fewer."""
    path = folder / LOG_FILE
    try:
        log = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()[:epochs]]
    except (OSError, ValueError) as error:
        line = f"cannot read the log of the run: {one_line(error)}"
        raise CheckpointError(f"{path}: {line}") from error
    if not all(isinstance(row, dict) for row in log):
        raise CheckpointError(f"{path}: not the log of a run (allowed: an object a line)")
    if len(log) < epochs:
        raise CheckpointError(f"{path}: {len(log)} epochs (allowed: the {epochs} that are done)")
    return log
