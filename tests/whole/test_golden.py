"""Exported graphs against their golden text, and what holds for all of them in a viewer."""

from __future__ import annotations

import difflib
import re
from functools import cache

import onnx
import onnx_ir as ir
import pytest
from golden_graphs import GOLDEN, cases, graphs, text_of

DIFF_LINES = 60
MACHINE_MADE = re.compile(r"(^|[/_.])(val|node)_\w*\d|/")


@cache
def made(net: str, profile: str) -> dict[str, ir.Model]:
    return graphs(net, profile)


@pytest.mark.parametrize(("net", "profile"), cases())
def test_graphs_are_the_golden_ones(net, profile):
    for name, model in made(net, profile).items():
        path, found = GOLDEN / name, text_of(model)
        golden = path.read_text(encoding="utf-8") if path.is_file() else ""
        diff = difflib.unified_diff(
            golden.splitlines(), found.splitlines(), f"golden/{name}", "exported now", lineterm=""
        )
        told = "\n".join(list(diff)[:DIFF_LINES])
        assert golden == found, f"`make golden` if this is meant:\n{told}"


def test_there_is_no_golden_text_without_a_graph():
    names = {name for net, profile in cases() for name in made(net, profile)}
    assert {path.name for path in GOLDEN.glob("*.txt")} == names


@pytest.mark.parametrize(("net", "profile"), cases())
def test_a_viewer_shows_names_types_and_no_leftovers(net, profile):
    for name, model in made(net, profile).items():
        proto = ir.to_proto(model)
        graph = proto.graph
        read = {value for node in graph.node for value in node.input}
        values = [value for node in graph.node for value in node.output]
        assert {item.name for item in graph.initializer} <= read, f"{name}: unused constants"
        assert set(values) <= read | {"logits"}, f"{name}: unused values"
        assert not {"Identity", "Constant"} & {node.op_type for node in graph.node}
        nodes = [node.name for node in graph.node]
        assert len(set(nodes)) == len(nodes)
        every = [*nodes, *values, *(item.name for item in graph.initializer)]
        assert [text for text in every if not text or MACHINE_MADE.search(text)] == [], name
        assert not proto.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in graph.node)
        assert (proto.producer_name, graph.input[0].name) == ("eqnet", "input")
        assert graph.input[0].doc_string
        assert graph.output[0].doc_string
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
