"""Where in the model's own code something stands or went wrong."""

from __future__ import annotations

from typing import Any


def first_line(error: Exception) -> str:
    """What an error says first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def where(error: BaseException) -> str:
    """The innermost source line outside torch and tracing that raised `error`."""
    place = "unknown line"
    step = error.__traceback__
    while step is not None:
        if _is_users(step.tb_frame.f_code.co_filename):
            place = f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return place


def _is_users(file: str) -> bool:
    inside = ("/torch/", "/eqnet/capture/", "/eqnet/supernet/", "<frozen", "/contextlib.py")
    return not any(part in file.replace("\\", "/") for part in inside)


def line_of_frame(frame: Any) -> str:
    """The innermost source line outside torch and tracing on the way to a Python frame."""
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "unknown line"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
