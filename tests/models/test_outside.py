"""Values outside of the state dict: a supernet computes the same when it is loaded, or is refused.

Each network is made twice, as in two processes: its module is forgotten in between, and torch's
random state is another one.
"""

from __future__ import annotations

import importlib
import warnings

import outside_nets
import pytest
import torch
from nets import TinyData, images
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eqnet.models import load_model
from eqnet.models.outside import outside_tensors, seeded
from eqnet.spec.errors import CaptureError, CheckpointError
from eqnet.stages.train.post_training import post_training
from eqnet.supernet.checkpoint import SUPERNET_FILE, load_supernet

ROUNDING = 1e-5  # of the largest logit
SHAPE = (1, 28, 28)
CASES = outside_nets.CASES
NAMES = sorted(CASES)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(
        "eqnet.stages.train.begin.start.open_dataset", lambda name, root: TinyData()
    )
    yield
    importlib.import_module("outside_nets")


def source(name):
    return f"outside_nets:{name}"


def trained(name, folder, extra=()):
    """A network with other weights than it is built with, and their file."""
    torch.manual_seed(77)
    net = load_model(source(name), allow_code=True)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        if "m" in net.state_dict():
            net.m.copy_(torch.linspace(1.5, 0.3, outside_nets.WIDTH))
    outside = outside_tensors(net)
    path = folder / "weights.pth"
    torch.save({**net.state_dict(), **{key: outside[key] for key in extra}}, path)
    return net, path


def make(name, folder, weights=None):
    return post_training(
        model=source(name), weights=weights, out=folder / "out", images=2, allow_code=True
    )


def in_another_process(folder):
    outside_nets.forget()
    torch.manual_seed(4321)
    return load_supernet(folder / "out", allow_code=True)


def same(net, supernet):
    batch = images(3, SHAPE)
    with torch.no_grad():
        expected = net.eval()(batch)
        found = supernet.float_logits(batch)
    return float((found - expected).abs().max()) <= ROUNDING * float(expected.abs().max())


@pytest.mark.parametrize("name", [name for name in NAMES if not CASES[name].random])
def test_a_network_that_its_weights_tell_is_kept(tmp_path, name):
    net, path = trained(name, tmp_path)
    make(name, tmp_path, path)
    supernet, header, _ = in_another_process(tmp_path)
    assert same(net, supernet)
    assert not header.random_weights


@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].random])
def test_weights_that_lack_what_is_random_are_refused(tmp_path, name):
    _, path = trained(name, tmp_path)
    with pytest.raises(CaptureError) as caught:
        make(name, tmp_path, path)
    message = str(caught.value)
    assert "\n" not in message
    assert "random whenever the model is built" in message
    for part in CASES[name].names or ("something that is in no state dict",):
        assert part in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", [name for name in NAMES if CASES[name].random and CASES[name].names]
)
def test_weights_that_hold_what_is_random_too_are_taken(tmp_path, name):
    net = outside_nets.build(name)
    net, path = trained(name, tmp_path, extra=outside_tensors(net))
    make(name, tmp_path, path)
    assert same(net, in_another_process(tmp_path)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_random_weights_is_kept(tmp_path, name):
    with seeded(0):
        net = load_model(source(name), allow_code=True)
    assert "random weights" in make(name, tmp_path)["warning"]
    supernet, header, _ = in_another_process(tmp_path)
    assert same(net, supernet)
    assert header.random_weights


def test_a_network_that_is_built_otherwise_each_time_is_refused(tmp_path):
    with pytest.raises(CaptureError, match="cannot be built a second time"):
        make("clocked", tmp_path)
    _, path = trained("clocked", tmp_path)
    with pytest.raises(CaptureError, match="random whenever the model is built"):
        make("clocked", tmp_path, path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["scripted", "traced", "scripted_whole"])
def test_torchscript_is_refused(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CaptureError, match=r"TorchScript module hides .* \(allowed: the nn"):
            make(name, tmp_path)


def changed(folder, change):
    path = folder / "out" / SUPERNET_FILE
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors["fc.bias"].add_(1), "builds another network"),
        (lambda tensors: tensors["model:m"].mul_(1.5), "builds another network"),
        (lambda tensors: tensors.update({"model:n": torch.ones(1)}), "it lacks tensor 'n'"),
        (lambda tensors: tensors.update({"model:m": torch.ones(1)}), "another shape"),
    ],
)
def test_a_checkpoint_that_computes_otherwise_is_refused(tmp_path, change, told):
    _, path = trained("number_read", tmp_path)
    make("number_read", tmp_path, path)
    changed(tmp_path, change)
    with pytest.raises(CheckpointError, match=told) as caught:
        in_another_process(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_that_loads_weights_itself_has_no_random_weights(tmp_path):
    assert "no weights given" not in make("pretrained", tmp_path).get("warning", "")
    assert not in_another_process(tmp_path)[1].random_weights
