"""Elastic training of a network with weights, from images with labels or without."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fine_tuning_tools import INPUTS, TUNING, picture
from nets import SmallNet, randomize
from PIL import Image
from recipe_tools import InterruptedRunError, StopAfter
from safetensors.torch import load_file, save_file

from eqnet.cli.main import main
from eqnet.spec.errors import CheckpointError, DataError, ProfileError, UsageError
from eqnet.stages.train.elastic import train
from eqnet.stages.train.recipe import load_recipe
from eqnet.stages.train.resume import FLOAT_FILE, read_log
from eqnet.supernet.checkpoint import load_supernet
from eqnet.supernet.session import open_session

RECIPES = Path(__file__).parents[3] / "recipes"


def pixels_of(path):
    """As INPUTS says, float32 [1, 24, 24]."""
    pixels = np.array(Image.open(path).resize((27, 24)), np.float32)[:, 1:25]
    return torch.from_numpy((pixels / 255 - 0.4) / 0.3)[None]


@pytest.fixture
def photographs(tmp_path):
    for index in range(30):
        picture(tmp_path / "photographs" / f"{index}.png", index)
    return tmp_path / "photographs"


@pytest.fixture
def own(tmp_path, photographs):
    """A recipe, and a network of one's own with its weights, that tells the photographs apart."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TUNING)
    net = randomize(SmallNet(10, in_channels=1))
    images = torch.stack([pixels_of(path) for path in sorted(photographs.iterdir())])
    with torch.no_grad():
        logits = net(images)
        factor = 2.0 / logits.std(0)
        net.head.weight.mul_(factor[:, None])
        net.head.bias.sub_(logits.mean(0)).mul_(factor)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    return recipe, net


def tune(own, photographs, out, **options):
    recipe, _ = own
    stated = {
        "model": "nets:SmallNet",
        "weights": recipe.with_name("weights.safetensors"),
        "data": photographs,
        "inputs": INPUTS,
        "allow_code": True,
        "device": "cpu",
    }
    return train(recipe, out, **{**stated, **options})


def logits_of(net, session):
    batches = session.batches(session.dataset.parity())
    with torch.no_grad():
        return batches, net(batches.images)


def test_unlabelled_images_distil_a_network_that_stays_known(own, photographs, tmp_path):
    summary = tune(own, photographs, tmp_path / "out")
    assert any("learns from the float model alone" in note for note in summary["notes"])
    assert summary["float_accuracy"] is None
    session = open_session(tmp_path / "out", allow_code=True)
    assert session.header.method == "fine_tuned"
    batches, exact = logits_of(own[1].eval(), session)
    kept = torch.from_numpy(session.float_logits(batches))
    torch.testing.assert_close(kept, exact, rtol=1e-3, atol=1e-3)
    session.supernet.apply_float()
    with torch.no_grad():
        trained = session.supernet.graph(batches.images)
    assert (trained - exact).abs().max() > 1e-2  # the weights themselves have moved


def test_training_brings_low_bits_closer_to_the_float_network(own, photographs, tmp_path):
    recipe, _ = own
    rates = "learning_rate: 2.0e-3\n  scale_learning_rate: 5.0e-3"
    recipe.write_text("augment: false" + TUNING.replace("learning_rate: 1.0e-3", rates))
    tune(own, photographs, tmp_path / "out", epochs=60)
    log = read_log(tmp_path / "out", 60)
    for group in ("random", "low"):
        first, last = (np.mean([row[group] for row in part]) for part in (log[:8], log[-8:]))
        assert last < 0.8 * first
    assert np.mean([row["high"] for row in log[-8:]]) < 0.05  # 8 bits stay close


