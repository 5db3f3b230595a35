"""Damage for files: odd values in documents, flipped and lost bytes anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63 - 1, 10**19, 1e308, 1e-320, float("nan")),
    *(float("inf"), "", "x" * 5000, "\x00", "../..", "/etc/passwd", "\x1b[2J", [], {}, [[]]),
    *([1] * 50, {"a": 1}, [None], "int8", "1"),
)
MOST_NODES = 40
LARGE = 1e300  # a number above it cannot be added to a float


class Whole(random.Random):
    """Draws by which nothing is damaged: a reader has to accept what they give."""


def damaged(document: Any, rng: random.Random) -> Any:
    """A copy of a JSON document of which one to three values are gone, moved or odd."""
    copy = json.loads(json.dumps(document))
    if isinstance(rng, Whole):
        return copy
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = [path for path in _paths(copy) if path]
        if not paths:
            break
        path = rng.choice(paths)
        _damage(copy, path, rng)
    return copy


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), MOST_NODES)):
            yield from _paths(value[index], (*path, index))


def _damage(document: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    last, draw = path[-1], rng.random()
    value = holder[last]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if draw < 0.15:
        del holder[last]
    elif draw < 0.3 and isinstance(holder, dict):
        holder[rng.choice(list(holder))] = value
    elif draw < 0.45 and number:
        near = value + 0.5 if abs(value) < LARGE else 0.5
        holder[last] = rng.choice((-value, value + 1, value * 10**6, near, 10**400))
    else:
        holder[last] = deepcopy(rng.choice(ODD))


def written(document: Any) -> bytes:
    """A document as JSON, which is YAML too; NaN and infinity as Python writes them."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Content with flipped bits, bytes that are gone or new, or without its end."""
    spoiled = bytearray(content)
    if isinstance(rng, Whole):
        return content
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not spoiled:
            break
        place, draw = rng.randrange(len(spoiled)), rng.random()
        if draw < 0.6:
            spoiled[place] ^= 1 << rng.randrange(8)
        elif draw < 0.75:
            del spoiled[place : place + rng.randrange(1, 50)]
        elif draw < 0.9:
            spoiled[place:place] = rng.randbytes(rng.randrange(1, 20))
        else:
            del spoiled[place:]
    return bytes(spoiled)
