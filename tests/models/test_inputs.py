"""How images become inputs: what the user says, what the network says, and where it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifacts import profile, rewrite, write_artifact
from graphs import residual_net
from nets import SmallNet
from PIL import Image
from torch import nn

from eqnet.backend.artifact import read_manifest
from eqnet.backend.images import load_image
from eqnet.backend.preprocess import preprocess
from eqnet.cli.main import main
from eqnet.cli.options import parse_inputs
from eqnet.data import open_dataset
from eqnet.data.images import ArrayImages
from eqnet.data.registry import guess_dataset
from eqnet.models.inputs import IMAGENET, InputConfig
from eqnet.runtime import load
from eqnet.spec.errors import (
    CaptureError,
    CheckpointError,
    DataError,
    UsageError,
)
from eqnet.spec.inputs import Inputs
from eqnet.spec.manifest import Preprocessing
from eqnet.stages.export.export import export
from eqnet.stages.train.begin.inputs import choose_inputs
from eqnet.stages.train.post_training import post_training
from eqnet.stages.verify import verify
from eqnet.supernet.checkpoint import Header, load_supernet
from eqnet.supernet.session import open_session

MODEL = "nets:SmallNet"


class Gray(nn.Module):
    """A network for gray images alone, of 20 x 24 pixels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (20, 24):
            raise ValueError(f"images of {list(x.shape[2:])}")
        return self.head(self.stem(x).relu().mean((2, 3)))


