"""Verification of artifacts: the real runtime against the stored PyTorch logits, without torch."""

from eqnet.stages.verify.formats import to_junit, to_markdown
from eqnet.stages.verify.parity import REPORT, verify

__all__ = ["REPORT", "to_junit", "to_markdown", "verify"]
