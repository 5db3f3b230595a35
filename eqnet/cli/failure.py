"""From an exception to one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from eqnet.cli.main import INTERRUPTED
from eqnet.spec.errors import EqnetError, MissingExtraError, without_controls

BROKEN_PIPE = 141
TERMINATED = 143

_EXTRA_OF = {
    "torch": "train",
    "torchvision": "train",
    "onnxscript": "train",
    "pymoo": "train",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "timm": "timm",
    "matplotlib": "report",
    "jinja2": "report",
    "nncf": "bench",
}


def exit_code_of(error: BaseException) -> int:
    """Say on stderr, in one line, what went wrong; returns the exit code for it."""
    if _nobody_reads(error):
        return _close_stdout()
    if isinstance(error, SystemExit):
        return _code_of(error)
    if os.environ.get("EQNET_DEBUG") == "1":
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt) or _is_abort(error):
        return _say("interrupted", INTERRUPTED)
    usage = getattr(error, "format_message", None)  # typer's own, whose class differs by version
    if usage is not None:
        return _say_usage(error, str(usage()))
    if isinstance(error, ImportError):
        error = missing_extra(error) or error
    if isinstance(error, EqnetError):
        return _say(f"error: {error}", error.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        return _say(f"error: {error.filename}: {error.strerror}", 1)
    text = f"error: unexpected {type(error).__name__}: {error} (EQNET_DEBUG=1 shows where)"
    return _say(text, 1)


def _nobody_reads(error: BaseException) -> bool:
    """Whether output went into a closed pipe; typer and rich make a SystemExit of that."""
    if isinstance(error, SystemExit) and error.__context__ is not None:
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError)


def _is_abort(error: BaseException) -> bool:
    """Whether typer gave up because of a Ctrl-C or the end of what it read."""
    typer = sys.modules.get("typer")
    return typer is not None and isinstance(error, typer.Abort)


def _code_of(error: SystemExit) -> int:
    """What the interpreter makes of `sys.exit`: no code is success, a text is failure."""
    if isinstance(error.code, int):
        return error.code
    if error.code is None:
        return 0
    return 1


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """The error to raise when the package that failed to import belongs to an extra."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRA_OF or not isinstance(error, ModuleNotFoundError):
        return None
    return MissingExtraError(
        f"'{package}' is not installed and this command needs it: "
        f"pip install 'eqnet[{_EXTRA_OF[package]}]'"
    )


def _say(text: str, code: int) -> int:
    print(without_controls(" ".join(text.split())), file=sys.stderr)
    return code


def _say_usage(error: BaseException, message: str) -> int:
    context = getattr(error, "ctx", None)
    if not message and context is not None:  # no arguments at all: the help was printed
        return 2
    command = context.command_path if context is not None else "eqnet"
    return _say(f"error: {message.rstrip('.')} (see '{command} --help')", 2)


def _close_stdout() -> int:
    """The reader went away: end quietly, also when the interpreter flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # stdout may not be a real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
