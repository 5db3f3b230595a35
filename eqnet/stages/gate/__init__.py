"""Verification and latency of several artifacts as one gate, for CI."""

from eqnet.stages.gate.run import gate
from eqnet.stages.gate.summary import to_markdown

__all__ = ["gate", "to_markdown"]