def test_an_interrupted_fine_tuning_ends_as_one_that_was_not(own, photographs, tmp_path):
    tune(own, photographs, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        tune(own, photographs, tmp_path / "parts", progress=StopAfter(1))
    assert not (tmp_path / "parts" / FLOAT_FILE).exists()  # it has its weights already
    moved = tmp_path / "elsewhere"
    shutil.move(photographs, moved)
    tune(own, moved, tmp_path / "parts", resume=True)
    first, second = (load_file(tmp_path / n / "supernet.safetensors") for n in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_other_weights_do_not_go_on(own, photographs, tmp_path):
    with pytest.raises(InterruptedRunError):
        tune(own, photographs, tmp_path / "out", progress=StopAfter(1))
    other = tmp_path / "other.safetensors"
    save_file(randomize(SmallNet(10, in_channels=1), seed=9).state_dict(), other)
    with pytest.raises(CheckpointError, match="another recipe or seed"):
        tune(own, photographs, tmp_path / "out", weights=other, resume=True)


def test_a_recipe_may_name_everything(own, photographs, tmp_path):
    recipe, _ = own
    more = "model: nets:SmallNet\nweights: weights.safetensors\ndata: photographs\n"
    sizes = "inputs: {size: 24, resize: 24, channels: 1, mean: 0.4, std: 0.3}\n"
    recipe.write_text(TUNING + more + sizes)
    train(recipe, tmp_path / "named", device="cpu", allow_code=True)
    tune(own, photographs, tmp_path / "said")
    first, second = (load_file(tmp_path / n / "supernet.safetensors") for n in ("named", "said"))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    recipe.write_text(TUNING + more + sizes + f"weights_sha256: {'ab' * 32}\n")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: sha256 is"):
        train(recipe, tmp_path / "out", device="cpu", allow_code=True)
    recipe.write_text(TUNING + more + "inputs: {crop: 3}\n")
    with pytest.raises(ProfileError, match=r"recipe\.yaml: inputs: crop 3"):
        load_recipe(recipe)


def test_what_is_missing_is_one_line(own, photographs, tmp_path):
    recipe, _ = own
    with pytest.raises(UsageError, match="names no model"):
        train(recipe, tmp_path / "out", data=photographs, device="cpu")
    recipe.write_text(TUNING.replace("epochs: 0", "epochs: 1, batch: 5"))
    with pytest.raises(DataError, match="no labels of the network's classes"):
        tune(own, photographs, tmp_path / "out", weights=None)
    with pytest.raises(CheckpointError, match="cannot read"):
        tune(own, photographs, tmp_path / "out", weights=tmp_path / "none.pth")
    assert not (tmp_path / "out").exists()


def test_random_weights_are_said(own, photographs, tmp_path):
    options = {"model": "eqnet:mobilenet_small", "weights": None, "epochs": 1}
    summary = tune(own, photographs, tmp_path / "out", **options)
    assert "random weights" in summary["warning"]
    assert load_supernet(tmp_path / "out")[1].random_weights


SLOW = ("imagenet_efficientnet_b0.yaml", "imagenet_resnet50.yaml", "imagenet_vit_s.yaml")
QUICK = ("imagenet_mobilenet_v2.yaml", "imagenet_resnet18.yaml")


def test_every_recipe_for_imagenet_is_run():
    assert {path.name for path in RECIPES.glob("imagenet_*.yaml")} == {*SLOW, *QUICK}


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.full) for name in SLOW)]
)
def test_the_recipes_for_imagenet_run_on_a_folder(name, tmp_path, capsys):
    for part, images in (("train", 4), ("val", 2)):
        for label in ("cat", "dog"):
            for index in range(images):
                picture(tmp_path / "data" / part / label / f"{index}.png", index)
    out, recipe = tmp_path / "out", RECIPES / name
    size = "224" if "vit" in name else "32"
    command = ["train", "--recipe", str(recipe), "--data", str(tmp_path / "data"), "--json", "-q"]
    command += ["--out", str(out), "--epochs", "1", "--batch", "4", "--size", size]
    assert main([*command, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "random weights" in captured.err
    header = load_supernet(out)[1]
    assert header.classes == 2
    assert header.model == load_recipe(recipe).model
    assert header.test_images == "data test, 4 images"
