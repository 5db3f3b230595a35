"""OpenVINO with a look inside: tensors of a model as further results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eqnet.backend.protocol import Array
from eqnet.backend.running import runtime_errors
from eqnet.spec.errors import EqnetError
from eqnet_exporters.ov.run import Setting, absent_device, last_line, openvino, read


class ProbedModel:
    """A compiled model whose first result are the logits. index: tensor -> number of its result."""

    def __init__(self, path: Path, compiled: Any, index: Mapping[str, int]) -> None:
        self._path, self._index = path, index
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Array) -> tuple[Array, dict[str, Array]]:
        """As `eqnet.backend.protocol.Probed`. Raises ArtifactError where the runtime fails."""
        with runtime_errors(self._path):
            results = self._request.infer({0: np.ascontiguousarray(inputs, dtype=np.float32)})
        found = {
            name: np.array(results[number], dtype=np.float32)
            for name, number in self._index.items()
        }
        return np.array(results[0], dtype=np.float32), found


def open_probed(path: Path, tensors: Collection[str], setting: Setting) -> ProbedModel:
    """Compile a model file, ONNX or IR, with `tensors` as further results.

    OpenVINO keeps the names of ONNX's values, in its IR too; a tensor of a name that it does not
    have is left out. Raises as `eqnet_exporters.ov.run.compile_model`.
    """
    ov = openvino()
    core = ov.Core()
    model = read(ov, core, path)
    wanted = _outputs(model, frozenset(tensors))
    index = {}
    for name, output in wanted.items():
        index[name] = len(model.outputs)
        model.add_outputs([output])
    try:
        compiled = core.compile_model(model, setting.device, setting.config())
    except (RuntimeError, ValueError) as error:
        reason = absent_device(setting.device) or f"OpenVINO cannot compile it: {last_line(error)}"
        raise EqnetError(f"{path}: {reason}") from error
    return ProbedModel(path, compiled, index)


def _outputs(model: Any, names: frozenset[str]) -> dict[str, Any]:
    """Name -> the output of the model's node that has it."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Result":
            continue
        for output in node.outputs():
            for name in output.get_names() & names:
                found[name] = output
    return found
