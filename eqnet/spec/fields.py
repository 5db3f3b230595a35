"""Turning pydantic's findings into one line: key, what was found, what is allowed."""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, as `key: message (found: value)`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "top level"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("extra_forbidden", "missing", "value_error"):
        return f"{where}: {message}"
    found = repr(problem["input"])
    return f"{where}: {message} (found: {found if len(found) < 60 else found[:57] + '...'})"
