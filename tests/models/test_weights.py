"""Files of weights: names that are brought to the model's, layouts, types, and foreign files."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import re
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import densenet121, vit_b_16

from eqnet.models.weight_names import WRAPPERS, fit_names, names_of
from eqnet.models.weights import load_weights
from eqnet.spec.errors import CheckpointError


class Net(nn.Module):
    """A network of every kind of tensor: floats, counters, a mask, integers, a plain tensor."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(3, 4)))
        self.register_buffer("index", torch.arange(4))
        self.register_buffer("keep", torch.tensor([True, False]))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("loose", torch.zeros(2), persistent=False)
        self.plain = torch.zeros(2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


class Inside(nn.Module):
    """A network that is called `name` in another."""

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__()
        self.add_module(name, Net(seed))


STATE = Net(1).state_dict()


def prefixed(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


def write(path, content):
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def same(model, state=STATE, prefix=""):
    found = model.state_dict()
    return all(torch.equal(found[prefix + name], tensor) for name, tensor in state.items())


def refused(model, path, *told, key=None):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path, key)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 700
    for part in told:
        assert part in message
    assert same(model, before)
    return message


ONE = ("module", "_orig_mod", "model", "net", "backbone", "network", "student_of_mine")
PREFIXES = [*ONE, *(f"{first}.{second}" for first in ONE[:4] for second in ONE[:4])]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt", ".pth.tar", ".weights"])
def test_a_file_is_read_by_its_content_not_by_its_suffix(tmp_path, suffix):
    model = Net()
    assert load_weights(model, write(tmp_path / f"w{suffix}", STATE)) == ()
    assert same(model)
    written = write(tmp_path / "w.safetensors", STATE).rename(tmp_path / "w.pt")
    model = Net()
    load_weights(model, written)
    assert same(model)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_the_file_is_taken_off(tmp_path, prefix):
    model = Net()
    load_weights(model, write(tmp_path / "w.pth", prefixed(f"{prefix}.")))
    assert same(model)


@pytest.mark.parametrize("name", ["module", "model", "backbone"])
@pytest.mark.parametrize("prefix", ["", *(f"{one}." for one in PREFIXES)])
def test_a_model_that_has_the_prefix_itself_keeps_it(tmp_path, name, prefix):
    model = Inside(name)
    load_weights(model, write(tmp_path / "w.pth", prefixed(f"{prefix}{name}.")))
    assert same(model, prefix=f"{name}.")


@pytest.mark.parametrize("name", ["module", "model", "backbone"])
def test_a_prefix_of_the_model_that_the_file_lacks_is_put_before(tmp_path, name):
    model = Inside(name)
    load_weights(model, write(tmp_path / "w.pth", STATE))
    assert same(model, prefix=f"{name}.")


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_wrappers_inside_of_names_are_passed_over(tmp_path, wrapper):
    state = {name.replace("head.", f"head.{wrapper}."): one for name, one in STATE.items()}
    for count, content in enumerate((state, prefixed("model.", state))):
        model = Net()
        load_weights(model, write(tmp_path / f"w{count}.pth", content))
        assert same(model)


def test_what_stands_beside_the_network_is_left_out_and_told(tmp_path):
    content = {"criterion.weight": torch.ones(3), **prefixed("model.")}
    path = write(tmp_path / "last.ckpt", {"state_dict": content})
    model = Net()
    (remark,) = load_weights(model, path)
    assert same(model)
    assert "left out criterion.weight, outside of 'model.'" in remark


def test_two_networks_that_fit_are_told_apart_by_key(tmp_path):
    other = Net(2).state_dict()
    path = write(tmp_path / "w.pth", {**prefixed("teacher."), **prefixed("student.", other)})
    refused(Net(), path, "several networks fit this model: teacher, student", "--weights-key")
    model = Net()
    load_weights(model, path, "student")
    assert same(model, other)
    refused(Net(), path, "unknown key of weights 'pupil'", key="pupil")


def test_of_two_networks_the_one_with_the_shapes_of_the_model_is_taken(tmp_path):
    wide = Net(3)
    wide.head.fc = nn.Linear(3, 9)
    content = {**prefixed("teacher.", wide.state_dict()), **prefixed("student.")}
    model = Net()
    load_weights(model, write(tmp_path / "w.pth", content))
    assert same(model)


LAYOUTS = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "my_own_key",
    "checkpoint.model",
    "run.best.net",
]
BESIDE = {
    "epoch": 3,
    "best": torch.tensor(0.5),
    "name": "mine",
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
}


