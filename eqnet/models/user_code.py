"""Building a model with a user's own callable, once the user has allowed that code to run."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from eqnet.spec.errors import UsageError, unknown


def build_from_code(
    module: str, attribute: str, classes: int | None, in_channels: int | None
) -> nn.Module:
    """Import `module` (the current folder counts) and call `attribute` of it for a model.

    The callable is given ``classes=`` and ``in_channels=`` where they are known and it has such
    parameters. Raises UsageError with one line when it is not there, fails or builds no model.
    """
    source = f"{module}:{attribute}"
    with _current_folder():
        build = _find(source, module, attribute)
        try:
            model = build(**_arguments(build, classes=classes, in_channels=in_channels))
        except Exception as error:  # the user's own code may raise anything
            raise UsageError(f"model source '{source}' raised {_line(error)}") from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise UsageError(f"model source '{source}' returned {kind} (allowed: torch.nn.Module)")
    return model


def _find(source: str, module: str, attribute: str) -> Any:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # as above: import runs the user's code
        raise UsageError(
            f"model source '{source}': importing '{module}': {_line(error)}"
        ) from error
    build = getattr(loaded, attribute, None)
    if not callable(build):
        names = [n for n, v in vars(loaded).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"model source '{source}': {unknown('callable', attribute, names)}")
    return build


def _arguments(build: Any, **wanted: int | None) -> dict[str, int]:
    parameters = inspect.signature(build).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    arguments = {}
    for name, value in wanted.items():
        if value is not None and (takes_all or name in parameters):
            arguments[name] = value
    return arguments


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let the current folder's modules be found, as with ``python -m``, but after all others."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
