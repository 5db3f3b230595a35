"""Where training computes."""

from __future__ import annotations

import torch

from eqnet.spec.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device of that name. Raises UsageError where it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device found (allowed here: auto, cpu)")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"unknown device '{name}' (allowed: auto, cpu, cuda)")
    return torch.device(name)