def nested(key, state):
    for part in reversed(key.split(".")):
        state = {part: state}
    return state


@pytest.mark.parametrize("key", LAYOUTS)
def test_weights_are_taken_out_of_a_checkpoint(tmp_path, key):
    model = Net()
    path = write(tmp_path / "w.pth.tar", {**BESIDE, **nested(key, prefixed("module."))})
    assert load_weights(model, path) == ()
    assert same(model)


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "ema", "params_ema"])
@pytest.mark.parametrize("usual", ["state_dict", "model", "params"])
def test_averaged_weights_are_taken_and_told_unless_a_key_says_otherwise(tmp_path, averaged, usual):
    plain = Net(2).state_dict()
    path = write(tmp_path / "w.pth", {usual: plain, averaged: prefixed("module."), **BESIDE})
    model = Net()
    (remark,) = load_weights(model, path)
    assert same(model)
    assert f"'{averaged}' (averaged weights), not from '{usual}'" in remark
    model = Net()
    assert load_weights(model, path, usual) == ()
    assert same(model, plain)


def test_averaged_weights_that_do_not_fit_are_passed_over(tmp_path):
    path = write(tmp_path / "w.pth", {"ema": {"shadow": torch.ones(3)}, "model": STATE})
    model = Net()
    assert load_weights(model, path) == ()
    assert same(model)


class Options(dict[str, object]):
    """As Lightning's hyperparameters: a mapping of a class of its own."""


class Slots:
    """Its state is a tuple."""

    __slots__ = ("rate",)
    rate: int


def with_slots():
    made = Slots()
    made.rate = 3
    return made


BESIDE_WEIGHTS = {
    "namespace": lambda: argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=[1, 2])),
    "mapping": lambda: Options(lr=0.1, more=Options(a=1)),
    "default dict": lambda: defaultdict(list, {"acc": [0.5]}),
    "numpy number": lambda: np.float64(0.5),
    "numpy array": lambda: np.ones(3),
    "path": lambda: Path("runs") / "one",
    "date": lambda: datetime.date(2020, 1, 1),
    "slots": with_slots,
    "set": lambda: {1, 2},
    "class": lambda: Options,
    "function": lambda: nn.functional.relu,
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", BESIDE_WEIGHTS)
def test_what_scripts_keep_beside_the_weights_is_passed_over(tmp_path, kind, legacy):
    path = tmp_path / "w.pth.tar"
    content = {"args": BESIDE_WEIGHTS[kind](), "state_dict": STATE, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    model = Net()
    load_weights(model, path)
    assert same(model)


@pytest.mark.parametrize("key", [None, "model", "ema"])
def test_a_pickled_module_is_refused(tmp_path, key):
    path = tmp_path / "w.pt"
    torch.save(Net() if key is None else {key: Net(), "epoch": 1}, path)
    refused(Net(), path, "could run code")


def test_old_names_of_torchvision_fit(tmp_path):
    net = densenet121(num_classes=3)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): torch.randn_like(one) + 3
        if one.is_floating_point()
        else one
        for name, one in net.state_dict().items()
    }
    assert any("norm.1" in name for name in old)
    for content in (old, prefixed("module.", old)):
        load_weights(net, write(tmp_path / "d.pth", content))
        assert torch.equal(
            net.features.denseblock1.denselayer1.norm1.weight,
            old["features.denseblock1.denselayer1.norm.1.weight"],
        )
    with torch.device("meta"):
        names = vit_b_16().state_dict()
    old = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): one
        for name, one in names.items()
    }
    assert fit_names(names_of(names, {}), old).fits


