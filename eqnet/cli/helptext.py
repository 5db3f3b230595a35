"""Help pages are written with line breaks where the source needs them; the terminal's rule."""

from __future__ import annotations


def page(text: str) -> str:
    """Join the lines of each paragraph, but for those that begin with a backspace mark."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(
        part if part.startswith("\b") else " ".join(part.split()) for part in paragraphs
    )
