"""ONNX Runtime with a look inside: tensors of the graph as further outputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from eqnet.backend.graph.reading import reading_errors
from eqnet.backend.protocol import Array
from eqnet.backend.running import runtime_errors
from eqnet_exporters.ort.session import options_of


@dataclass(frozen=True)
class ProbedSession:
    """A session whose first output are the logits and whose others are `tensors`."""

    path: Path
    session: Any
    tensors: tuple[str, ...]

    def __call__(self, inputs: Array) -> tuple[Array, dict[str, Array]]:
        """As `eqnet.backend.protocol.Probed`. Raises ArtifactError where the runtime fails."""
        source = self.session.get_inputs()[0].name
        with runtime_errors(self.path):
            logits, *values = self.session.run(None, {source: inputs})
        arrays = (value.astype(np.float32, copy=False) for value in values)
        return logits, dict(zip(self.tensors, arrays, strict=True))


def open_probed(
    path: Path, tensors: Collection[str], *, optimize: bool, threads: int | None
) -> ProbedSession:
    """Load an ONNX file with `tensors` as further outputs, as far as its nodes compute them.

    A quantizer's output is copied for its readers by the runtime itself, so that what it fuses
    is as it is without them. Raises ArtifactError.
    """
    import onnxruntime as ort

    options = options_of(path, optimize=optimize, threads=threads)
    with reading_errors(path):
        model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output}
    shown = {value.name for value in model.graph.output}
    names = tuple(dict.fromkeys(name for name in tensors if name in made - shown))
    for name in names:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    with runtime_errors(path):
        content = model.SerializeToString()
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return ProbedSession(path, session, names)
