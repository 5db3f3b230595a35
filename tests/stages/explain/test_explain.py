"""`eqnet explain` on a small network: the damaged layer, its remedy, the profile that holds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from artifacts import profile
from nets import randomize, small_supernet, supernet_of
from search_tools import lowbit, session_of
from torch import nn

import eqnet.stages.explain.run as module
from eqnet.spec.errors import CheckpointError, ProfileError, UsageError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import PinnedLayer
from eqnet.spec.reports import ExplainReport
from eqnet.spec.subnet import REMAINDER
from eqnet.stages.explain.candidates import candidates
from eqnet.stages.explain.subject import Subject
from eqnet.subnets.stem import stem_cuts
from eqnet.subnets.target import Target

INT8: dict[str, Any] = {"search_groups": ["linear"], "cost": {"model": "size"}}


class Place:
    """A session in the small network whose `layer` is damaged at 8 bits, and a profile's file."""

    def __init__(self, folder, patch, layer="conv2", rules=None):
        supernet = small_supernet()
        if layer is not None:
            quantizer = supernet.layer(layer).weight_quantizer
            with torch.no_grad():
                quantizer.log_scale["per_channel_symmetric_8"] -= np.log(6)
        self.folder, self.session = folder, session_of(folder, supernet)
        self.rules = rules or profile(**INT8)
        self.path = folder / f"{self.rules.name}.yaml"
        self.path.write_text(self.rules.model_dump_json(exclude_none=True))
        patch.setattr(module, "open_session", lambda *_, **__: self.session)

    def explain(self, **options) -> ExplainReport:
        return module.explain(**{"profile": str(self.path), "images": 40, "top": 4, **options})


