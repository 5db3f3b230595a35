"""Verification of artifacts: the real runtime against the stored PyTorch logits, without torch."""

from eqnet.verify.parity import REPORT, verify, write_report

__all__ = ["REPORT", "verify", "write_report"]
