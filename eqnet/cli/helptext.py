"""Help pages are written with line breaks where the source needs them; the terminal's rule."""

from __future__ import annotations


def page(text: str) -> str:
    """Join the lines of each paragraph, but for those that begin with a backspace mark."""
    paragraphs = []
    for paragraph in text.strip("\n").split("\n\n"):
        if not paragraph.startswith("\b"):
            paragraph = " ".join(paragraph.split())
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)
