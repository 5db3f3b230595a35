"""eqnet: one trained network to every piece of hardware (EQ-Net, arXiv 2308.07650).

The functions below are all that a user needs; each is what a command of the same name wraps.
They are imported when they are first asked for, so that ``import eqnet`` loads neither torch
nor a runtime. What runs on a target board (`verify`, `bench`, `load`) never loads torch.
"""

from __future__ import annotations

import importlib

from eqnet.spec.version import __version__

TYPE_CHECKING = False  # as in typing, which takes time to import: the command begins here too
if TYPE_CHECKING:
    from typing import Any

    from eqnet.runtime import load
    from eqnet.stages.bench import bench
    from eqnet.stages.compare import compare
    from eqnet.stages.evaluate.evaluate import evaluate
    from eqnet.stages.explain import explain
    from eqnet.stages.export.export import export
    from eqnet.stages.gate import gate
    from eqnet.stages.inspect import inspect
    from eqnet.stages.profile_device import profile_device
    from eqnet.stages.quantize import quantize
    from eqnet.stages.report import report
    from eqnet.stages.search.search import search
    from eqnet.stages.train.elastic import train
    from eqnet.stages.train.post_training import post_training
    from eqnet.stages.train.steps.step import ElasticStep
    from eqnet.stages.verify import verify

__all__ = [
    "ElasticStep",
    "__version__",
    "bench",
    "compare",
    "evaluate",
    "explain",
    "export",
    "gate",
    "inspect",
    "load",
    "post_training",
    "profile_device",
    "quantize",
    "report",
    "search",
    "train",
    "verify",
]
# No package of eqnet may have one of these names: importing it would replace the function.
_HOME = {
    "ElasticStep": "eqnet.stages.train.steps.step",
    "bench": "eqnet.stages.bench",
    "compare": "eqnet.stages.compare",
    "evaluate": "eqnet.stages.evaluate.evaluate",
    "explain": "eqnet.stages.explain",
    "export": "eqnet.stages.export.export",
    "gate": "eqnet.stages.gate",
    "inspect": "eqnet.stages.inspect",
    "load": "eqnet.runtime",
    "post_training": "eqnet.stages.train.post_training",
    "profile_device": "eqnet.stages.profile_device",
    "quantize": "eqnet.stages.quantize",
    "report": "eqnet.stages.report",
    "search": "eqnet.stages.search.search",
    "train": "eqnet.stages.train.elastic",
    "verify": "eqnet.stages.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eqnet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
