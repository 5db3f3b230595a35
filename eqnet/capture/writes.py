"""What an operation writes into, observed on tensors without data."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# `x += y` writes into the tensor x; beside each such operator, the one that makes a new tensor.
PLAIN_OPERATORS: dict[Any, Callable[[Any, Any], Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}


class Writes(TorchDispatchMode):
    """Within: `tensors` gathers what operations write into, `out=` included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it so
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`; its schema says which of its arguments it writes into."""
        kwargs = kwargs or {}
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[index] if index < len(args) else kwargs.get(argument.name)
                self.tensors += tensors_in(written)
        return func(*args, **kwargs)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a value, which may be a nest of tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def share_memory(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same storage: one may be a part of the other."""
    same: bool = tensor.untyped_storage()._cdata == other.untyped_storage()._cdata
    return same


def same_values(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements of the same storage in the same order."""
    return tensor is other or (share_memory(tensor, other) and _layout(tensor) == _layout(other))


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
