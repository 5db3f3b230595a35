"""Sensitivities: a damaged place is the worst, and what was measured is not measured again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import small_supernet
from search_tools import lowbit, session_of

from eqnet.sensitivity.measure import Alone, ranked
from eqnet.sensitivity.partial import PartialPasses
from eqnet.sensitivity.places import Place, groups_in, layers_at, places_of
from eqnet.spec.errors import CheckpointError
from eqnet.spec.progress import Silent
from eqnet.subnets.target import Target


class Setting:
    """The small network at 8 bits, with its images."""

    def __init__(self, folder, supernet=None):
        self.session = session_of(folder, supernet or small_supernet())
        self.info = self.session.supernet.info
        self.spec = Target.of(self.info, lowbit()).uniform((8, 8))
        self.places = places_of(self.info, self.spec)
        self.images = self.session.batches(self.session.dataset.validation())

    def measure(self, count=40, places=None):
        alone = Alone(self.session, self.spec, self.images)
        return alone.measure(places or self.places, count, Silent())


def counted(monkeypatch):
    calls = []
    rerun = PartialPasses.rerun

    def counting(self, changed):
        calls.append(changed)
        return rerun(self, changed)

    monkeypatch.setattr(PartialPasses, "rerun", counting)
    return calls


@pytest.mark.parametrize("layer", ["stem", "conv1", "depthwise", "conv2", "head"])
def test_a_layer_whose_weights_are_cut_off_is_the_worst(tmp_path, layer):
    supernet = small_supernet()
    quantizer = supernet.layer(layer).weight_quantizer
    with torch.no_grad():
        quantizer.log_scale["per_channel_symmetric_8"] -= np.log(8)
    found = Setting(tmp_path, supernet).measure()
    assert ranked(found)[0] == Place("weights", layer, 8)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "head"])
def test_a_tensor_that_is_cut_off_to_a_quarter_is_the_worst(tmp_path, layer):
    supernet = small_supernet()
    name = supernet.info.layer(layer).input
    with torch.no_grad():
        for key, scale in supernet.activation(name).log_scale.items():
            scale -= np.log(4) if key.endswith("_8") else 0.0
    worst = ranked(Setting(tmp_path, supernet).measure())[0]
    assert worst.name == name
    assert layer in layers_at(supernet.info, worst)


def test_fewer_bits_cost_more(tmp_path):
    places = [Place("weights", "conv1", bits) for bits in (8, 4, 2)]
    found = Setting(tmp_path).measure(places=places)
    eight, four, two = (found[place].mean_kl() for place in places)
    assert eight < four < two
    assert len(found[places[0]]) == 40


def test_groups_are_measured_as_a_whole(tmp_path):
    setting = Setting(tmp_path)
    groups = groups_in(setting.info, setting.spec)
    assert [place.name for place in groups] == ["conv", "depthwise_conv", "linear", "carriers"]
    found = setting.measure(places=groups)
    single = setting.measure(places=[Place("weights", "depthwise", 8)])
    assert all(found[place].mean_kl() > 0 for place in groups)
    assert found[Place("group", "conv")].mean_kl() > min(one.mean_kl() for one in single.values())


def test_a_group_of_other_bits_is_measured_anew(tmp_path):
    setting = Setting(tmp_path)
    (conv,) = [p for p in groups_in(setting.info, setting.spec) if p.name == "conv"]
    eight = setting.measure(places=[conv])[conv]
    setting.spec = Target.of(setting.info, lowbit()).uniform((2, 2))
    assert setting.measure(places=[conv])[conv].mean_kl() > 10 * eight.mean_kl()


def test_an_interrupted_run_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    once = Setting(tmp_path / "once").measure()
    setting = Setting(tmp_path / "twice")
    setting.measure(places=setting.places[:3])
    calls = counted(monkeypatch)
    again = setting.measure()
    assert len(calls) == len(setting.places) - 3
    for place, found in once.items():
        assert np.array_equal(found.kl, again[place].kl), place
        assert np.array_equal(found.moved, again[place].moved), place
    calls.clear()
    assert setting.measure().keys() == again.keys()
    assert not calls


def test_more_images_go_on_from_fewer(tmp_path, monkeypatch):
    setting = Setting(tmp_path)
    monkeypatch.setattr("eqnet.sensitivity.variants.images_within", lambda *_: 8)
    few = setting.measure(12)
    calls = counted(monkeypatch)
    all_of_them = setting.measure(40)
    # Of batches of 8: the second one, of which half is known, and three more.
    assert len(calls) == 4 * len(setting.places)
    for place, found in few.items():
        assert len(found) == 12
        assert np.allclose(all_of_them[place].kl[:12], found.kl, rtol=1e-3, atol=1e-7)


def test_other_weights_are_measured_anew(tmp_path):
    setting = Setting(tmp_path)
    setting.measure()
    (path,) = (tmp_path / "sensitivity").iterdir()
    other = Setting(tmp_path)
    object.__setattr__(other.session, "identity", "6" * 64)
    other.measure()
    assert len(list((tmp_path / "sensitivity").iterdir())) == 2
    assert path.is_file()


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    setting = Setting(tmp_path)
    setting.measure(places=setting.places[:1])
    (path,) = (tmp_path / "sensitivity").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        setting.measure()
