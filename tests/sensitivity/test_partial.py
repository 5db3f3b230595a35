"""Partial passes give what whole passes give, and compute only what a change reaches."""

from __future__ import annotations

import pytest
import torch
from nets import images, randomize, small_supernet, style, supernet_of
from torch import nn

from eqnet.quant.layers import ELASTIC
from eqnet.sensitivity.partial import PartialPasses, images_within
from eqnet.sensitivity.places import Place, affected_layers, all_float, alone, places_of
from eqnet.sensitivity.variants import Variants
from eqnet.spec.progress import Silent
from eqnet.spec.scheme import Form
from eqnet.spec.subnet import REMAINDER
from eqnet.subnets.build import uniform
from eqnet.supernet.settling.correction import correct, float_moments


@pytest.fixture(scope="module")
def supernet():
    return small_supernet()


def spec_of(supernet, bits=4):
    return uniform(supernet.info, style(), Form(), bits, bits)


@pytest.mark.parametrize(("bits", "kinds"), [(4, {"input", "carrier"}), (8, {"tensor"})])
def test_every_place_by_a_partial_pass_is_as_by_a_whole_one(supernet, bits, kinds):
    spec, batch = spec_of(supernet, bits), images(3)
    supernet.apply_float()
    variants = Variants(supernet, all_float(spec))
    places = places_of(supernet.info, spec)
    assert {place.kind for place in places} >= {"weights", *kinds}
    variants.load(batch)
    for place in places:
        variant = variants.variant(alone(spec, supernet.info, place))
        partial = variants.logits(variant)
        supernet.correct({})
        supernet.apply(variant.spec)
        with torch.no_grad():
            whole = supernet.graph(batch)
        assert torch.equal(partial, whole), place
        assert not torch.equal(whole, supernet.float_logits(batch)), place


def test_a_place_in_a_quantized_subnet_taken_to_float(supernet):
    spec, batch = spec_of(supernet), images(3)
    supernet.apply_float()
    targets = float_moments(supernet, [batch])
    supernet.apply(spec)
    correct(supernet, [batch], targets)
    kept = {name: supernet.layer(name).shift for name in supernet.info.layer_names()}
    base = Variants(supernet, spec)
    reference = base.load(batch)
    other = spec.model_copy(update={"weights": spec.weights | {"conv1": REMAINDER}})
    variant = base.variant(other)
    partial = base.logits(variant)
    supernet.layer("conv1").correct(None, None)
    with torch.no_grad():
        assert torch.equal(partial, supernet.graph(batch))
    base.restore()
    with torch.no_grad():
        assert torch.equal(reference, supernet.graph(batch))
    assert all(torch.equal(kept[name], supernet.layer(name).shift) for name in kept)


def test_nothing_changed_computes_nothing(supernet):
    passes = PartialPasses(supernet)
    supernet.apply_float()
    logits = passes.load(images(2))
    assert passes.rerun([]) is logits


def test_layers_that_a_change_does_not_reach_are_not_run(supernet):
    supernet.apply_float()
    passes = PartialPasses(supernet)
    passes.load(images(2))
    ran = []
    handles = [
        module.register_forward_hook(lambda module, *_, name=name: ran.append(name))
        for name, module in supernet.graph.named_modules()
        if isinstance(module, ELASTIC)
    ]
    passes.rerun(["conv2"])
    assert ran == ["conv2", "head"]
    ran.clear()
    found = passes.outputs(["stem"], ["conv1"])
    assert ran == ["stem", "conv1"]
    assert torch.equal(found["conv1"], passes.value("conv1"))
    for handle in handles:
        handle.remove()


def test_a_local_correction_gives_the_layer_its_moments_again(supernet):
    spec = spec_of(supernet, 2)
    supernet.apply_float()
    base = Variants(supernet, all_float(spec))
    batch = images(24)
    place = Place("weights", "conv1", 2)
    variant = base.variant(alone(spec, supernet.info, place))
    assert variant.layers == ("conv1",)
    base.load(batch)
    before = base.logits(variant)
    reference = base.load(batch)
    base.correct([variant], [batch], Silent())
    base.load(batch)
    after = base.logits(variant)
    assert (after - reference).square().mean() < (before - reference).square().mean()


def test_readers_of_a_changed_tensor_are_affected(supernet):
    spec = spec_of(supernet)
    tensor = next(t for t in supernet.info.tensors if t.layers == ("depthwise",))
    other = alone(spec, supernet.info, Place("input", tensor.name, 4))
    assert affected_layers(supernet.info, all_float(spec), other) == ("depthwise",)


def test_batches_fit_into_the_memory():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    net(images(1))
    supernet = supernet_of(randomize(net))
    passes = PartialPasses(supernet)
    passes.load(images(1))
    kept = passes.kept_bytes()
    shape = supernet.info.input_shape
    values = 2 * 16 * shape[1] * shape[2]  # before and after ReLU; Flatten is a view of it
    assert 4 * values <= kept <= 1.2 * 4 * values
    assert images_within(supernet, 10 * kept) == 10
    assert images_within(supernet, 1) == 1
