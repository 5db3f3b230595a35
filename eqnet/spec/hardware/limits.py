"""What may be asked of a benchmark: least and most, both allowed; and of random numbers."""

from __future__ import annotations

BATCH = (1, 1024)
THREADS = (1, 256)
REPEATS = (5, 100_000)
MAX_SEED = 2**32 - 1  # times a million, for the epochs, it is still a seed of torch
