"""Supernet checkpoints: a round trip, and one line for every file that is not one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from nets import images, randomize, supernet_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from eqnet.models.loader import load_model
from eqnet.spec.errors import CheckpointError, OutputError, UsageError
from eqnet.spec.scheme import Form
from eqnet.subnets.build import PAPER_STYLE, random_subnet
from eqnet.supernet.checkpoint import (
    HEADER_KEY,
    SUPERNET_FILE,
    Header,
    checkpoint_sha256,
    load_supernet,
    save_supernet,
)
from eqnet.supernet.supernet import Supernet

SHAPE = (1, 12, 12)
HEADER = Header(
    model="eqnet:resnet20",
    input_shape=SHAPE,
    classes=4,
    dataset="fashion_mnist",
    method="post_training",
    seed=3,
    float_accuracy=0.5,
    test_images="some",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a checkpoint, and the supernet that it holds."""
    folder = tmp_path_factory.mktemp("supernet")
    net = supernet_of(randomize(load_model(HEADER.model, classes=4, in_channels=1)), SHAPE)
    save_supernet(folder, net, HEADER)
    return folder, net


def test_a_round_trip_keeps_every_bit_and_the_header(saved):
    folder, net = saved
    loaded, header, identity = load_supernet(folder)
    assert header == HEADER
    assert identity == checkpoint_sha256(folder / SUPERNET_FILE)
    assert [path.name for path in folder.iterdir()] == [SUPERNET_FILE]
    before, after = net.graph.state_dict(), loaded.graph.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    spec = random_subnet(net.info, PAPER_STYLE, Form(), random.Random(0))
    batch = images(2, SHAPE)
    net.apply(spec)
    loaded.apply(spec)
    assert torch.equal(net.graph.eval()(batch), loaded.graph(batch))


def test_parameters_that_layers_of_the_remainder_share_are_saved_for_each(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4), nn.Conv2d(4, 4, 1), nn.PReLU(4))
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)])
    net[3].weight = net[1].weight
    save_supernet(tmp_path, Supernet(net, (3, 4, 4)), HEADER)
    tensors = load_file(tmp_path / SUPERNET_FILE)
    assert torch.equal(tensors["1.weight"], net.get_parameter("1.weight"))
    assert torch.equal(tensors["3.weight"], net.get_parameter("1.weight"))


def rewrite(folder, target, *, header=None, change=None, drop=None):
    """Copy a checkpoint with another header text, or with a tensor changed or dropped."""
    tensors = load_file(folder / SUPERNET_FILE)
    with safe_open(folder / SUPERNET_FILE, framework="pt") as file:
        metadata = file.metadata()
    if header is not None:
        metadata = {HEADER_KEY: header} if header else {}
    if change:
        tensors.update(change)
    tensors.pop(drop, None)
    target.mkdir(exist_ok=True)
    save_file(tensors, target / SUPERNET_FILE, metadata)
    return target


def with_header(**changes):
    return json.dumps({**HEADER.model_dump(mode="json"), **changes})


HEADERS = {
    "absent": ("", "header 'eqnet' is absent"),
    "no JSON": ("{", "not JSON"),
    "deep JSON": ("[" * 100_000, "not JSON"),
    "a list": ("[]", "header"),
    "newer": (with_header(schema_version=2), "newer eqnet"),
    "unknown key": (with_header(colour="red"), "colour"),
    "wrong type": (with_header(classes="many"), "classes"),
    "missing key": (json.dumps({"schema_version": 1}), "model"),
    "another model": (with_header(model="torchvision:resnet18"), "not a supernet of torchvision"),
    "no model": (with_header(model="eqnet:resnet21"), "unknown eqnet model 'resnet21'"),
    "no source": (with_header(model="torchvision:nothing"), "unknown torchvision model"),
    "other classes": (with_header(classes=7), "(allowed: float32 [2, 7]"),
    "no classes": (with_header(classes=0), "classes: Input should be greater"),
    "impossible shape": (with_header(input_shape=[1, -3, 12]), "input_shape.1: "),
    "many classes": (with_header(classes=10**8), "classes: Input should be less"),
    "more classes": (with_header(classes=10**6), "(allowed: float32 [2, 1000000]"),
    "huge seed": (with_header(seed=2**63 - 1), "seed: "),
    "huge integer": (with_header(seed=10**400), "an integer of 401 digits"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_wrong_header_is_one_line(saved, tmp_path, case):
    text, part = HEADERS[case]
    refused(rewrite(saved[0], tmp_path / "x", header=text), part)


def refused(folder, part):
    with pytest.raises(CheckpointError) as caught:
        load_supernet(folder)
    message = str(caught.value)
    assert part in message
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 500


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "lacking": ({"drop": "stem.conv.weight"}, "lacks tensor 'stem.conv.weight'"),
    "foreign": ({"change": {"alien": torch.zeros(1)}}, "unknown tensor 'alien'"),
    "shape": ({"change": {"fc.bias": torch.zeros(9)}}, "'fc.bias' has shape [9]"),
    "bfloat16": (
        {"change": {"fc.bias": torch.zeros(4, dtype=torch.bfloat16)}},
        "'fc.bias' has type bfloat16 (allowed: float32)",
    ),
    "float8": (
        {"change": {"fc.bias": torch.zeros(4).to(torch.float8_e4m3fn)}},
        "'fc.bias' has type float8_e4m3fn",
    ),
    "nan": ({"change": {"fc.bias": torch.full((4,), torch.nan)}}, "'fc.bias' holds NaN"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_wrong_tensors_are_one_line(saved, tmp_path, case):
    options, part = CHANGES[case]
    refused(rewrite(saved[0], tmp_path / "x", **options), part)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_one_line(saved, tmp_path, kept):
    content = (saved[0] / SUPERNET_FILE).read_bytes()
    size = kept if isinstance(kept, int) else int(kept * len(content))
    (tmp_path / SUPERNET_FILE).write_bytes(content[:size])
    refused(tmp_path, "damaged or not safetensors")


@pytest.mark.parametrize("content", [b"\x80\x04\x95hello.", b"PK\x03\x04zip", b"\xff" * 64])
def test_another_kind_of_file_is_one_line(tmp_path, content):
    (tmp_path / SUPERNET_FILE).write_bytes(content)
    refused(tmp_path, "damaged or not safetensors")


def test_a_missing_file_or_folder_is_one_line(tmp_path):
    refused(tmp_path, "no such checkpoint")
    refused(tmp_path / "nowhere", "no such checkpoint")


def test_a_users_own_model_is_not_imported_unasked(saved, tmp_path):
    folder = rewrite(saved[0], tmp_path / "x", header=with_header(model="my_module:build"))
    with pytest.raises(UsageError, match="--allow-code"):
        load_supernet(folder)


def test_an_unwritable_folder_is_one_line_and_leaves_nothing(saved, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError):
        save_supernet(blocked / "sub", saved[1], HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
