"""Means, sums, maxima and minima between quantizers: OpenVINO against the graph's own meaning.

A generated family: every set of axes of [N, C, H, W] and of tokens [N, T, C], with and without
keepdims, of signed and of non-negative tensors, with a quantizer in front, behind, or both. No
layer multiplies integers, so that nothing but the reduction can differ, on any instruction set.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.ov.reduce_in_float import reduce_in_float
from graphs import Builder, inputs

from eqnet.spec.hardware.load import load_profile

CHANNELS, SIDE = 16, 8
SHAPES = {"image": (CHANNELS, SIDE, SIDE), "tokens": (SIDE * SIDE, CHANNELS)}
OPS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
PLACES = (("front",), ("behind",), ("front", "behind"))
# A tie may fall to the other side where a sum's order differs; all else is equal.
TIES = 0.01


@dataclass(frozen=True)
class Form:
    """One reduction. places: where quantizers stand."""

    op: str
    layout: str
    axes: tuple[int, ...]
    keepdims: bool
    signed: bool
    places: tuple[str, ...]

    @property
    def shape(self) -> list[int]:
        """Of one image's result."""
        sizes = enumerate(SHAPES[self.layout], start=1)
        kept = [1 if axis in self.axes else size for axis, size in sizes]
        left = [size for axis, size in enumerate(kept, start=1) if axis not in self.axes]
        return kept if self.keepdims else left

    def scale(self) -> float:
        """A step of the result's grid: the input's, less or more by what the reduction does.

        No simple multiple of it, or averages of few steps would lie halfway between two.
        """
        terms = np.prod([SHAPES[self.layout][axis - 1] for axis in self.axes])
        total = terms**0.5 if self.signed else 0.8 * terms
        return 0.0511 * {"ReduceMean": 0.8, "ReduceSum": total}.get(self.op, 1.0)

    def graph(self) -> onnx.ModelProto:
        """A float convolution, the reduction between its quantizers, its values as the logits."""
        b = Builder(np.random.default_rng(0))
        zero = 117 if self.signed else 0
        x = b.conv("input", "conv", 3, CHANNELS, float_weight=True)
        if not self.signed:
            raised = b.node("Add", [x, b.constant("eight", np.float32(8))], "raised")
            x = b.node("Relu", [raised], "relu")
        if self.layout == "tokens":
            shape = b.constant("shape", np.array([0, CHANNELS, SIDE * SIDE]))
            x = b.node(
                "Transpose", [b.node("Reshape", [x, shape], "flat")], "turned", perm=[0, 2, 1]
            )
        x = b.quantize(x, "front", 0.05, zp=zero) if "front" in self.places else x
        axes = b.constant("axes", np.array(self.axes))
        x = b.node(self.op, [x, axes], "reduced", keepdims=int(self.keepdims))
        x = b.quantize(x, "behind", self.scale(), zp=zero) if "behind" in self.places else x
        size = int(np.prod(self.shape))
        b.node("Reshape", [x, b.constant("row", np.array([-1, size]))], "logits")
        return b.model(classes=size)


def forms(op: str, layout: str) -> list[Form]:
    """Every set of axes and every place of quantizers; keepdims and signs take turns."""
    axes = range(1, len(SHAPES[layout]) + 1)
    subsets = [s for count in axes for s in itertools.combinations(axes, count)]
    turns = itertools.cycle(itertools.product((False, True), (True, False)))
    return [
        Form(op, layout, subset, *next(turns), places)
        for subset in subsets
        for places in PLACES
        for _ in range(2)
    ]


def off(form: Form, folder, *, optimize: bool) -> float:
    """Share of the result's values that differ by more than half a step of its grid."""
    exporter, profile = OpenVinoExporter(), load_profile("openvino_asym")
    model, x = form.graph(), inputs(5)
    ir.save(exporter.lower(ir.from_proto(model), profile), folder / "model.onnx")
    found = exporter.open(folder / "model.onnx", optimize=optimize, threads=1)(x)
    expected = run_plain(model, x)
    assert np.ptp(expected) > form.scale()
    return float((np.abs(found - expected) > form.scale() / 2).mean())


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("optimize", [True, False], ids=["deployed", "semantics"])
def test_every_reduction_gives_the_graphs_own_integers(op, layout, optimize, tmp_path):
    pytest.importorskip("openvino")
    shares = {form: off(form, tmp_path, optimize=optimize) for form in forms(op, layout)}
    wrong = {form: share for form, share in shares.items() if share > TIES}
    assert not wrong, f"{len(wrong)} of {len(shares)}: {wrong}"


@pytest.mark.parametrize("op", OPS)
def test_the_pass_changes_no_integer(op):
    for form in forms(op, "image") + forms(op, "tokens"):
        before = form.graph()
        model = ir.from_proto(before)
        reduce_in_float(model)
        after = ir.to_proto(model)
        onnx.checker.check_model(after, full_check=True)
        x = inputs(3)
        assert np.array_equal(run_plain(after, x), run_plain(before, x)), form


def test_the_mean_over_the_image_keeps_its_kernel():
    """It ends most networks, and OpenVINO computes it right and on integers."""
    for keepdims in (False, True):
        form = Form("ReduceMean", "image", (2, 3), keepdims, True, ("front", "behind"))
        model = ir.from_proto(onnx.shape_inference.infer_shapes(form.graph()))
        reduce_in_float(model)
        assert "Max" not in [node.op_type for node in model.graph]
