"""Turning pydantic's findings into one line: key, what was found, what is allowed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from eqnet.spec.errors import one_line


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, as `key: message (found: value)`."""
    problem = error.errors(include_url=False)[0]
    where = one_line(".".join(str(part) for part in problem["loc"]), 200) or "top level"
    message = one_line(problem["msg"].removeprefix("Value error, "), 1000)
    if problem["type"].startswith("union_tag"):
        return f"{where}.{_choice(problem['ctx'])}"
    if problem["type"] in ("extra_forbidden", "missing", "value_error"):
        return f"{where}: {message}"
    return f"{where}: {message} (found: {shown(problem['input'])})"


def shown(value: Any) -> str:
    """A value of a file for a message: one short line."""
    try:
        return one_line(repr(value), 60)
    except ValueError:  # Python does not write integers of thousands of digits
        return "an integer of too many digits"


def _choice(context: dict[str, Any]) -> str:
    """Of a key that says which of several forms a mapping has: the key, and what is wrong."""
    key = str(context["discriminator"]).strip("'")
    if "tag" not in context:
        return f"{key}: Field required"
    return f"{key}: Input should be {context['expected_tags']} (found: {shown(context['tag'])})"
