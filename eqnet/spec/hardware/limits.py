"""What may be asked of a benchmark: least and most, both allowed; and of random numbers."""

from __future__ import annotations

BATCH = (1, 1024)
THREADS = (1, 256)
REPEATS = (5, 100_000)
PRECISION = (0.001, 0.5)  # half of a 95% interval's width, as a share of the value
MAX_SECONDS = (0.1, 3600.0)
MAX_SEED = 2**32 - 1  # times a million, for the epochs, it is still a seed of torch