class Configured(SmallNet):
    """A network that carries its configuration as timm's do."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(classes)
        self.pretrained_cfg = {
            "input_size": (3, 40, 40),
            "crop_pct": 0.8,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "fixed_input_size": True,
        }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of 50 x 40 pixels without classes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        pixels = np.random.RandomState(index).randint(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def trained(
    photos: Path, out: Path, model: str = MODEL, **options: Any
) -> tuple[dict[str, Any], Header]:
    options = {"images": 4, **options}
    summary = post_training(model=model, allow_code=True, data=photos, out=out, **options)
    return summary, load_supernet(out, allow_code=True)[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": "224"}, Inputs(size=224)),
        ({"size": "96x128"}, Inputs(size=(96, 128))),
        ({"size": " 96 X 128 "}, Inputs(size=(96, 128))),
        ({"resize": "256", "mean": "0.5"}, Inputs(resize=256, mean=(0.5,))),
        ({"mean": "127/255", "std": "128/255"}, Inputs(mean=(127 / 255,), std=(128 / 255,))),
        ({"mean": "0.1,0.2, 0.3"}, Inputs(mean=(0.1, 0.2, 0.3))),
        ({"std": "0.1 0.2 0.3"}, Inputs(std=(0.1, 0.2, 0.3))),
        ({"crop": 0.9, "channels": 4}, Inputs(crop=0.9, channels=4)),
        ({"interpolation": "lanczos"}, Inputs(interpolation="lanczos")),
        ({}, Inputs()),
    ],
)
def test_options_are_parsed(options, expected):
    assert parse_inputs(**options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "big"}, r"--size: found 'big' \(allowed: N or HxW"),
        ({"size": "3x4x5"}, "--size: found"),
        ({"size": "0"}, r"size 0 \(allowed: 1 to 4096"),
        ({"size": "90000"}, r"size 90000 \(allowed: 1 to 4096"),
        ({"mean": "a"}, "--mean: found 'a'"),
        ({"mean": ""}, "--mean: found ''"),
        ({"mean": "1/0"}, "--mean: found '1/0'"),
        ({"mean": "127"}, r"mean 127 .*127/255 is 0.498"),
        ({"mean": "nan"}, "mean nan"),
        ({"std": "0"}, r"std 0 \(allowed: above 0"),
        ({"std": "58.4"}, r"std 58.4 .*58.4/255 is 0.229"),
        ({"mean": "0.1,0.2", "channels": 3}, "2 means or deviations for 3 channels"),
        ({"crop": 0.0}, "crop 0 "),
        ({"crop": 1.5}, "crop 1.5 "),
        ({"crop": 0.9, "resize": "256"}, "crop and resize"),
        ({"channels": 2}, r"2 channels \(allowed: 1, 3 or 4\)"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UsageError, match=message) as error:
        parse_inputs(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [224.0, "224", (3, 4, 5), (224,), (8, -1), 0])
def test_sizes_in_python_are_whole_numbers(size):
    with pytest.raises(UsageError, match=r"size .*allowed: 1 to 4096 pixels, or \(H, W\)"):
        Inputs(size=size)


TIMM = InputConfig("timm", (240, 240), 0.9, (0.5,) * 3, (0.5,) * 3, "bicubic", "squash", True)


@pytest.mark.parametrize(
    ("config", "inputs", "changes"),
    [
        (TIMM, Inputs(), {}),
        (TIMM, Inputs(size=120), {"size": (120, 120), "resize": (133, 133)}),
        (TIMM, Inputs(crop=1), {"resize": (240, 240)}),
        (TIMM, Inputs(resize=300), {"resize": (300, 300), "fit": "cover"}),
        (TIMM, Inputs(resize=(300, 310)), {"resize": (300, 310), "fit": "squash"}),
        (TIMM, Inputs(mean=0.25), {"mean": (0.25,) * 3}),
        (TIMM, Inputs(std=(0.1, 0.2, 0.3)), {"std": (0.1, 0.2, 0.3)}),
        (TIMM, Inputs(interpolation="nearest"), {"interpolation": "nearest"}),
        (IMAGENET, Inputs(size=(96, 128)), {"size": (96, 128), "resize": (109, 146)}),
        (IMAGENET, Inputs(size=192), {"size": (192, 192), "resize": (219, 219)}),
    ],
)
def test_the_user_overrides_the_configuration_value_by_value(config, inputs, changes):
    assert choose_inputs(config, inputs).rules == config.rules().model_copy(update=changes)


def test_contradictions_are_told():
    assert choose_inputs(TIMM, Inputs()).warnings == ()
    assert "240 x 240 and no other size" in choose_inputs(TIMM, Inputs(size=100)).warnings[0]
    assert "averaged from 3" in choose_inputs(TIMM, Inputs(channels=1)).warnings[0]
    assert choose_inputs(TIMM, Inputs(channels=1, mean=0.5, std=0.5)).warnings == ()
    assert "reads 1 channel, not 3" in choose_inputs(IMAGENET, Inputs(channels=3), 1).warnings[0]
    with pytest.raises(UsageError, match="resize 200 x 200 is smaller than the input"):
        choose_inputs(TIMM, Inputs(resize=200))
    with pytest.raises(UsageError, match="4 means or deviations for 3 channels"):
        choose_inputs(TIMM, Inputs(mean=(0.1, 0.2, 0.3, 0.4)))


def test_a_flat_folder_calibrates_and_the_choice_is_told(photos, tmp_path):
    summary, header = trained(photos, tmp_path / "out", inputs=Inputs(size=32, crop=0.8))
    expected = IMAGENET.rules().model_copy(update={"size": (32, 32), "resize": (40, 40)})
    assert header.preprocessing == expected
    assert Preprocessing.model_validate(summary["inputs"]) == expected
    assert summary["inputs_from"] == "ImageNet's usual preparation, but for size, crop"
    assert (summary["float_accuracy"], summary["test_images"]) == (None, None)
    assert "no labels" in summary["notes"][0]
    assert (header.input_shape, header.classes) == ((3, 32, 32), 5)
    json.dumps(summary, allow_nan=False)


def test_the_library_says_what_its_networks_read(photos, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("eqnet.stages.train.post_training.calibrate", lambda *arguments: None)
    summary, header = trained(
        photos, tmp_path / "out", "timm:test_convnext", inputs=Inputs(size=64), images=1
    )
    assert header.input_shape == (3, 64, 64)
    assert header.preprocessing.mean == (0.5, 0.5, 0.5)
    assert header.preprocessing.resize == (67, 67)
    assert header.preprocessing.interpolation == "bicubic"
    assert summary["inputs_from"].startswith("timm's configuration of test_convnext.")
    assert summary["inputs_from"].endswith(", but for size")


def test_a_network_that_carries_a_configuration_is_obeyed(photos, tmp_path):
    summary, header = trained(photos, tmp_path / "out", f"{__name__}:Configured")
    rules = header.preprocessing
    assert (rules.size, rules.resize, rules.interpolation) == ((40, 40), (50, 50), "bicubic")
    assert summary["inputs_from"] == "the network's pretrained_cfg"
    summary, header = trained(
        photos, tmp_path / "other", f"{__name__}:Configured", inputs=Inputs(size=32)
    )
    assert "40 x 40 and no other size, not 32 x 32" in summary["warning"]
    assert header.input_shape == (3, 32, 32)


def test_the_first_convolution_says_how_many_channels(photos, tmp_path):
    summary, header = trained(
        photos, tmp_path / "out", f"{__name__}:Gray", inputs=Inputs(size=(20, 24))
    )
    assert header.input_shape == (1, 20, 24)
    assert "averaged" in summary["warning"]
    with pytest.raises(CaptureError, match=r"reads 1 channel, not 3") as error:
        trained(
            photos, tmp_path / "no", f"{__name__}:Gray", inputs=Inputs(size=(20, 24), channels=3)
        )
    assert "\n" not in str(error.value)
    with pytest.raises(CaptureError, match=r"shape \[1, 1, 20, 20\]: images of \[20, 20\] .*size"):
        trained(photos, tmp_path / "no", f"{__name__}:Gray", inputs=Inputs(size=20))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_weights_say_how_many_channels(photos, tmp_path, channels):
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(SmallNet(7, in_channels=channels).state_dict(), path)
    _, header = trained(photos, tmp_path / "out", weights=path, inputs=Inputs(size=24))
    assert (header.input_shape, header.classes) == ((channels, 24, 24), 7)
    pixels, _ = open_session(tmp_path / "out", photos, allow_code=True).dataset.test().take(2)
    assert pixels.shape == (2, channels, 24, 24)
    with pytest.raises(CheckpointError, match=rf"reads {channels} channels? .*allowed: "):
        trained(
            photos,
            tmp_path / "no",
            weights=path,
            inputs=Inputs(size=24, channels=4 if channels != 4 else 1),
        )


def test_images_that_are_stored_take_a_mean_and_no_size(tmp_path):
    options: dict[str, Any] = {"model": MODEL, "allow_code": True, "images": 4}
    summary = post_training(
        **options, out=tmp_path / "a", dataset="fashion_mnist", inputs=Inputs(mean=0.5, std=0.5)
    )
    header = load_supernet(tmp_path / "a", allow_code=True)[1]
    assert (header.preprocessing.mean, header.preprocessing.std) == ((0.5,), (0.5,))
    assert summary["inputs_from"] == "the data set fashion_mnist, but for mean, std"
    assert open_session(tmp_path / "a", allow_code=True).dataset.preprocessing.mean == (0.5,)
    with pytest.raises(DataError, match=r"1 x 32 x 32 \(allowed: 1 x 28 x 28"):
        post_training(**options, out=tmp_path / "b", inputs=Inputs(size=32))


def test_a_folder_of_pictures_is_guessed(tmp_path):
    (tmp_path / "photo.JPG").write_bytes(b"")
    assert guess_dataset(tmp_path) == "image_folder"
    stray = tmp_path / "stray"
    (stray / "__MACOSX").mkdir(parents=True)
    with pytest.raises(DataError, match="no data found"):
        guess_dataset(stray)


def test_one_image_goes_the_whole_way(photos, tmp_path):
    """Train, export, verify and run: the same preprocessing everywhere, from a single image."""
    alone = tmp_path / "alone"
    alone.mkdir()
    image = alone / "0.png"
    image.write_bytes((photos / "0.png").read_bytes())
    inputs = Inputs(size=(24, 28), resize=(30, 40), interpolation="bicubic", mean=0.5, std=0.25)
    summary, header = trained(alone, tmp_path / "out", inputs=inputs)
    assert "1 image: too few" in summary["notes"][0]
    folder = tmp_path / "artifact"
    export(
        profile="onnxruntime_x86",
        supernet=tmp_path / "out",
        out=folder,
        allow_code=True,
        searches=tmp_path / "none",
    )
    assert read_manifest(folder).preprocessing == header.preprocessing
    report = verify(folder, data=alone)
    checks = {check.name: check for check in report.checks}
    assert checks["test_accuracy_drop"].verdict == "skipped"
    assert "no labels" in checks["test_accuracy_drop"].reason
    assert (report.test_accuracy, report.test_images) == (None, None)
    model = load(folder)
    stored = open_session(tmp_path / "out", allow_code=True).dataset.parity().take(1)[0]
    np.testing.assert_array_equal(
        model.inputs(image), preprocess(stored, read_manifest(folder).preprocessing)
    )


def test_search_and_eval_without_labels_go_by_the_float_model(photos, tmp_path, capsys):
    trained(photos, tmp_path / "out", inputs=Inputs(size=24))
    supernet = ["--supernet", str(tmp_path / "out"), "--allow-code", "-q"]
    assert main(["eval", "--bits", "w8a8", *supernet, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["judge"] == "float model"
    session = open_session(tmp_path / "out", allow_code=True)
    assert session.judge(session.dataset.test()) == "float model"
    batches = session.judged(session.dataset.test())
    session.supernet.apply_float()
    with torch.no_grad():
        expected = session.supernet.graph(batches.images).argmax(1)
    assert batches.labels.tolist() == expected.tolist()
    assert main(["eval", "--bits", "w2a2", *supernet]) == 0
    assert "agreement with the float model" in capsys.readouterr().out
    search = ["search", "--profile", "onnxruntime_x86", "--out", str(tmp_path / "found")]
    assert main([*search, *supernet, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["judge"] == "float model"


def test_labels_of_other_classes_are_not_used(tmp_path):
    """Two folders for a network of five classes: the float model judges."""
    for name in ("cat", "dog"):
        place = tmp_path / "data" / name
        place.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (30, 30), (index, 9, 9)).save(place / f"{index}.png")
    path = tmp_path / "weights.pth"
    torch.save(SmallNet(5).state_dict(), path)
    _, header = trained(tmp_path / "data", tmp_path / "out", weights=path, inputs=Inputs(size=24))
    session = open_session(tmp_path / "out", allow_code=True)
    assert (header.classes, len(session.dataset.classes)) == (5, 2)
    assert session.judge(session.dataset.validation()) == "float model"


def test_a_trained_supernet_needs_labels():
    session = open_session(None)
    assert session.judge(session.dataset.test()) == "labels"
    images = ArrayImages("blind", np.zeros((2, 1, 28, 28), np.uint8), np.full(2, -1))
    with pytest.raises(DataError, match=r"blind, 2 images: they have no labels"):
        session.judged(images)


def test_verify_takes_no_labels_of_other_classes(tmp_path):
    folder = tmp_path / "artifact"
    write_artifact(folder, residual_net(), profile(), dataset="image_folder")
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (20, 20), (index, 9, 9)).save(
                tmp_path / "data" / name / f"{index}.png"
            )
    report = verify(folder, data=tmp_path / "data", threads=1)
    check = next(item for item in report.checks if item.name == "test_accuracy_drop")
    assert check.verdict == "skipped"
    assert "2 classes, the network has 10" in check.reason


def test_the_runtime_prepares_images_as_calibration_did(artifact, tmp_path):
    rewrite(
        artifact,
        preprocessing={
            "mean": [0.5, 0.4, 0.6],
            "std": [0.25, 0.3, 0.2],
            "size": [8, 8],
            "resize": [10, 10],
            "interpolation": "bicubic",
        },
    )
    model = load(artifact, threads=1)
    paths = []
    for index, mode in enumerate(("RGB", "L", "RGBA", "CMYK")):
        pixels = np.random.RandomState(index).randint(0, 256, (33, 21, 3), np.uint8)
        paths.append(tmp_path / f"{mode}.tif")
        Image.fromarray(pixels).convert(mode).save(paths[-1])
    rules = model.manifest.preprocessing
    expected = preprocess(np.stack([load_image(path, rules) for path in paths]), rules)
    np.testing.assert_array_equal(model.inputs(paths), expected)
    np.testing.assert_array_equal(model.inputs([str(path) for path in paths]), expected)
    images = [Image.open(path) for path in paths]
    np.testing.assert_array_equal(model.inputs(images), expected)
    np.testing.assert_array_equal(model(tuple(images)), model(expected))
    for index in range(3):  # Pillow's modes that arrays can say
        array = np.asarray(images[index])
        np.testing.assert_array_equal(model.inputs(array), expected[index : index + 1])
        np.testing.assert_array_equal(model.inputs(array[None]), expected[index : index + 1]) if (
            array.ndim == 3
        ) else None
    np.testing.assert_array_equal(model(images[0]), model(expected[:1]))


@pytest.mark.parametrize("wrong", [[], b"image", 3, [np.zeros((8, 8, 3))], np.zeros((2, 5, 5, 9))])
def test_the_runtime_says_what_an_image_may_be(artifact, wrong):
    with pytest.raises(UsageError, match="allowed: uint8 pixels or normalized float32") as error:
        load(artifact)(wrong)
    assert "\n" not in str(error.value)


def test_the_runtime_names_files_that_are_no_images(artifact, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        load(artifact)(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        load(artifact)(tmp_path / "none.png")


def test_artifacts_of_before_are_read_as_they_were_made(artifact):
    """They say no size: image folders were cropped out of 256 / 224, stored images were not."""
    assert "size" in json.loads((artifact / "manifest.json").read_text())["preprocessing"]
    rewrite(artifact, preprocessing={"mean": [0.5] * 3, "std": [0.2] * 3})
    manifest = read_manifest(artifact)
    assert (manifest.inputs.size, manifest.inputs.resize) == ((8, 8), None)
    folder = manifest.model_copy(
        update={"model": manifest.model.model_copy(update={"dataset": "image_folder"})}
    )
    assert (folder.inputs.size, folder.inputs.resize) == ((8, 8), (9, 9))
    assert load(artifact).inputs(np.zeros((30, 20, 3), np.uint8)).shape == (1, 3, 8, 8)


def test_supernets_of_before_take_the_usual_inputs_of_their_data():
    assert load_supernet(None)[1].preprocessing is None
    assert open_session(None).dataset.preprocessing == open_dataset().preprocessing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [9, 8]}, r"size \[9, 8\] \(allowed: \[8, 8\]"),
        ({"resize": [9, 8]}, "resize without size"),
        ({"size": [8, 8], "interpolation": "cubic"}, "interpolation"),
        ({"size": [8, 0]}, "size"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_one_line(artifact, changes, message):
    from eqnet.spec.errors import ArtifactError

    rewrite(artifact, preprocessing={"mean": [0.5] * 3, "std": [0.2] * 3, **changes})
    with pytest.raises(ArtifactError, match=message) as error:
        load(artifact)
    assert "\n" not in str(error.value)


def test_the_command_line_tells_what_was_chosen(photos, tmp_path, capsys):
    arguments = [
        "train",
        "--post-training",
        "--model",
        MODEL,
        "--allow-code",
        "--data",
        str(photos),
        "--size",
        "24",
        "--mean",
        "127/255",
        "--std",
        "0.5",
        "--images",
        "2",
        "-q",
    ]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inputs"]["size"] == [24, 24]
    assert told["inputs"]["mean"] == [127 / 255] * 3
    assert told["inputs_from"] == "ImageNet's usual preparation, but for size, mean, std"
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    captured = capsys.readouterr()
    assert "3 x 24 x 24: shorter side to 27, bilinear, center crop" in captured.out
    assert "note: the images have no labels" in captured.err


def test_what_is_post_trainings_alone_has_no_meaning_for_a_recipe(capsys):
    assert main(["train", "--out", "x", "--recipe", "a.yaml", "--images", "9"]) == 2
    assert "--images has no meaning" in capsys.readouterr().err
