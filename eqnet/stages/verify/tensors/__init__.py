"""The first tensor that a runtime computes otherwise than the reference, and why."""
