"""The runtimes' own profilers: every layer is found, under its name, in either precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from latency_tools import small_subject

from eqnet.backend.discovery import find_exporter
from eqnet.backend.protocol import REST, TimesLayers
from eqnet.latency.draw import floating, quantized
from eqnet.latency.whole_graph import cut


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("end", [quantized, floating])
def test_every_layer_has_a_time(tmp_path, backend, end):
    subject = small_subject(backend=backend)
    exporter = find_exporter(backend)
    if (reason := exporter.unavailable()) is not None:
        pytest.skip(reason)
    assert isinstance(exporter, TimesLayers)
    path = tmp_path / "model.onnx"
    graph = cut(subject.whole, subject.info, end(subject.target))
    ir.save(exporter.lower(graph, subject.profile), path)
    inputs = np.zeros((64, *subject.info.input_shape), np.float32)
    names = subject.info.layer_names()
    found = exporter.layer_times(path, inputs, names, profile=subject.profile, threads=1, runs=3)
    assert {*found} == {*names, REST}
    # A clock of whole microseconds may show none of the classifier, with 70 multiplications.
    assert [name for name in names if found[name] <= 0] in ([], ["head"])
    assert found[REST] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]
