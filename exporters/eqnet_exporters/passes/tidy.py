"""Leave a graph without constants as nodes, identities, dead code or doubtful names."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, rewrite

CONSTANTS = (".scale", ".zero_point", ".lo", ".hi")


@rewrite(RANGES, TYPES)
def tidy(model: ir.Model) -> Notes:
    """Clean up in place; layer names stay as they are."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    _reclaim_names(model)
    common.NameFixPass()(model)
    yield from ()  # nothing that a user asks about


def _reclaim_names(model: ir.Model) -> None:
    """A constant that was made beside one of its name, since removed, takes that name."""
    constants = model.graph.initializers
    for name, value in list(constants.items()):
        plain, _, count = name.rpartition(".")
        if count.isdigit() and plain.endswith(CONSTANTS) and plain not in constants:
            constants.pop(name)
            value.name = plain
            constants[plain] = value