def test_a_damaged_layer_is_named_first_and_pinned(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    out = tmp_path / "mended.yaml"
    report = place.explain(apply=out)
    assert ExplainReport.model_validate_json(report.model_dump_json()) == report
    worst = report.places[0]
    assert (worst.kind, worst.name, worst.bits, worst.layers) == ("weights", "conv2", 8, ("conv2",))
    assert worst.images == report.images == 40
    assert [one.kl for one in report.places[:4]] == sorted(
        (one.kl for one in report.places[:4]), reverse=True
    )
    layer = place.session.supernet.info.layer("conv2")
    # 32 bits in place of 8 for each weight.
    assert worst.cost_saved == pytest.approx(layer.weights * 3 / 1024)
    assert report.unit == "KiB"
    first = report.remedies[0]
    assert (first.name, first.layers, first.bits) == ("conv2 in float", ("conv2",), "remainder")
    assert first.before.kl == report.whole.kl > 2 * first.after.kl
    assert first.after.cost - first.before.cost == pytest.approx(worst.cost_saved)
    for earlier, later in zip(report.remedies, report.remedies[1:], strict=False):
        assert later.before == earlier.after
    # The profile that was written is the given one with these pins, and its subnet was measured.
    written = load_profile(str(out))
    pins = [PinnedLayer(layers=n, bits=r.bits) for r in report.remedies for n in r.layers]
    assert written == place.rules.model_copy(update={"name": "mended", "pinned": tuple(pins)})
    assert report.applied.profile == str(out)
    assert report.applied.images == 40
    assert report.applied.after.kl < report.applied.before.kl / 2
    assert report.applied.after.cost > report.applied.before.cost
    spec = Target.of(place.session.supernet.info, written).default(place.session.identity)
    assert spec.weights["conv2"] == REMAINDER
    assert out.read_text().startswith("# ")


def test_every_layer_tensor_and_group_is_ranked(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    report = place.explain(latency=False)
    info = place.session.supernet.info
    assert {one.name for one in report.places if one.kind == "weights"} == set(info.layer_names())
    tensors = {one.name for one in report.places if one.kind != "weights"}
    spec = Target.of(info, place.rules).default("")
    assert tensors == {*spec.activations, *spec.carriers}
    groups = [one.name for one in report.groups]
    assert sorted(groups) == ["carriers", "conv", "depthwise_conv", "linear"]
    assert groups[0] == "conv"  # which has the damaged layer
    assert report.no_cost == "not asked for"
    assert all(one.cost_saved is None for one in (*report.places, *report.groups))
    assert report.whole.cost is None


def test_the_same_twice(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    first, second = place.explain(), place.explain()
    assert second.model_copy(update={"seconds": first.seconds}) == first


def test_a_sound_network_of_enough_bits_needs_nothing_applied(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch, layer=None)
    monkeypatch.setattr("eqnet.stages.explain.remedies.LEAST_GAIN", 1.0)
    report = place.explain(apply=tmp_path / "nothing.yaml")
    assert report.remedies == ()
    assert report.applied is None
    assert not (tmp_path / "nothing.yaml").exists()


def test_low_bits_are_pinned_to_more_where_the_profile_has_them(tmp_path, monkeypatch):
    rules = lowbit(bits=[[2, 8], [8, 8]], budgets={"avg_weight_bits": 7.5}, cost={"model": "size"})
    place = Place(tmp_path, monkeypatch, None, rules)
    report = place.explain()
    assert any(one.kind == "weights" and one.bits == 2 for one in report.places)
    first = report.remedies[0]
    # In float, most of the weights would exceed the budget; in 8 bits they do not.
    assert (first.name, first.bits) == ("conv1 in 8 bits", 8)
    assert all(one.after.kl < one.before.kl for one in report.remedies)


class Stages(nn.Module):
    """Three convolutions at three resolutions, and a classifier."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.c = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        return self.head(x.mean((2, 3)))


def test_the_layers_before_a_cut_are_a_float_stem(tmp_path):
    supernet = supernet_of(randomize(Stages()))
    subject = Subject.of(session_of(tmp_path, supernet), profile(**INT8), None)
    found = {one.name: one.layers for one in candidates(subject, subject.spec(), {}, 6)}
    cuts = stem_cuts(supernet.info)
    assert cuts == ("b", "c")
    # Convolutions as a whole are no remedy: nothing would stay quantized.
    assert found == {
        "float stem before b": ("a",),
        "all of linear in float": ("head",),
    }


@pytest.mark.parametrize("unsigned", ["halved", "shifted"])
def test_a_given_subnet_is_taken_as_it_is(tmp_path, monkeypatch, unsigned):
    rules = lowbit(
        activations={
            "symmetry": "symmetric",
            "storage": "int8",
            "zero_point": "zero",
            "unsigned": unsigned,
        }
    )
    place = Place(tmp_path, monkeypatch, None, rules)
    info, identity = place.session.supernet.info, place.session.identity
    target = Target.of(info, rules)
    pairs = {name: (2 + i % 7, 8 - i % 5) for i, name in enumerate(target.free_layers())}
    spec = target.subnet(pairs, supernet=identity)
    path = tmp_path / "subnet.json"
    path.write_text(spec.model_dump_json())
    subject = Subject.of(place.session, rules, path)
    assert subject.spec() == spec
    assert replace(subject, given=None).spec().choices_json() == spec.choices_json()


def test_the_subnet_of_a_file_is_explained(tmp_path, monkeypatch):
    rules = lowbit()
    place = Place(tmp_path, monkeypatch, None, rules)
    target = Target.of(place.session.supernet.info, rules)
    spec = target.uniform((3, 5), supernet=place.session.identity)
    path = tmp_path / "subnet.json"
    path.write_text(spec.model_dump_json())
    report = place.explain(subnet=path, latency=False)
    assert report.subnet == spec.sha256()
    assert {one.bits for one in report.places if one.kind == "input"} == {5, 8}


def test_a_subnet_of_another_supernet_is_refused(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    spec = Target.of(place.session.supernet.info, place.rules).default("6" * 64)
    path = tmp_path / "subnet.json"
    path.write_text(spec.model_dump_json())
    with pytest.raises(CheckpointError, match="another supernet"):
        place.explain(subnet=path)


@pytest.mark.parametrize("name", ["my chip.yaml", "chip.yml", "by_hand.yaml"])
def test_a_path_that_no_profile_can_have_is_refused_at_once(tmp_path, monkeypatch, name):
    place = Place(tmp_path, monkeypatch)
    monkeypatch.setattr(module, "open_session", None)
    with pytest.raises(UsageError, match="--apply"):
        place.explain(apply=tmp_path / name)


def test_a_profile_of_a_folder_of_its_own_finds_what_it_extends(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch)
    (tmp_path / "sub").mkdir()
    report = place.explain(apply=tmp_path / "sub" / "mended.yaml", latency=False)
    assert report.applied is not None
    assert load_profile(str(tmp_path / "sub" / "mended.yaml")).backend == "onnxruntime"


def test_what_the_target_refuses_is_refused(tmp_path, monkeypatch):
    rules = profile("openvino", weights={"granularity": "per_channel", "symmetry": "asymmetric"})
    place = Place(tmp_path, monkeypatch, rules=rules)
    with pytest.raises(ProfileError, match="weights"):
        place.explain()


def test_costs_are_timed_in_the_runtime(tmp_path, monkeypatch):
    place = Place(tmp_path, monkeypatch, rules=profile(cost={"model": "measured"}))
    report = place.explain()
    assert report.unit == "ms"
    assert report.no_cost is None
    assert report.whole.cost > 0
    assert report.places[0].cost_saved is not None
    assert report.remedies[0].after.cost > 0
