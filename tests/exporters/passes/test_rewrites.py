"""What rewrites declare is held, and what they did is told."""

from __future__ import annotations

import json
from collections import Counter

import onnx_ir as ir
import pytest
from eqnet_exporters.passes.rewrite import RANGES, TYPES, apply, changed, left, notes_of, rewrite
from eqnet_exporters.passes.share_quantizers import share_quantizers
from graphs import residual_net

from eqnet.backend.discovery import exporter_names, find_exporter
from eqnet.backend.graph.reading import quantizers
from eqnet.backend.protocol import Explains
from eqnet.cli.main import main
from eqnet.stages.export import parity_set


def model() -> ir.Model:
    return ir.from_proto(residual_net())


def _set(value: ir.Value | None, factor: float) -> None:
    assert value is not None
    assert value.const_value is not None
    array = value.const_value.numpy()
    value.const_value = ir.tensor((array * factor).astype(array.dtype), name=value.name)


@rewrite()
def _doubles_a_scale(graph: ir.Model):
    quantizer = quantizers(graph)[0]
    _set(quantizer.quantize.inputs[1], 2.0)
    yield changed(quantizer.quantize, "twice as coarse")


@rewrite()
def _drops_a_layer(graph: ir.Model):
    node = next(node for node in graph.graph if node.op_type == "Conv")
    node.op_type = "ConvTranspose"
    yield changed(node, "another layer")


@rewrite(RANGES, TYPES)
def _leaves_all(graph: ir.Model):
    for node in graph.graph:
        if node.op_type == "Relu":
            yield left(node, "this rewrite does nothing")


@pytest.mark.parametrize(
    ("broken", "what"), [(_doubles_a_scale, "scales"), (_drops_a_layer, "the layers")]
)
def test_a_rewrite_that_breaks_what_it_declares_is_stopped(broken, what):
    with pytest.raises(ir.passes.PostconditionError, match=what):
        broken(model())


def test_a_rewrite_is_a_pass_of_the_library_with_its_result():
    idle = _leaves_all.call(model())
    assert not idle.modified
    assert {note.changed for note in idle.notes} == {False}
    graph = model()
    first = share_quantizers(graph)
    assert isinstance(first, ir.passes.PassResult)
    assert first.model is graph
    assert not share_quantizers(graph).modified  # it has come to its end


def test_notes_tell_of_every_rewrite_in_order():
    notes = notes_of(model(), [_leaves_all, share_quantizers])
    assert {note.rewrite for note in notes} <= {"_leaves_all", "share_quantizers"}
    assert notes[0].text == "this rewrite does nothing"
    apply(model(), [_leaves_all])


def test_every_exporter_gives_an_account():
    for name in ("onnxruntime", "openvino", "tensorrt", "lowbit"):
        assert name in exporter_names()
        assert isinstance(find_exporter(name), Explains)


def test_export_explains(tmp_path, capsys, monkeypatch, bundled_data_only):
    monkeypatch.setattr(parity_set, "PARITY_BYTES", 0)  # few images, to be quick
    out = tmp_path / "made"
    command = ["export", "-p", "onnxruntime_x86", "--out", str(out), "-q", "--explain", "--no-race"]
    assert main([*command, "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["lowering"]
    counts = Counter(note["rewrite"] for note in notes if note["changed"])
    assert counts["integer_bias"] == 22
    assert counts["fold_activations"] == 19
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "its bias is int32" in told
    assert "what the exporter changed in the graph" in told
