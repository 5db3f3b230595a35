"""The bundled ResNet-20 at mixed bits: the size of its weights, and every form against PyTorch."""

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from eqnet_exporters.lowbit.checks import qonnx_runner
from eqnet_exporters.lowbit.files import QONNX
from eqnet_exporters.lowbit.integer import integer_program
from eqnet_exporters.lowbit.integer_parts import NotIntegerOnlyError
from eqnet_exporters.lowbit.layers import packed_tensors
from graphs import Builder

from eqnet.backend.discovery import find_exporter
from eqnet.backend.lowbit.integer import PACKED, load_integer
from eqnet.backend.lowbit.packed import content_bits, read_packed, write_packed
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import REFERENCE
from eqnet.spec.scheme import BITS
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.budgets import weight_bytes
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import logits
from eqnet.supernet.session import open_session

IMAGES = 64


class Made(NamedTuple):
    """The exporter's files of a subnet, some images, and PyTorch's logits for them."""

    folder: Path
    spec: SubnetSpec
    weight_bytes: int
    images: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module")
def mixed(bundled_data_only, tmp_path_factory):
    """A subnet whose layers have every width from 2 to 8 bits."""
    session, profile = open_session(None, None), load_profile("custom_lowbit")
    spec = Target.of(session.supernet.info, profile).default(session.identity)
    rng, weights = random.Random(5), dict(spec.weights)
    for index, name in enumerate(list(weights)[1:-1]):
        weights[name] = BITS[index] if index < len(BITS) else rng.choice(BITS)
    spec = spec.model_copy(update={"weights": weights})
    session.settle(spec, session.calibration())
    net = extract(session.supernet, spec)
    folder = tmp_path_factory.mktemp("mixed")
    ir.save(to_onnx(net, session.header.input_shape), folder / REFERENCE)
    find_exporter("lowbit").finish(folder, profile)
    batches = session.batches(session.dataset.parity(), IMAGES)
    images = np.concatenate([batch.numpy() for batch in batches.inputs()])
    size = weight_bytes(session.supernet.info, spec, profile)
    return Made(folder, spec, size, images, logits(net, batches).cpu().numpy())


def test_packed_weights_take_their_bits_and_at_most_3_percent_more(mixed):
    tensors = read_packed(mixed.folder / PACKED)
    found = {name: tensors[f"{name}.weight"].bits for name in mixed.spec.weights}
    assert found == mixed.spec.weights
    assert set(found.values()) == set(BITS)
    pure = content_bits(tensors.values()) / 8
    assert pure <= (mixed.folder / PACKED).stat().st_size <= 1.03 * pure
    # A manifest counts weights and biases; the file has the scales besides.
    scales = sum(4 * t.scale.size for t in tensors.values() if t.scale is not None)
    assert pure == pytest.approx(mixed.weight_bytes + scales, abs=1)


@pytest.mark.parametrize("form", ["integers", "qonnx"])
def test_other_executors_classify_as_pytorch_does(mixed, form):
    if form == "qonnx":
        pytest.importorskip("qonnx")
        run = qonnx_runner(mixed.folder / QONNX)
    else:
        run = load_integer(mixed.folder)
    found, step = run(mixed.images), np.ptp(mixed.logits) / 255
    assert (found.argmax(1) == mixed.logits.argmax(1)).mean() >= 0.98
    assert np.percentile(np.abs(found - mixed.logits), 90) <= 2 * step


def test_a_layer_in_the_remainder_is_packed_as_floats(tmp_path):
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.quantize(b.node("Relu", [b.conv(x, "conv1", 3, 8)], "relu"), "relu", 0.01)
    x = b.conv(x, "conv2", 8, 8, float_weight=True)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.01, signed=True), "fc", 8, 10)
    tensors = packed_tensors(ir.from_proto(b.model()))
    write_packed(tmp_path / PACKED, tensors)
    found = read_packed(tmp_path / PACKED)
    assert found["conv2.weight"].values.dtype == np.float32
    assert found["conv1.weight"].values.dtype == np.int8
    assert content_bits(tensors) > 8 * 8 * 9 * 32
    with pytest.raises(NotIntegerOnlyError, match="'conv2' stays in float"):
        integer_program(ir.from_proto(b.model()))
