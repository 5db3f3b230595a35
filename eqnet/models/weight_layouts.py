"""Where in a checkpoint the weights are: training scripts put them under many keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from eqnet.models.stand_ins import is_stand_in, stands_for
from eqnet.models.weight_names import NameFit, Names, few, fit_names, misfits
from eqnet.spec.errors import CheckpointError, unknown

# Averages of the weights over training come first, as in timm's loader: they are what its
# authors evaluate. The rest is in the order of how sure a key is to mean the network.
AVERAGED = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "params_ema",
    "ema",
    "ema_model",
    "model_ema_state_dict",
    "averaged_model",
)
USUAL = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "module",
    "backbone",
)
KEYS = (*AVERAGED, *USUAL)
DEPTH = 3


class ChosenLayout(NamedTuple):
    """The weights of a checkpoint that fit a model, and what the user should know of the choice."""

    tensors: dict[str, Tensor]
    remarks: tuple[str, ...]


class Layout:
    """The contents of a file of weights: one or several mappings of named tensors."""

    def __init__(self, path: Path, content: Any, key: str | None = None) -> None:
        """`key`: of a nested mapping, or of what names begin with. Raises CheckpointError."""
        self._path = path
        self._sets: dict[str, dict[str, Tensor]] = {}
        for keys, tensors in _mappings(content, (), DEPTH):
            self._sets[".".join(keys)] = tensors
        if len(self._sets) > 1:
            self._sets.pop("", None)
        if not self._sets:
            raise CheckpointError(f"{path}: {_why_none(content)}")
        if key is not None:
            self._sets = {key: self._only(key)}

    def _only(self, key: str) -> dict[str, Tensor]:
        if key in self._sets:
            return self._sets[key]
        for tensors in self._sets.values():
            under = _under(f"{key}.", tensors)
            if under:
                return under
        raise CheckpointError(f"{self._path}: {unknown('key of weights', key, self._keys())}")

    def _keys(self) -> list[str]:
        """What `key` may be: a nested mapping's key, or else what names begin with."""
        keys = [key for key in self._sets if key]
        if keys:
            return keys
        first: set[str] = set()
        for tensors in self._sets.values():
            for name in tensors:
                first.add(name.partition(".")[0])
        return sorted(first)[:10]

    def choose(self, names: Names) -> ChosenLayout:
        """The weights of a model. Raises CheckpointError that says which names do not fit."""
        keys = sorted(self._sets, key=_rank)
        fits = {key: fit_names(names, self._sets[key]) for key in keys}
        good = [key for key in keys if fits[key].fits]
        if not good:
            raise CheckpointError(f"{self._path}: {_misfit(keys[0], fits[keys[0]])}")
        best = fits[good[0]]
        remarks = []
        if best.remark:
            remarks.append(f"{self._path.name}: {best.remark}")
        if len(good) > 1:
            others = ", ".join(f"'{key}'" for key in good[1:])
            averaged = " (averaged weights)" if _is_averaged(good[0]) else ""
            remarks.append(
                f"{self._path.name}: weights taken from '{good[0]}'{averaged}, not from {others} "
                "(--weights-key takes others)"
            )
        return ChosenLayout(best.tensors, tuple(remarks))


def _under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    under = {}
    for name, tensor in tensors.items():
        if name.startswith(start):
            under[name.removeprefix(start)] = tensor
    return under


def _mappings(
    content: Any, keys: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping that holds named tensors and nothing else, by its keys."""
    if not isinstance(content, Mapping) or not content or is_stand_in(content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield keys, {str(name): value for name, value in content.items()}
    elif depth:
        for key, value in content.items():
            if isinstance(key, str):
                yield from _mappings(value, (*keys, key), depth - 1)


def _rank(key: str) -> int:
    """The place of a dotted key among those that are known; others come last, in their order."""
    place = len(KEYS)
    for part in key.split("."):
        if part in KEYS:
            place = min(place, KEYS.index(part))
    return place


def _is_averaged(key: str) -> bool:
    return any(part in AVERAGED for part in key.split("."))


def _misfit(key: str, attempt: NameFit) -> str:
    where = f" (under '{key}')" if key else ""
    if attempt.choices:
        return (
            f"several networks{where} fit this model: {few(attempt.choices, 6)} (allowed: one of "
            "them, by --weights-key)"
        )
    text = f"not weights of this model{where}: {misfits(attempt)}"
    if attempt.hint:
        text += f"; {attempt.hint}"
    return text


def _why_none(content: Any) -> str:
    code = "loading it could run code (allowed: a state_dict of tensors)"
    if is_stand_in(content):
        return f"a pickled object of {stands_for(content)}, {code}"
    if isinstance(content, Mapping):
        for key in (*KEYS, *content):
            if key in content and is_stand_in(content[key]):
                return f"{key}: a pickled object of {stands_for(content[key])}, {code}"
        for name, value in content.items():
            if not isinstance(value, Tensor):
                return f"{name}: {type(value).__name__} (allowed: tensors)"
    return "holds no named tensors (allowed: a state_dict)"
