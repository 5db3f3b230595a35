"""A backend that breaks down on a file takes only its own process with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from strangers import constants, float_net, save

from eqnet.backend import discovery
from eqnet.backend.graph.layer_forms import layer_forms
from eqnet.backend.graph.model_file import read_model_file
from eqnet.backend.machine.isolated import Questions, inspect_here
from eqnet.spec.errors import ArtifactError
from eqnet.spec.outside.inspection import BackendFinding, LayerFinding, LayerForm

BROKEN = """
import os, signal, time
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet.spec.errors import MissingExtraError
from eqnet.spec.outside.inspection import BackendFinding, LayerFinding

class Well(OnnxRuntimeExporter):
    name = "well"
    def inspect(self, model, layers):
        found = tuple(LayerFinding(name=layer.name, precision="int8") for layer in layers)
        return BackendFinding(backend="well", verdict="loaded", layers=found)

class Crashes(OnnxRuntimeExporter):
    name = "crashes"
    def inspect(self, model, layers):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hangs(OnnxRuntimeExporter):
    name = "hangs"
    def inspect(self, model, layers):
        time.sleep(600)

class Eats(OnnxRuntimeExporter):
    name = "eats"
    def inspect(self, model, layers):
        held = []
        while True:
            held.append(bytearray(1 << 28))

class Leaves(OnnxRuntimeExporter):
    name = "leaves"
    def inspect(self, model, layers):
        print("no such luck", file=__import__("sys").stderr)
        os._exit(7)

class Raises(OnnxRuntimeExporter):
    name = "raises"
    def inspect(self, model, layers):
        raise ValueError("odd\\nfile \\x1b[31m")

class Lacks(OnnxRuntimeExporter):
    name = "lacks"
    def inspect(self, model, layers):
        raise MissingExtraError("not installed (pip install it)")
"""
CLASSES = ("Well", "Crashes", "Hangs", "Eats", "Leaves", "Raises", "Lacks")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters of an installed package that misbehave."""
    (tmp_path / "broken_backends.py").write_text(BROKEN)
    info = tmp_path / "broken_backends-1.0.dist-info"
    info.mkdir()
    entries = "".join(f"{name.lower()} = broken_backends:{name}\n" for name in CLASSES)
    (info / "entry_points.txt").write_text(f"[eqnet.exporters]\n{entries}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_backends\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)


def ask(
    names: list[str], net: tuple[Path, list[LayerForm]], seconds: float = 300
) -> list[BackendFinding]:
    path, layers = net
    with Questions(path, size=1000, seconds=seconds) as questions:
        questions.ask(names, layers)
        return [questions.finding(name, layers) for name in names]


@pytest.fixture
def net(tmp_path: Path) -> tuple[Path, list[LayerForm]]:
    path = save(float_net(), tmp_path / "net.onnx")
    return path, layer_forms(read_model_file(path).model)


def test_each_answers_for_itself(broken: None, net: tuple[Path, list[LayerForm]]):
    names = ["crashes", "well", "leaves", "raises", "lacks"]
    findings = ask(names, net)
    found = {finding.backend: finding for finding in findings}
    assert list(found) == names
    assert [layer.precision for layer in found["well"].layers] == ["int8"] * 3
    assert (found["crashes"].verdict, "SIGSEGV" in found["crashes"].reason) == ("failed", True)
    assert found["leaves"].verdict == "failed"
    assert "code 7: no such luck" in found["leaves"].reason
    assert found["raises"].verdict == "failed"
    assert found["raises"].reason == "unexpected ValueError: odd file ?[31m"
    assert found["lacks"].verdict == "skipped"


def test_one_that_never_answers_is_ended(broken: None, net: tuple[Path, list[LayerForm]]):
    (finding,) = ask(["hangs"], net, seconds=2)
    assert (finding.verdict, finding.reason) == ("failed", "no answer in time")


def test_memory_is_limited(
    broken: None, net: tuple[Path, list[LayerForm]], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("resource")
    monkeypatch.setattr("eqnet.backend.machine.isolated.BASE_BYTES", 3 << 30)
    (finding,) = ask(["eats"], net)
    assert (finding.verdict, finding.reason) == ("failed", "it ran out of memory")


class Known:
    name = "known_here"

    def inspect(self, model: Path, layers: list[LayerForm]) -> BackendFinding:
        found = tuple(LayerFinding(name=layer.name, precision="float") for layer in layers)
        return BackendFinding(backend=self.name, verdict="loaded", layers=found)


class Refuses(Known):
    def inspect(self, model: Path, layers: list[LayerForm]) -> BackendFinding:
        raise ArtifactError("no such operator")


def test_one_that_this_process_alone_knows_is_asked_here(
    net: tuple[Path, list[LayerForm]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(discovery._registered, "known_here", Known)
    (finding,) = ask(["known_here"], net)
    assert [layer.precision for layer in finding.layers] == ["float"] * 3
    monkeypatch.setitem(discovery._registered, "known_here", Refuses)
    assert inspect_here("known_here", *net).verdict == "refused"


def test_one_that_cannot_tell_is_skipped(net: tuple[Path, list[LayerForm]]):
    finding = inspect_here("lowbit", *net)
    assert finding.verdict == "skipped"
    assert "inspect" in finding.reason


def test_sizes_that_fill_the_memory_give_no_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ONNX's inference makes a shape of as many sizes as the file says."""
    pytest.importorskip("resource")
    monkeypatch.setattr("eqnet.backend.machine.isolated.BASE_BYTES", 1 << 30)
    proto = float_net()
    proto.graph.initializer.extend(constants(huge=np.int64(1 << 40), fill=np.ones(1, np.int64)))
    proto.graph.node.append(helper.make_node("ConstantOfShape", ["more"], ["z"]))
    proto.graph.node.insert(0, helper.make_node("Expand", ["fill", "huge"], ["more"]))
    path = save(proto, tmp_path / "net.onnx")
    with Questions(path, size=1000, seconds=120) as questions:
        questions.ask_shapes(["c1", "y"])
        assert set(questions.shapes()) <= {"c1", "y"}
