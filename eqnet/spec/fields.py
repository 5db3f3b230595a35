"""Turning pydantic's findings into one line: key, what was found, what is allowed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, as `key: message (found: value)`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "top level"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"].startswith("union_tag"):
        return f"{where}.{_choice(problem['ctx'])}"
    if problem["type"] in ("extra_forbidden", "missing", "value_error"):
        return f"{where}: {message}"
    value = repr(problem["input"])
    if len(value) >= 60:
        value = value[:57] + "..."
    return f"{where}: {message} (found: {value})"


def _choice(context: dict[str, Any]) -> str:
    """Of a key that says which of several forms a mapping has: the key, and what is wrong."""
    key = str(context["discriminator"]).strip("'")
    if "tag" not in context:
        return f"{key}: Field required"
    return f"{key}: Input should be {context['expected_tags']} (found: '{context['tag']}')"
