"""The digest by which a manifest is known: made and checked here alone.

It is the sha256 of all that the file says, as JSON with sorted keys and no spaces. The manifest
lists the sha256 of every other file, so the digest stands for the whole artifact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "digest"
DIGITS = 64


def digest_of(content: Mapping[str, Any]) -> str:
    """Hex sha256 of a JSON object without its own digest. Raises ValueError for a NaN in it."""
    rest = {key: value for key, value in content.items() if key != KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its digest in it. Raises ValueError for a NaN in it."""
    return {**content, KEY: digest_of(content)}


def broken_seal(content: Mapping[str, Any]) -> str | None:
    """What is wrong with the digest of a JSON object, None if it is the object's own."""
    stored, own = content.get(KEY), digest_of(content)
    if stored == own:
        return None
    if not isinstance(stored, str):
        return f"{KEY}: none, or no text (allowed: the sha256 of the rest)"
    return f"changed or corrupt: {KEY} {own[:12]} (it says {stored[:12]})"
