"""Reading a user's float weights: safetensors, or PyTorch files without any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqnet.models.file_kinds import ALLOWED, kind_of, require_whole
from eqnet.models.outside import outside_tensors, set_values
from eqnet.models.stand_ins import stand_ins
from eqnet.models.weight_layouts import ChosenLayout, Layout
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

    def chosen(self, model: nn.Module) -> ChosenLayout:
        """The tensors by the names of `model`, of whatever shape, and remarks for the user.

        Raises CheckpointError where names do not fit.
        """
        return self._layout.choose(names_of(_tensors_of(model), outside_tensors(model)))

    def load(self, model: nn.Module) -> tuple[str, ...]:
        """Load into `model`, in place; remarks for the user. Raises CheckpointError."""
        chosen, outside = self.chosen(model), outside_tensors(model)
        of_model = {**outside, **_tensors_of(model)}
        ready: dict[str, Tensor] = {}
        for name, tensor in chosen.tensors.items():
            ready[name] = self._converted(name, tensor, of_model[name])
        state = {name: tensor for name, tensor in ready.items() if name not in outside}
        model.load_state_dict(state, strict=False)
        for name in outside.keys() & ready.keys():
            set_values(outside[name], ready[name])
        return chosen.remarks

    def _converted(self, name: str, tensor: Tensor, target: Tensor) -> Tensor:
        """A tensor of the file in the type of `target`, the model's, if no value is lost by it."""
        if tensor.shape != target.shape:
            raise self._error(name, f"shape {list(tensor.shape)}", str(list(target.shape)))
        allowed = _allowed_for(target)
        names = ", ".join(_plain(dtype) for dtype in allowed)
        if tensor.dtype not in allowed:
            raise self._error(name, _plain(tensor.dtype), names)
        if tensor.layout is not torch.strided:
            raise self._error(name, _plain(tensor.layout), names)
        converted = tensor.detach().to(target.dtype)
        if target.is_floating_point() or target.is_complex():
            if not bool(valid(converted, target).all()):
                large = bool(torch.isfinite(tensor).all())
                kind = _plain(target.dtype)
                what = f"values too large for {kind}" if large else "NaN or infinity"
                raise CheckpointError(f"{self.path}: {name}: holds {what}")
        elif not torch.equal(converted.to(tensor.dtype), tensor):
            raise self._error(name, "values out of range", _plain(target.dtype))
        return converted

    def _error(self, name: str, what: str, allowed: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {name}: {what} (allowed: {allowed})")


def _allowed_for(target: Tensor) -> tuple[torch.dtype, ...]:
    """The types in which a file may hold a tensor of the model."""
    if target.is_complex() or target.dtype is torch.bool:
        return (target.dtype,)
    if target.is_floating_point():
        return FLOATS
    return INTEGERS


def valid(tensor: Tensor, built: Tensor) -> Tensor:
    """Which elements of a tensor are finite, or infinite as in the model as it is built.

    Masks of attention hold minus infinity.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.ones((), dtype=torch.bool)
    return torch.isfinite(tensor) | (tensor == built.to(tensor.device))


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
    state = model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


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
    require_whole(path)
    classes: dict[str, type] = {}
    while True:
        allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
        for name, kind in classes.items():
            allowed.append((kind, name))
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            more = stand_ins(str(error), classes)
            if not more or len(classes) >= MAX_CLASSES:
                raise CheckpointError(
                    f"{path}: not a file of tensors alone, loading it could run code "
                    f"(allowed: {ALLOWED})"
                ) from error
            classes |= more
        except Exception as error:  # whatever a damaged file may lead to
            raise CheckpointError(f"{path}: damaged PyTorch file: {one_line(error)}") from error
