"""7-bit weights for CPUs that add two products in 16 bits: nothing saturates, nothing changes."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from artifacts import profile
from eqnet_exporters.ort import session as ort
from nets import images, small_supernet, style
from onnx import numpy_helper
from pydantic import ValidationError

from eqnet.backend.discovery import find_exporter
from eqnet.backend.machine.isa import Cpu
from eqnet.qdq.to_onnx import to_onnx
from eqnet.quant.static import IntegerWeight, StaticConv2d, StaticLinear
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.scheme import Form, Granularity, Symmetry, all_forms
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import build_spec, uniform
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet

INT16 = np.iinfo(np.int16)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return small_supernet()


def narrow(net: Supernet, form: Form, bits: int) -> SubnetSpec:
    """A subnet with at most `bits` bits of weights everywhere, in 7 bits of storage."""
    spec = uniform(net.info, style(), form, bits, 8)
    weights = {name: min(int(one), 7) for name, one in spec.weights.items()}
    return SubnetSpec.model_validate({**dict(spec), "weights": weights, "weight_storage_bits": 7})


def weights_of(graph: torch.nn.Module) -> dict[str, IntegerWeight]:
    kinds = (StaticConv2d, StaticLinear)
    return {name: one.weight for name, one in graph.named_modules() if isinstance(one, kinds)}


def saturating_pairs(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of neighbouring products, uint8 x int8 in int16, as AVX2's VPMADDUBSW adds them."""
    products = activations.astype(np.int32) * weights.astype(np.int32)
    return np.clip(products[..., 0::2] + products[..., 1::2], INT16.min, INT16.max)


def exact_pairs(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    products = activations.astype(np.int32) * weights.astype(np.int32)
    return products[..., 0::2] + products[..., 1::2]


def test_no_pair_of_a_reduced_range_saturates():
    """Every pair of weights, with the activations that make the sums greatest and least."""
    values = np.arange(-64, 65)
    pairs = np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2)
    for activation in ((255, 255), (0, 255), (255, 0)):
        x = np.broadcast_to(np.array(activation, np.uint8), pairs.shape)
        assert np.array_equal(saturating_pairs(x, pairs), exact_pairs(x, pairs))
    full = np.array([[127, 127]])
    assert saturating_pairs(np.full((1, 2), 255, np.uint8), full) != 2 * 255 * 127


@pytest.mark.parametrize("form", list(all_forms()), ids=Form.label)
@pytest.mark.parametrize("bits", [2, 7])
def test_stored_weights_use_7_bits(net, form, bits):
    spec = narrow(net, form, bits)
    net.apply(spec)
    stored = weights_of(extract(net, spec))
    x = np.random.default_rng(0).choice(np.array([0, 254, 255], np.uint8), 4096)
    for name, weight in stored.items():
        integers = weight.integers.int().numpy().reshape(-1)
        assert np.abs(integers).max() <= 64, name
        shift = 7 - int(spec.weights[name])
        assert not (integers & ((1 << shift) - 1)).any(), name
        count = min(len(integers), len(x)) // 2 * 2
        assert np.array_equal(
            saturating_pairs(x[:count], integers[:count]), exact_pairs(x[:count], integers[:count])
        ), name
    assert max(int(np.abs(w.integers.int().numpy()).max()) for w in stored.values()) > 32


@pytest.mark.parametrize("bits", [2, 7])
def test_real_weights_are_those_of_8_bits_of_storage(net, bits):
    form = Form(weight_granularity=Granularity.PER_TENSOR, weight_symmetry=Symmetry.ASYMMETRIC)
    spec = narrow(net, form, bits)
    wide = spec.model_copy(update={"weight_storage_bits": 8})
    half, whole = extract(net, spec), extract(net, wide)
    ours, theirs = weights_of(half), weights_of(whole)
    for name, weight in ours.items():
        assert torch.equal(weight(), theirs[name]()), name
        assert torch.equal(weight.scale, 2 * theirs[name].scale), name
    batch = images(32)
    with torch.no_grad():
        difference = (half(batch) - whole(batch)).abs().mean()
    assert difference <= 2e-2 * (whole(batch).max() - whole(batch).min())


def test_a_wider_weight_does_not_fit(net):
    spec = uniform(net.info, style(), Form(), 4, 8)
    with pytest.raises(ValidationError, match=r"weights\.stem: 8 bits \(allowed: 2 to 7"):
        SubnetSpec.model_validate({**dict(spec), "weight_storage_bits": 7})


def target_of(*, reduced: bool) -> HardwareProfile:
    weights = {"granularity": "per_channel", "symmetry": "symmetric", "reduce_range": reduced}
    return profile(weights=weights, bits=[[7 if reduced else 8, 8]], isa="avx2")


def lowered(net: Supernet, target: HardwareProfile, path: Path) -> Path:
    """The subnet that a profile asks for, as ONNX Runtime gets it."""
    width = target.bits[0][0]
    weights = {layer.name: width for layer in net.info.layers}
    bits = {tensor.name: 8 for tensor in net.info.read_tensors()}
    spec = build_spec(net.info, style(), target.form(), weights, bits, profile=target)
    assert spec.weight_storage_bits == target.weights.storage_bits
    reference = to_onnx(extract(net, spec), net.info.input_shape)
    ir.save(find_exporter("onnxruntime").lower(reference, target), path)
    return path


def weight_types(path: Path) -> set[np.dtype]:
    """Types of the weights of the integer convolutions in ONNX Runtime's optimized graph."""
    graph = onnx.load(path).graph
    stored = {one.name: numpy_helper.to_array(one).dtype for one in graph.initializer}
    return {stored[node.input[3]] for node in graph.node if node.op_type == "QLinearConv"}


@pytest.mark.skipif(platform.machine() not in ort.X86, reason="of x86 kernels")
@pytest.mark.parametrize(("reduced", "kept"), [(True, np.int8), (False, np.uint8)])
def test_onnxruntime_leaves_a_reduced_range_alone(net, tmp_path, monkeypatch, reduced, kept):
    """Without VNNI it is told to prefer exactness, for which it stores full-range weights as
    uint8 and multiplies more slowly; 7-bit weights are exact in its fast kernels."""
    monkeypatch.setattr(ort, "this_cpu", lambda: Cpu(frozenset({"avx2"})))
    path = lowered(net, target_of(reduced=reduced), tmp_path / "model.onnx")
    ort.open_model(path, optimize=True, threads=1, save_optimized=tmp_path / "optimized.onnx")
    assert weight_types(tmp_path / "optimized.onnx") == {np.dtype(kept)}


def test_onnxruntime_computes_what_was_extracted(net, tmp_path):
    target = target_of(reduced=True)
    path = lowered(net, target, tmp_path / "model.onnx")
    weights = {layer.name: 7 for layer in net.info.layers}
    bits = {tensor.name: 8 for tensor in net.info.read_tensors()}
    spec = build_spec(net.info, style(), target.form(), weights, bits, profile=target)
    batch = images(32)
    with torch.no_grad():
        expected = extract(net, spec)(batch).numpy()
    step = np.ptp(expected) / 255
    for optimize in (False, True):
        found = find_exporter("onnxruntime").open(path, optimize=optimize, threads=1)(batch.numpy())
        assert np.abs(found - expected).mean() <= 0.25 * step
