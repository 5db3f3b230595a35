"""What may be asked of a benchmark: least and most, both allowed."""

from __future__ import annotations

BATCH = (1, 1024)
THREADS = (1, 256)
REPEATS = (5, 100_000)