FLOATS = (torch.float16, torch.bfloat16, torch.float64, torch.float32)
WRONG = (
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_of_other_widths_are_converted(tmp_path, dtype):
    content = {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}
    model = Net()
    load_weights(model, write(tmp_path / "w.safetensors", content))
    assert model.conv.weight.dtype is torch.float32
    assert torch.equal(model.conv.weight, STATE["conv.weight"].to(dtype).float())


@pytest.mark.parametrize("dtype", WRONG, ids=str)
@pytest.mark.parametrize("name", ["conv.weight", "bn.running_var"])
def test_other_types_than_floats_are_refused(tmp_path, name, dtype):
    path = write(tmp_path / "w.pth", {**STATE, name: STATE[name].to(dtype)})
    refused(Net(), path, f"{name}: {str(dtype).removeprefix('torch.')} (allowed: float32")


def test_integers_and_masks_keep_their_values(tmp_path):
    content = {**STATE, "index": torch.tensor([3, 2, 1, 0], dtype=torch.int32)}
    model = Net()
    load_weights(model, write(tmp_path / "w.pth", content))
    assert model.index.tolist() == [3, 2, 1, 0]
    assert model.index.dtype is torch.int64
    for name, value in (("index", torch.rand(4)), ("keep", torch.ones(2))):
        refused(Net(), write(tmp_path / f"{name}.pth", {**STATE, name: value}), f"{name}: float32")


def test_quantized_and_sparse_tensors_are_refused(tmp_path):
    quantized = torch.quantize_per_tensor(STATE["conv.weight"], 0.1, 0, torch.qint8)
    for index, tensor in enumerate((quantized, STATE["head.fc.weight"].to_sparse())):
        name = ("conv.weight", "head.fc.weight")[index]
        refused(Net(), write(tmp_path / f"{index}.pth", {**STATE, name: tensor}), name)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["conv.weight", "bn.running_mean", "head.fc.bias"])
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
    tensor = STATE[name].clone()
    tensor.view(-1)[0] = value
    path = write(tmp_path / "w.pth", {**STATE, name: tensor})
    refused(Net(), path, f"{name}: holds NaN or infinity")


def test_values_that_the_models_type_cannot_hold_are_refused(tmp_path):
    large = {**STATE, "conv.bias": torch.full((3,), 1e300, dtype=torch.float64)}
    refused(Net(), write(tmp_path / "w.pth", large), "conv.bias: holds values too large")


def test_tensors_outside_of_the_state_dict_may_be_in_the_file(tmp_path):
    content = {**STATE, "loose": torch.ones(2), "plain": torch.full((2,), 2.0)}
    for index, prefix in enumerate(("", "module.")):
        model = Net()
        load_weights(model, write(tmp_path / f"{index}.pth", prefixed(prefix, content)))
        assert model.loose.tolist() == [1, 1]
        assert model.plain.tolist() == [2, 2]


def test_one_name_of_a_tied_tensor_is_enough(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    state = {name: t + 1 for name, t in tied().state_dict().items() if name != "1.weight"}
    model = tied()
    load_weights(model, write(tmp_path / "w.safetensors", state))
    assert torch.equal(model[1].weight, state["0.weight"])


def test_a_misfit_lists_names_and_the_best_guess(tmp_path):
    content = prefixed("my.encoder.")
    del content["my.encoder.head.fc.bias"]
    message = refused(
        Net(), write(tmp_path / "w.pth", content), "lacks index, keep, mask and 8 more"
    )
    assert "has unknown my.encoder.index" in message
    assert "without the prefix 'my.encoder.'" in message
    assert "it lacks head.fc.bias" in message


def text(content):
    return lambda path: path.write_text(content)


def raw(content):
    return lambda path: path.write_bytes(content)


def zipped(**files):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name.replace("__", "/"), content)

    return make


def tarred(path):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("photo.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))


def scripted(path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def onnx_model(path):
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph, producer_name="x"), path)


