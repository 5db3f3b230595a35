"""Several models side by side: artifacts of eqnet and anybody's ONNX files."""

from eqnet.stages.compare.run import compare

__all__ = ["compare"]
