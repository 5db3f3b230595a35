"""The engines that an artifact ships: loading the one that was built for the GPU that is present.

An engine belongs to one compute capability and to the TensorRT that built it; ``build.json``
names both.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from eqnet.backend.protocol import Runner
from eqnet.spec.errors import ArtifactError, EqnetError, one_line
from eqnet.spec.manifest import MODEL
from eqnet.spec.texts import parse_json
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt.cuda import Cuda
from eqnet_exporters.trt.run import TensorRtRunner

BUILD_SUMS = "build.json"
LOG = logging.getLogger(__name__)


def engine_name(target: str) -> str:
    """File name of the engine for a build target, such as ``model.sm89.engine``."""
    if target == "CURRENT":
        return "model.engine"
    return f"model.{target.lower()}.engine"


def load_shipped(trt: Any, cuda: Cuda, model: Path) -> Runner | None:
    """The artifact's own engine for this GPU, or None, with a warning that says why.

    None without a warning where `model` is no artifact's model: its name is another, or no
    ``build.json`` stands beside it. Raises ArtifactError for a ``build.json`` that is damaged.
    """
    sums = model.with_name(BUILD_SUMS)
    if model.name != MODEL or not sums.is_file():
        return None
    builder, capability = trt_build.version(trt), cuda.capability()
    made_by, targets = _read(sums)
    target = "CURRENT" if targets.get(capability) == "CURRENT" else capability
    engine = model.with_name(engine_name(target))
    if made_by != builder:
        reason = f"its engines were built by {made_by}, not {builder}"
    elif capability not in targets or not engine.is_file():
        reason = f"it has no engine for {capability} (engines: {', '.join(sorted(targets))})"
    else:
        try:
            return TensorRtRunner(trt, engine.read_bytes(), cuda)
        except (OSError, EqnetError) as error:
            reason = f"{engine.name}: {error}"
    LOG.warning("%s: building a new engine for this GPU: %s", model.parent, one_line(reason))
    return None


def _read(path: Path) -> tuple[str, dict[str, str]]:
    """Who built the engines, and compute capability -> build target."""
    try:
        content = read_sums(path)
        targets = {}
        for engine in content["engines"]:
            targets[str(engine["capability"])] = str(engine["target"])
        return str(content["builder"]), targets
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a record of engines: {error!r}") from error


def read_sums(path: Path) -> dict[str, Any]:
    """The content of a ``build.json``. Raises ArtifactError for one that is damaged."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a record of engines: {error!r}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a record of engines: {type(content).__name__}")
    return content
