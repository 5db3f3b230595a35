"""What any ONNX file holds in integers, and what each backend makes of it."""

from eqnet.stages.inspect.run import inspect
from eqnet.stages.inspect.survey import coverage, int8_coverage

__all__ = ["coverage", "inspect", "int8_coverage"]
