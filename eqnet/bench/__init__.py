"""Latency of an artifact against the float model of the same net in the same runtime."""

from eqnet.bench.formats import to_bencher, to_github_action
from eqnet.bench.run import bench

__all__ = ["bench", "to_bencher", "to_github_action"]
