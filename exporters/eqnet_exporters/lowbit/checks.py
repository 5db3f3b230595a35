"""What ``eqnet verify`` checks of a low-bit artifact's own files, beside the QCDQ graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from eqnet.backend.artifact import Parity, read_manifest
from eqnet.backend.graph.reading import constant, dequantized, load_graph
from eqnet.backend.judge import clear_agreement
from eqnet.backend.lowbit.integer import INTEGER, PACKED, load_integer
from eqnet.backend.lowbit.packed import read_packed, real_values
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array
from eqnet.spec.errors import ArtifactError, MissingExtraError, one_line
from eqnet.spec.manifest import Manifest
from eqnet.spec.reports import Check, Verdict
from eqnet_exporters.lowbit.files import PACKED_ONNX, QONNX, read_reference, refusal_of
from eqnet_exporters.lowbit.layers import Layer, layers
from eqnet_exporters.passes._read import producer_of

INTEGER_AGREEMENT = 0.99
MIN_IMAGES = 16
# The two executors are references, some hundred times slower than a runtime: a few seconds each.
MULTIPLY_ADDS = 2_000_000_000


def file_checks(folder: Path, parity: Parity) -> list[Check]:
    """Packed weights equal to the neutral graph's; QONNX and integer program against PyTorch.

    Both run on as many of the stored images as 2 billion multiply-adds allow, at least 16. An
    artifact without one of the files gets a skipped check that says why.
    """
    manifest, reference = read_manifest(folder), read_reference(folder)
    count = _images(reference, len(parity.pixels))
    inputs = preprocess(parity.pixels[:count], manifest.preprocessing)
    truth = parity.logits[:count]

    def agreement(name: str, run: Callable[[Array], Array], limit: float) -> Check:
        if count < MIN_IMAGES:
            return _skipped(name, f"{count} images (needed: at least {MIN_IMAGES})")
        share = clear_agreement(run(inputs), truth, manifest.parity.logit_step)
        return _agreement(name, share, count, limit)

    checks = [_packed(folder, manifest, reference), _packed_onnx(folder, manifest, reference)]
    if QONNX not in manifest.files:
        checks.append(_absent("qonnx_agreement", QONNX))
    else:
        limit = manifest.profile.parity.semantics_agreement
        try:
            checks.append(agreement("qonnx_agreement", qonnx_runner(folder / QONNX), limit))
        except MissingExtraError as error:
            checks.append(_skipped("qonnx_agreement", str(error)))
    if INTEGER in manifest.files:
        run = load_integer(folder)
        checks.append(agreement("integer_agreement", run, INTEGER_AGREEMENT))
    elif reason := refusal_of(reference):
        checks.append(_skipped("integer_agreement", f"no {INTEGER}: {reason}"))
    else:
        checks.append(_absent("integer_agreement", INTEGER))
    return checks


def _images(reference: ir.Model, available: int) -> int:
    work = multiply_adds(reference)
    return min(available, max(MIN_IMAGES, MULTIPLY_ADDS // max(work, 1)))


def multiply_adds(reference: ir.Model) -> int:
    """Multiply-adds of all layers for one image."""
    model = ShapeInferencePass()(reference.clone()).model
    return sum(_work(layer) for layer in layers(model))


def _work(layer: Layer) -> int:
    weight = layer.float_weight if layer.weight is None else layer.weight.integers
    if weight is None:
        return 0
    shape = layer.node.outputs[0].shape or ()
    positions = math.prod(size for size in shape[2:] if isinstance(size, int))
    return weight.size * positions


def _packed(folder: Path, manifest: Manifest, reference: ir.Model) -> Check:
    """Whether every weight and bias of the packed file is the neutral graph's, bit by bit."""
    if PACKED not in manifest.files:
        return _absent("packed_weights", PACKED)
    tensors = read_packed(folder / PACKED)
    equal = total = 0
    for layer in layers(reference):
        for name, wanted in (("weight", real_weight(layer.node)), ("bias", layer.bias)):
            if wanted is None:
                continue
            key, total = f"{layer.name}.{name}", total + 1
            equal += key in tensors and np.array_equal(real_values(tensors, key), wanted)
    return _all("packed_weights", equal, total)


def _packed_onnx(folder: Path, manifest: Manifest, reference: ir.Model) -> Check:
    """Whether the weights in ONNX's narrow types have the neutral graph's real values."""
    if PACKED_ONNX not in manifest.files:
        return _absent("packed_onnx", PACKED_ONNX)
    packed = {node.name: node for node in load_graph(folder / PACKED_ONNX).graph}
    equal = total = 0
    for layer in layers(reference):
        node = packed.get(layer.node.name)
        total += 1
        equal += node is not None and _same_weight(node, layer.node)
    return _all("packed_onnx", equal, total)


def _same_weight(a: ir.Node, b: ir.Node) -> bool:
    first, second = real_weight(a), real_weight(b)
    return first is not None and second is not None and np.array_equal(first, second)


def real_weight(node: ir.Node) -> Array | None:
    """The real values of a layer's weight, quantized or not, float32."""
    value = node.inputs[1]
    producer = producer_of(value)
    weight = constant(value) if producer is None else dequantized(producer)
    if weight is None:
        return None
    return weight.astype(np.float32)


def qonnx_runner(path: Path) -> Callable[[Array], Array]:
    """Runs a QONNX file with the ``qonnx`` package, all images as one batch.

    Raises MissingExtraError without that package, ArtifactError if it cannot run the file.
    """
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes
    except ImportError as error:
        raise MissingExtraError(
            "the package 'qonnx' is not installed (install it: pip install 'eqnet[qonnx]')"
        ) from error

    def run(inputs: Array) -> Array:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = ModelWrapper(str(path))
                source, output = model.graph.input[0].name, model.graph.output[0].name
                model.set_tensor_shape(source, list(inputs.shape))
                classes = model.get_tensor_shape(output)[-1]
                model.set_tensor_shape(output, [len(inputs), classes])
                logits = execute_onnx(model.transform(InferShapes()), {source: inputs})[output]
        except Exception as error:  # qonnx raises plain Exception
            raise ArtifactError(f"{path}: qonnx cannot run it: {one_line(error)}") from error
        return np.asarray(logits, dtype=np.float32)

    return run


def _agreement(name: str, share: float, images: int, limit: float) -> Check:
    """Top-1 agreement; one image may always differ, the finest step that the images can show."""
    least = min(limit, 1.0 - 1.0 / images)
    problem = f"{share:.4g} share (demanded: >= {least:.4g})"
    return _check(name, share >= least, share, least, "share", problem)


def _all(name: str, equal: int, total: int) -> Check:
    problem = f"{total - equal} of {total} tensors differ"
    return _check(name, equal == total, float(equal), float(total), "tensors", problem)


def _check(name: str, good: bool, value: float, limit: float, unit: str, problem: str) -> Check:
    """problem: what to say where it is not good."""
    verdict: Verdict = "passed"
    reason = ""
    if not good:
        verdict, reason = "failed", problem
    return Check(name=name, verdict=verdict, value=value, limit=limit, unit=unit, reason=reason)


def _skipped(name: str, reason: str) -> Check:
    return Check(name=name, verdict="skipped", reason=reason)


def _absent(name: str, file: str) -> Check:
    return _skipped(name, f"no {file} in this artifact")
