"""What must hold of one lowered graph and of one run of it; each raises AssertionError."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from eqnet.backend.decisions import decide, margins
from eqnet.backend.graph.operators import NEUTRAL_OPSET
from eqnet.backend.graph.reading import layers_of
from eqnet.backend.protocol import Array, Exporter
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.testing.nets.cases import Case
from eqnet.testing.oracle import TOUCHED, compare_integers, different, prone, run_oracle
from eqnet.testing.subnets import SampleSubnet

# One integer that a tie moves may move a logit by this many steps of an 8-bit grid over the
# logits' range; a step of b bits is 255 / (2^b - 1) of them.
TIE_STEPS = 8.0


@dataclass(frozen=True)
class Made:
    """A case as an exporter lowered it. folder: holds model.onnx and what `finish` wrote."""

    case: Case
    profile: HardwareProfile
    subnet: SampleSubnet
    lowered: ir.Model
    folder: Path


def reference(subnet: SampleSubnet) -> None:
    """reference.onnx computes PyTorch's integers, as ONNX's reference evaluator sees it."""
    computed = run_oracle(subnet.reference, subnet.images)
    names = [point.name for point in subnet.trace.points]
    assert sorted(computed.points) == sorted(names), "reference.onnx has other quantizers"
    _same_integers(subnet, subnet.reference, "reference.onnx")


def lowered(lowering: Made) -> None:
    """model.onnx still means those integers: each that kept its name, and the logits."""
    _same_integers(lowering.subnet, lowering.lowered, "the lowered graph")


def _same_integers(subnet: SampleSubnet, model: ir.Model, what: str) -> None:
    computed = run_oracle(model, subnet.images)
    result = compare_integers(subnet.trace, computed.points)
    assert not result.wrong, f"{what}: " + "; ".join(result.wrong)
    touched = int(result.touched.sum())
    assert touched <= TOUCHED, f"{what}: ties in {touched} images (allowed: {TOUCHED})"
    off = different(computed.logits, subnet.trace.logits) & ~result.touched
    assert not off.any(), (
        f"{what}: equal integers, but other logits: {_worst(computed.logits, subnet)}"
    )


def _worst(logits: Array, subnet: SampleSubnet) -> str:
    error = np.abs(logits - subnet.trace.logits).max()
    return f"{error:.3g} of a range of {np.ptp(subnet.trace.logits):.3g}"


def executed(
    logits: Array, subnet: SampleSubnet, bits: int, what: str, touched: int = TOUCHED
) -> None:
    """A runtime's logits, of the first images of a subnet, are PyTorch's but for rounding ties.

    bits: the narrowest activations of the net. touched: most images that a tie may touch.
    """
    expected = subnet.trace.logits[: len(logits)]
    assert logits.dtype == np.float32, f"{what}: logits are {logits.dtype} (allowed: float32)"
    assert logits.shape == expected.shape, f"{what}: {logits.shape} (allowed: {expected.shape})"
    assert np.isfinite(logits).all(), f"{what}: logits are not finite"
    off = different(logits, expected)
    error = np.abs(logits - expected).max(axis=1)
    step = float(np.ptp(subnet.trace.logits)) / 255
    silent = np.flatnonzero(off & ~prone(subnet.trace)[: len(logits)])
    assert not len(silent), (
        f"{what}: image {silent[0]} is off by {error[silent[0]] / step:.3g} steps of the logits, "
        "and none of its values lies near the middle between two integers"
    )
    assert off.sum() <= touched, f"{what}: {off.sum()} images are off (allowed: {touched})"
    limit = TIE_STEPS * 255 / (2**bits - 1)
    assert error.max() <= limit * step, (
        f"{what}: off by {error.max() / step:.3g} steps of the logits (allowed: {limit:.3g})"
    )
    _same_classes(logits, expected, 2 * limit * step, what)


def _same_classes(logits: Array, expected: Array, margin: float, what: str) -> None:
    """Images whose decision is clearer than a tie can move the logits keep their class."""
    changed = (margins(expected) > margin) & (decide(logits) != decide(expected))
    assert not changed.any(), f"{what}: images {np.flatnonzero(changed)} are of another class"


def well_formed(lowering: Made) -> None:
    """model.onnx is valid ONNX of opset 21 with the neutral graph's input, output and layers."""
    before, after = lowering.subnet.reference, lowering.lowered
    assert after.opset_imports.get("", 0) == NEUTRAL_OPSET, f"opset {after.opset_imports}"
    (source,), (target,) = after.graph.inputs, after.graph.outputs
    assert (source.name, target.name) == ("input", "logits")
    assert source.dtype == target.dtype == ir.DataType.FLOAT
    assert source.shape is not None
    batch, *image = source.shape
    assert isinstance(batch, ir.SymbolicDim), f"the batch is fixed to {batch}"
    assert image == list(lowering.subnet.images.shape[1:])
    lost = set(layers_of(before)) - set(layers_of(after))
    assert not lost, f"layers lost their names: {sorted(lost)}"
    onnx.checker.check_model(ir.to_proto(after), full_check=True)


def repeatable(exporter: Exporter, lowering: Made) -> None:
    """`lower` leaves its input as it is, and gives the same bytes again."""
    reference, source = lowering.subnet.reference, lowering.subnet.reference_bytes
    again = exporter.lower(reference, lowering.profile)
    assert _bytes(reference) == source, "lower() changed the graph it was given"
    assert _bytes(again) == _bytes(lowering.lowered), "lower() gave another graph the second time"


def _bytes(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path relative to it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[str(path.relative_to(folder))] = path.read_bytes()
    return files
