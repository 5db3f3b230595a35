"""What of a subnet decides its latency, by hand."""

from __future__ import annotations

import pytest
from latency_tools import small_subject

from eqnet.latency.draw import floating, quantized
from eqnet.latency.origins import origins
from eqnet.spec.latency.features import features


@pytest.fixture(scope="module")
def subject():
    return small_subject()


@pytest.fixture(scope="module")
def found(subject):
    made = origins(subject.whole, subject.info)
    return lambda spec: features(subject.info, made, spec)


def reads(subject, layer):
    return subject.info.layer(layer).input


def test_the_image_alone_is_quantized_in_a_whole_quantized_net(subject, found):
    assert found(quantized(subject.target)) >= {f"quantized: {reads(subject, 'stem')}"}
    assert not [n for n in found(quantized(subject.target)) if n.startswith(("layer", "read in"))]


def test_a_layer_in_float_has_passes_at_both_ends(subject, found):
    pairs = dict.fromkeys(subject.target.free_layers(), (8, 8))
    spec = subject.target.subnet(pairs, float_layers=["conv1"])
    more = found(spec) - found(quantized(subject.target))
    read, made = reads(subject, "conv1"), reads(subject, "depthwise")
    assert more == {"layer: conv1", f"read in float: {read}", f"quantized: {made}"}


def test_a_float_net_has_its_layers_and_no_pass_at_a_tensor_without_carrier(subject, found):
    names = found(floating(subject.target))
    assert {n for n in names if n.startswith("layer")} == {
        f"layer: {name}" for name in subject.info.layer_names()
    }
    assert not [name for name in names if name.endswith(f": {reads(subject, 'stem')}")]


def test_fewer_bits_are_clipped_and_differ_from_carriers(subject, found):
    spec = quantized(subject.target)
    tensor = next(t.name for t in subject.info.read_tensors() if t.name in spec.carriers)
    narrow = spec.model_copy(update={"activations": spec.activations | {tensor: 4}})
    assert found(narrow) - found(spec) == {f"requantized: {tensor}", f"clipped: {tensor}"}
    split = {name: bits for name, bits in spec.carriers.items() if name != tensor}
    assert f"split: {tensor}" in found(spec.model_copy(update={"carriers": split}))


def test_a_sum_differs_where_its_convolution_is_of_the_other_kind(subject, found):
    (tensor,) = (each for each in subject.info.tensors if each.added_to_convs)
    (conv,) = tensor.added_to_convs
    spec = quantized(subject.target)
    assert tensor.name in spec.carriers
    pairs = dict.fromkeys(subject.target.free_layers(), (8, 8))
    beside = subject.target.subnet(pairs, float_layers=[conv])
    assert f"added to float: {tensor.name}" in found(beside) - found(spec)
    without = {name: bits for name, bits in spec.carriers.items() if name != tensor.name}
    bare = spec.model_copy(update={"carriers": without})
    assert f"added in float: {tensor.name}" in found(bare) - found(spec)
    both = beside.model_copy(update={"carriers": without})
    assert not [name for name in found(both) if name.startswith("added")]
