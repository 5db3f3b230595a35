"""Errors that a user can act on, each with the exit code that the command line documents.

Every message is one line: what is wrong, where, and what is allowed.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

MOST = 300  # characters of somebody else's message


def one_line(said: object, most: int = MOST) -> str:
    """An exception's message, or a text, as one line of at most so many characters.

    An exception without a message is told by its type.
    """
    text = without_controls(" ".join(str(said).split()))
    if not text and isinstance(said, BaseException):
        text = type(said).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_controls(text: str) -> str:
    """A text in which control characters, but for tabs and ends of lines, are question marks.

    Escape sequences move the cursor, rename the window and fake output.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("?" if _controls(character) else character for character in text)


def _controls(character: str) -> bool:
    return character not in "\t\n" and unicodedata.category(character) == "Cc"


class EqnetError(Exception):
    """Base of every error that is reported as one line and an exit code.

    What a message holds of somebody's file has no control characters.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_controls(message))


class UsageError(EqnetError):
    """A flag or an argument that cannot be used."""

    exit_code = 2


class ProfileError(EqnetError):
    """A hardware profile that is unknown, malformed or asks for the impossible."""

    exit_code = 3


class CheckpointError(EqnetError):
    """A supernet, subnet or predictor file that is missing, damaged or of another model."""

    exit_code = 4


class DataError(EqnetError):
    """A data folder that is missing, empty or of an unknown layout."""

    exit_code = 5


class ArtifactError(EqnetError):
    """An artifact folder with missing, changed or damaged files."""

    exit_code = 6


class CaptureError(EqnetError):
    """A model that cannot be captured as an elastic supernet."""

    exit_code = 7


class InfeasibleError(EqnetError):
    """A budget that no subnet of the space can meet."""

    exit_code = 8


class OutputError(EqnetError):
    """An output path that cannot be written."""

    exit_code = 9


class MissingExtraError(EqnetError):
    """An optional dependency that the command needs and that is not installed."""

    exit_code = 10


class VerificationError(EqnetError):
    """An artifact that ran and did not meet its profile's parity tolerances."""

    exit_code = 11


class RegressionError(EqnetError):
    """A latency that is worse than the baseline allows."""

    exit_code = 12


class TrainingError(EqnetError):
    """Training whose loss is no number any more."""

    exit_code = 13


class HostWarning(UserWarning):
    """This machine's CPU computes otherwise, or slower, than what an artifact was made for."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """One line that says `name` is no `kind`, suggests the nearest and lists what is allowed."""
    names, name = sorted(allowed), one_line(name, MOST)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'{hint} (allowed: {', '.join(names) or 'none'})"
