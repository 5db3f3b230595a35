"""Leave a graph without constants as nodes, identities, dead code or doubtful names."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def tidy(model: ir.Model) -> None:
    """Clean up in place; layer names stay as they are."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    common.NameFixPass()(model)
