"""Exporters that break one promise each: the contract suite says which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter

from eqnet.backend.graph.reading import layers_of, quantizers
from eqnet.spec.manifest import MODEL
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet.testing import ExporterContract, checks
from eqnet.testing.nets.cases import Case
from eqnet.testing.subnets import subnet_of

EVERYWHERE = {"add": "both", "carriers": ["pool"]}
CASE = Case(
    "no_bias",
    Granularity.PER_CHANNEL,
    Symmetry.SYMMETRIC,
    Symmetry.ASYMMETRIC,
    "uint8",
    "free",
    (8, 8),
)


class Broken(OnnxRuntimeExporter):
    """Lowers as its base does, and then breaks something."""

    def __init__(self, harm):
        self.harm = harm

    def lower(self, reference, profile):
        model = super().lower(reference, profile)
        return self.harm(model, reference) or model


def other_scale(model, reference):
    quantizer = quantizers(model)[1]
    for node in (quantizer.quantize, quantizer.dequantize):
        array = np.float32(quantizer.scale * 1.02)
        value = ir.Value(name=f"{node.name}.moved", const_value=ir.tensor(array))
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)


def other_weight(model, reference):
    value = next(v for v in model.graph.initializers.values() if v.name.endswith("conv.weight"))
    array = value.const_value.numpy().copy()
    array.flat[0] = array.flat[0] // 2 + 9
    value.const_value = ir.tensor(array)


def no_names(model, reference):
    for node in model.graph:
        if node.name in layers_of(model):
            node.name = f"{node.name}_renamed"


def fixed_batch(model, reference):
    model.graph.inputs[0].shape = ir.Shape([1, 3, 12, 12])


def other_opset(model, reference):
    model.opset_imports[""] = 20


def changes_its_input(model, reference):
    reference.graph[0].name = "touched"


class Counter:
    calls = 0

    def __call__(self, model, reference):
        Counter.calls += 1
        model.graph[0].name = f"call_{Counter.calls}"


@pytest.mark.parametrize(
    ("harm", "check", "said"),
    [
        (other_scale, "lowered", "scale"),
        (other_weight, "lowered", "integers differ"),
        (no_names, "well_formed", "lost their names"),
        (fixed_batch, "well_formed", "batch is fixed"),
        (other_opset, "well_formed", "opset"),
        (changes_its_input, "repeatable", "changed the graph"),
        (Counter(), "repeatable", "another graph"),
    ],
)
def test_a_broken_lowering_fails_its_check(harm, check, said, tmp_path):
    exporter = Broken(harm)
    profile = CASE.profile(exporter, EVERYWHERE)
    shared = subnet_of("no_bias", profile)
    reference = ir.from_proto(ir.to_proto(shared.reference))  # harm must not reach other tests
    subnet = replace(shared, reference=reference)
    assert subnet.reference_bytes
    made = checks.Made(CASE, profile, subnet, exporter.lower(reference, profile), tmp_path)
    arguments = (exporter, made) if check == "repeatable" else (made,)
    with pytest.raises(AssertionError, match=said):
        getattr(checks, check)(*arguments)


class Untidy(OnnxRuntimeExporter):
    """Writes one file that it does not name, and names one that it does not write."""

    def __init__(self, files, named):
        self.files, self.named = files, named

    def finish(self, folder, profile):
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return list(self.named)


@pytest.mark.parametrize(
    ("files", "named", "fails"),
    [
        ({"a.bin": b"1"}, ["a.bin"], False),
        ({"a.bin": b"1", ".a.tmp": b"2"}, ["a.bin"], True),
        ({}, ["a.bin"], True),
        ({"a.bin": b""}, ["a.bin"], True),
        ({MODEL: b"other"}, [], True),
    ],
)
def test_files_are_those_that_finish_names(files, named, fails, tmp_path):
    class Suite(ExporterContract):
        exporter = Untidy(files, named)

    (tmp_path / MODEL).write_bytes(b"model")
    profile = CASE.profile(Suite.exporter, EVERYWHERE)
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    made = checks.Made(CASE, profile, subnet_of("no_bias", profile), model, tmp_path)
    if not fails:
        Suite().check_files(made)
        return
    with pytest.raises(AssertionError, match=r"finish\(\)"):
        Suite().check_files(made)


def test_an_exporter_that_refuses_what_it_declares_or_accepts_more_fails():
    class Wide(OnnxRuntimeExporter):
        capabilities = replace(OnnxRuntimeExporter.capabilities, remainders=frozenset({"float32"}))

        def refusals(self, profile):
            return []

    class Narrow(OnnxRuntimeExporter):
        def refusals(self, profile):
            return ["weights.symmetry: asymmetric (allowed: symmetric)"]

    class Generous(ExporterContract):
        exporter = Wide()

    class Strict(ExporterContract):
        exporter = Narrow()

    profile = CASE.profile(Wide(), EVERYWHERE)
    with pytest.raises(ValueError, match="not enough values"):
        Generous().test_what_is_not_declared_is_refused(profile, ("remainder", "float16"))
    with pytest.raises(AssertionError):
        Strict().test_every_declared_form_is_accepted()
