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
        mapping: OrderedDict[Any, Any] = OrderedDict()
        mapping.__dict__[OBJECT] = getattr(cls, OBJECT)
        return mapping


def stand_ins(error: str, classes: dict[str, type]) -> dict[str, type]:
    """The classes that let the unpickler go on after `error`, by name; none if nothing can.

    classes: those that it had.
    """
    unknown = UNKNOWN.search(error)
    if unknown is not None and unknown.group(1) not in classes and "\0" not in error:
        return _in_place_of(unknown.group(1))
    mappings: dict[str, type] = {}
    if SETS_ITEMS.search(error):
        for name, kind in classes.items():
            if issubclass(kind, StandIn) and f"got {kind}" in error:
                mappings[name] = type(name, (DictStandIn,), {OBJECT: name})
    return mappings


def _in_place_of(name: str) -> dict[str, type]:
    stand_in = type(name, (StandIn,), {OBJECT: name})
    if "." in name:
        return {name: stand_in}
    return {name: stand_in, f"builtins.{name}": stand_in}


def is_stand_in(value: Any) -> bool:
    """Whether a value stands for an object of a class that was not run."""
    return hasattr(value, OBJECT)


def stands_for(value: Any) -> str:
    """The name of the class whose place a stand-in takes."""
    return str(getattr(value, OBJECT))
