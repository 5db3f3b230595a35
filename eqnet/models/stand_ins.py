"""Classes without code that take the place of those that a PyTorch file names.

Training scripts save their options beside the weights (argparse.Namespace, Lightning's
hyperparameters, numbers of numpy). torch's unpickler of weights refuses every class that it does
not know; it is given one of each name here that does nothing, so that no code of a file's choice
is imported or run. What the file stores in such an object is dropped.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

OBJECT = "eqnet_object"
UNKNOWN = re.compile(r"GLOBAL (\S+) was not an allowed global")
SETS_ITEMS = re.compile(r"Can only SETITEMS? for dict")


class StandIn(list[Any]):
    """In the place of any object; it takes arguments, items and a state, and drops them."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Nothing."""


class DictStandIn:
    """Makes what takes the place of a mapping: the unpickler fills ordered dictionaries alone."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        """An empty dictionary that says what it stands for."""
        made: OrderedDict[Any, Any] = OrderedDict()
        made.__dict__[OBJECT] = getattr(cls, OBJECT)
        return made


def stand_ins(error: str, known: dict[str, type]) -> dict[str, type]:
    """The classes that let the unpickler go on after `error`, by name; none if nothing can.

    known: those that it had.
    """
    found = UNKNOWN.search(error)
    if found is not None and found.group(1) not in known:
        name = found.group(1)
        made = type(name, (StandIn,), {OBJECT: name})
        return {name: made} if "." in name else {name: made, f"builtins.{name}": made}
    if SETS_ITEMS.search(error):
        return {
            name: type(name, (DictStandIn,), {OBJECT: name})
            for name, kind in known.items()
            if issubclass(kind, StandIn) and f"got {kind}" in error
        }
    return {}


def is_stand_in(value: Any) -> bool:
    """Whether a value stands for an object of a class that was not run."""
    return hasattr(value, OBJECT)


def stands_for(value: Any) -> str:
    """The name of the class whose place a stand-in takes."""
    return str(getattr(value, OBJECT))
