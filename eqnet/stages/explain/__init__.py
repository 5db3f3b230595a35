"""`eqnet explain`: what quantization costs and saves, place by place, and what to pin."""

from eqnet.stages.explain.run import explain

__all__ = ["explain"]
