"""One command: a float classifier and images in, verified and timed artifacts and a report out."""

from eqnet.stages.quantize.run import QuantizeResult, quantize

__all__ = ["QuantizeResult", "quantize"]
