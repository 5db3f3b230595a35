"""Text from a stranger's file, made safe for a terminal."""

from __future__ import annotations

MOST = 120  # characters of a name


def printable(text: object, most: int = MOST) -> str:
    """A text of at most `most` characters in which nothing moves a cursor or changes a colour.

    What is not printable (control characters, escape sequences, marks that turn the direction of
    writing, lone surrogates) is spelled as Python spells it: ``\\x1b``.
    """
    parts = []
    for character in str(text)[: most + 1]:
        if character.isprintable():
            parts.append(character)
        else:
            parts.append(character.encode("unicode_escape", "backslashreplace").decode("ascii"))
    safe = "".join(parts)
    return safe if len(safe) <= most else f"{safe[: most - 3]}..."
