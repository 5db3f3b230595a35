"""Reports: one summary for the terminal, the HTML page and the picture."""

from eqnet.stages.report.load import load
from eqnet.stages.report.page import report, require_plotting
from eqnet.stages.report.summary import Row, summarize

__all__ = ["Row", "load", "report", "require_plotting", "summarize"]