FOREIGN = {
    "lfs": (
        text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "html": (text("\n<!DOCTYPE html><html><body>Sign in</body></html>"), "an HTML page"),
    "xml": (text("<?xml version='1.0'?><net/>"), "an XML text"),
    "json": (text(json.dumps({"weight_map": {}})), "a JSON text"),
    "text": (text("just words"), "a text file"),
    "empty": (raw(b""), "an empty file"),
    "zip": (zipped(photo="x", more="y"), "a zip archive of 'photo'"),
    "keras": (zipped(**{"config.json": "{}", "model.weights.h5": ""}), "a Keras archive"),
    "npz": (lambda path: np.savez(path.open("wb"), a=np.ones(2)), "a NumPy archive"),
    "npy": (lambda path: np.save(path.open("wb"), np.ones(2)), "a NumPy array"),
    "tar": (tarred, "a tar archive"),
    "gzip": (raw(b"\x1f\x8b\x08" + bytes(99)), "a gzip archive"),
    "torchscript": (scripted, "a TorchScript archive"),
    "onnx": (onnx_model, "an ONNX model"),
    "tf table": (raw(bytes(80) + bytes.fromhex("57fb808b247547db")), "a TensorFlow checkpoint"),
    "tf index": (text('model_checkpoint_path: "model.ckpt-1"\n'), "a TensorFlow checkpoint"),
    "saved model": (raw(b"\x08\x01\x12\xff" + bytes(90)), "a TensorFlow SavedModel"),
    "tflite": (raw(b"\x1c\x00\x00\x00TFL3" + bytes(90)), "a TensorFlow Lite model"),
    "hdf5": (raw(b"\x89HDF\r\n\x1a\n" + bytes(90)), "an HDF5 file"),
    "picture": (raw(b"\x89PNG\r\n\x1a\n" + bytes(90)), "a picture"),
    "cut zip": (raw(b"PK\x03\x04" + bytes(90)), "damaged or cut off zip archive"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt", ".onnx", ""])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_called_what_it_is(tmp_path, kind, suffix):
    make, *told = FOREIGN[kind]
    path = tmp_path / f"weights{suffix}"
    make(path)
    message = refused(Net(), path, *told, "(allowed: " if "unpack" not in told else "")
    assert "could run code" not in message


def test_a_folder_and_a_shard_are_called_what_they_are(tmp_path):
    refused(Net(), tmp_path, "a folder, no weights")
    (tmp_path / "model.safetensors").touch()
    refused(Net(), tmp_path, "a folder (give 'model.safetensors' of it)")
    (tmp_path / "saved_model.pb").touch()
    refused(Net(), tmp_path, "TensorFlow SavedModel")
    (tmp_path / "m.ckpt.data-00000-of-00001").write_bytes(bytes(range(1, 99)))
    refused(Net(), tmp_path / "m.ckpt.data-00000-of-00001", "a TensorFlow checkpoint")


@pytest.mark.parametrize("first", [b"P", b"\x00"])
@pytest.mark.parametrize("damage", ["disks", "zip64"])
def test_an_archive_whose_last_record_is_damaged_is_one_line(tmp_path, damage, first):
    """Also where the first byte no longer says that it is a zip archive."""
    net, path = nn.Conv2d(1, 3, 3), tmp_path / "weights.pt"
    torch.save(net.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[:1] = first
    locator = content.rindex(b"PK\x06\x07")
    if damage == "disks":
        content[locator + 16] = 2
    else:
        content[locator + 8 : locator + 16] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|not a file of tensors") as caught:
        load_weights(net, path)
    assert "\n" not in str(caught.value)


def test_flipped_bits_of_a_pytorch_file_are_found(tmp_path):
    path = write(tmp_path / "w.pth", STATE)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path) as archive:
        places = [(item.header_offset, item.file_size) for item in archive.infolist()]
    for start, size in places:
        end = start + size + 30
        for place in rng.integers(start + 30, end, 3):
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            model = Net()
            try:
                load_weights(model, path)
            except CheckpointError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:  # a byte that says nothing, such as padding
                for name, value in model.state_dict().items():
                    assert torch.equal(value, STATE[name]), (name, place)


def test_a_flipped_weight_is_one_line_that_names_its_part(tmp_path):
    path = write(tmp_path / "w.pth", STATE)
    content = bytearray(path.read_bytes())
    place = content.index(STATE["head.fc.weight"].numpy().tobytes())
    content[place + 3] ^= 1
    path.write_bytes(content)
    refused(Net(), path, "has another checksum")


def test_a_class_of_an_impossible_name_is_one_line(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"\x80\x02cmodule\nname\x00d\n)\x81.")
    refused(Net(), path, "w.pth")
