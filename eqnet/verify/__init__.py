"""Verification of artifacts: the real runtime against the stored PyTorch logits, without torch."""

from eqnet.verify.parity import REPORT, verify

__all__ = ["REPORT", "verify"]
