"""Post-training: a float model and a folder of images in, a supernet with all forms out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import SmallNet, TinyData
from torch import nn

from eqnet.data.registry import guess_dataset
from eqnet.spec.errors import CaptureError, CheckpointError, DataError, OutputError, UsageError
from eqnet.spec.scheme import Form
from eqnet.stages.train.post_training import post_training
from eqnet.subnets.build import PAPER_STYLE, uniform
from eqnet.supernet.checkpoint import load_supernet

MODEL = "nets:SmallNet"  # as a user's own module:callable


@pytest.fixture
def tiny(monkeypatch):
    """The tiny dataset in place of any other; returns the names that were asked for."""
    asked = []

    def fake(name, root):
        asked.append((name, root))
        return TinyData()

    monkeypatch.setattr("eqnet.stages.train.begin.start.open_dataset", fake)
    return asked


def weights_file(tmp_path, classes=10):
    torch.manual_seed(1)
    net = SmallNet(classes, in_channels=1).eval()
    path = tmp_path / f"weights{classes}.pth"
    torch.save(net.state_dict(), path)
    return path, net


def test_a_float_model_becomes_a_calibrated_supernet(tiny, tmp_path):
    path, net = weights_file(tmp_path)
    out = tmp_path / "out"
    summary = post_training(model=MODEL, allow_code=True, weights=path, out=out, images=20, seed=4)
    assert tiny == [("fashion_mnist", None)]
    assert "warning" not in summary
    assert summary["calibration_images"] == 20
    assert summary["test_images"] == "tiny test, 40 images"
    supernet, header, _ = load_supernet(out, allow_code=True)
    assert (header.method, header.seed, header.classes) == ("post_training", 4, 10)
    assert header.float_accuracy == summary["float_accuracy"]
    data = TinyData()
    pixels, labels = data.test().take(40)
    batch = (torch.from_numpy(pixels).float() / 255 - 0.3) / 0.4
    with torch.no_grad():
        exact = net(batch)
    right = (exact.argmax(1).numpy() == labels).mean()
    assert header.float_accuracy == header.float_parity_accuracy == pytest.approx(right)
    torch.testing.assert_close(supernet.graph(batch), exact, rtol=1e-4, atol=1e-4)
    supernet.apply(uniform(supernet.info, PAPER_STYLE, Form(), 8, 8))
    error = (supernet.graph(batch) - exact).abs().mean() / exact.abs().mean()
    assert 0 < error < 0.1
    assert [item.name for item in out.iterdir()] == ["supernet.safetensors"]


def test_random_weights_follow_the_seed_and_carry_a_warning(tiny, tmp_path):
    state = torch.random.get_rng_state()
    summary = post_training(model=MODEL, allow_code=True, out=tmp_path / "a", images=4, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "random weights" in summary["warning"]
    post_training(model=MODEL, allow_code=True, out=tmp_path / "b", images=4, seed=1)
    post_training(model=MODEL, allow_code=True, out=tmp_path / "c", images=4, seed=2)
    a, b, c = (load_supernet(tmp_path / name, allow_code=True)[2] for name in "abc")
    assert a == b
    assert a != c


def test_weights_say_how_many_classes_there_are(tiny, tmp_path):
    path, _ = weights_file(tmp_path, classes=7)
    summary = post_training(
        model=MODEL, allow_code=True, weights=path, out=tmp_path / "out", images=4
    )
    assert summary["float_accuracy"] is None
    assert "7 classes and the data 10" in summary["warning"]
    assert load_supernet(tmp_path / "out", allow_code=True)[1].classes == 7


class HeadFirst(nn.Module):
    """A head that is registered before what it reads, and an input that is changed in place."""

    def __init__(self, classes=10, in_channels=1):
        super().__init__()
        self.fc, self.conv = nn.Linear(8, classes), nn.Conv2d(in_channels, 8, 3, stride=2)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        x -= 0.5
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("classes", [7, 10])
def test_the_classes_are_found_wherever_the_head_stands(tiny, tmp_path, classes):
    path = tmp_path / "weights.pth"
    torch.save(HeadFirst(classes).state_dict(), path)
    out = tmp_path / "out"
    summary = post_training(
        model=f"{__name__}:HeadFirst", allow_code=True, weights=path, out=out, images=4
    )
    assert load_supernet(out, allow_code=True)[1].classes == classes
    assert ("warning" in summary) == (classes == 7)


def test_weights_of_another_width_are_refused_by_their_own_shape(tiny, tmp_path):
    path, net = weights_file(tmp_path)
    torch.save({**net.state_dict(), "stem.weight": torch.zeros(9, 1, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"stem.weight: shape \[9, 1, 3, 3\]"):
        post_training(model=MODEL, allow_code=True, weights=path, out=tmp_path / "out")


def test_foreign_weights_and_unusable_values_are_refused(tiny, tmp_path):
    path, net = weights_file(tmp_path)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not weights of this model"):
        post_training(model=MODEL, allow_code=True, weights=path, out=tmp_path / "out")
    with torch.no_grad():
        net.head.weight.fill_(3e38)
    torch.save(net.state_dict(), path)
    with pytest.raises(CheckpointError, match="not finite"):
        post_training(model=MODEL, allow_code=True, weights=path, out=tmp_path / "out")
    with pytest.raises(UsageError, match="0 images"):
        post_training(model=MODEL, allow_code=True, out=tmp_path / "out", images=0)
    assert not (tmp_path / "out").exists()


def test_a_capture_that_changes_the_function_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("eqnet.supernet.float_checks.MAX_DIFFERENCE", -1.0)
    with pytest.raises(CaptureError, match="another function"):
        post_training(model=MODEL, allow_code=True, out=tmp_path / "out", images=4)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        post_training(model=MODEL, allow_code=True, out=tmp_path / "file" / "x", images=4)
    assert "\n" not in str(caught.value)


def test_a_folder_says_which_dataset_it_holds(tmp_path):
    assert guess_dataset(None) == "fashion_mnist"
    with pytest.raises(DataError, match="no such folder"):
        guess_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no data found"):
        guess_dataset(tmp_path)
    (tmp_path / "raw").mkdir()
    assert guess_dataset(tmp_path) == "fashion_mnist"
    (tmp_path / "cat").mkdir()
    assert guess_dataset(tmp_path) == "image_folder"
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert guess_dataset(tmp_path / "idx") == "fashion_mnist"


def test_a_real_image_folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(5):
            pixels = rng.integers(0, 256, (230, 230, 3), np.uint8)
            image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    summary = post_training(
        model=MODEL, allow_code=True, data=tmp_path / "data", out=tmp_path / "out", images=2
    )
    header = load_supernet(tmp_path / "out", allow_code=True)[1]
    assert (header.dataset, header.classes, header.input_shape) == (
        "image_folder",
        2,
        (3, 224, 224),
    )
    assert header.data_root == str((tmp_path / "data").resolve())
    assert summary["calibration_images"] == 2
