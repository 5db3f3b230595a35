"""Latency of an artifact against the float model of the same net in the same runtime."""

from eqnet.stages.bench.formats import to_bencher, to_github_action, to_markdown
from eqnet.stages.bench.run import bench

__all__ = ["bench", "to_bencher", "to_github_action", "to_markdown"]
