"""Reading a user's float weights: safetensors, or PyTorch files without any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqnet.models.file_kinds import ALLOWED, kind_of
from eqnet.models.outside import outside_tensors, set_values
from eqnet.models.stand_ins import stand_ins
from eqnet.models.weight_layouts import Chosen, Layout
from eqnet.models.weight_names import names_of
from eqnet.spec.errors import CheckpointError, one_line

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
MAX_CLASSES = 100


class WeightFile:
    """A file of weights, read once."""

    def __init__(self, path: Path, key: str | None = None) -> None:
        """`key`: which weights of a checkpoint with several, such as ``state_dict``.

        Raises CheckpointError with one line when the file is missing, damaged, of another kind,
        or holds no named tensors.
        """
        self.path = path
        kind = kind_of(path)
        content = _read_safetensors(path) if kind == "safetensors" else _read_pytorch(path)
        self._layout = Layout(path, content, key)

    def chosen(self, model: nn.Module) -> Chosen:
        """The tensors by the names of `model`, of whatever shape, and remarks for the user.

        Raises CheckpointError where names do not fit.
        """
        return self._layout.choose(names_of(_tensors_of(model), outside_tensors(model)))

    def load(self, model: nn.Module) -> tuple[str, ...]:
        """Load into `model`, in place; remarks for the user. Raises CheckpointError."""
        chosen, outside = self.chosen(model), outside_tensors(model)
        own = {**outside, **_tensors_of(model)}
        ready = {
            name: self._converted(name, tensor, own[name])
            for name, tensor in chosen.tensors.items()
        }
        model.load_state_dict(
            {name: tensor for name, tensor in ready.items() if name not in outside}, strict=False
        )
        for name in outside.keys() & ready.keys():
            set_values(outside[name], ready[name])
        return chosen.remarks

    def _converted(self, name: str, tensor: Tensor, own: Tensor) -> Tensor:
        """A tensor of the file in the type of the model's, if no value is lost by it."""
        if tensor.shape != own.shape:
            raise self._error(name, f"shape {list(tensor.shape)}", str(list(own.shape)))
        allowed: tuple[torch.dtype, ...] = FLOATS if own.is_floating_point() else INTEGERS
        if own.is_complex() or own.dtype is torch.bool:
            allowed = (own.dtype,)
        if tensor.dtype not in allowed or tensor.layout is not torch.strided:
            kind = str(tensor.dtype if tensor.dtype not in allowed else tensor.layout)
            names = ", ".join(_plain(dtype) for dtype in allowed)
            raise self._error(name, _plain(kind), names)
        converted = tensor.detach().to(own.dtype)
        if own.is_floating_point() or own.is_complex():
            if not bool(valid(converted, own).all()):
                large = bool(torch.isfinite(tensor).all())
                what = f"values too large for {_plain(own.dtype)}" if large else "NaN or infinity"
                raise CheckpointError(f"{self.path}: {name}: holds {what}")
        elif not torch.equal(converted.to(tensor.dtype), tensor):
            raise self._error(name, "values out of range", _plain(own.dtype))
        return converted

    def _error(self, name: str, what: str, allowed: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {name}: {what} (allowed: {allowed})")


def valid(tensor: Tensor, own: Tensor) -> Tensor:
    """Which elements of a tensor are finite, or infinite as in the model as it is built.

    Masks of attention hold minus infinity.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.ones((), dtype=torch.bool)
    return torch.isfinite(tensor) | (tensor == own.to(tensor.device))


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> tuple[str, ...]:
    """Load a file of weights into `model`, in place; returns remarks for the user.

    Names are brought to the model's where that makes all of them fit: prefixes and parts that
    wrappers and training scripts add, old names of torchvision. The file may also hold the
    tensors of the model that its state dict lacks. `key`: which weights of a checkpoint with
    several. Raises CheckpointError with one line when the file is missing, damaged, of another
    kind, or when its names, shapes, types or values do not fit the model.
    """
    return WeightFile(path, key).load(model)


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}


def _plain(kind: Any) -> str:
    return str(kind).removeprefix("torch.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {one_line(error)}") from error


def _read_pytorch(path: Path) -> Any:
    """The content of a file; an object of any class but those of tensors is a stand-in."""
    known: dict[str, type] = {}
    while True:
        allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
            (kind, name) for name, kind in known.items()
        ]
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            more = stand_ins(str(error), known)
            if not more or len(known) >= MAX_CLASSES:
                raise CheckpointError(
                    f"{path}: not a file of tensors alone, loading it could run code "
                    f"(allowed: {ALLOWED})"
                ) from error
            known |= more
        except Exception as error:  # whatever a damaged file may lead to
            raise CheckpointError(f"{path}: damaged PyTorch file: {one_line(error)}") from error
