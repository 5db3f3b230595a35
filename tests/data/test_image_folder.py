"""Image folders: the layouts, the splits, and pixels equal to torchvision's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eqnet.backend.images import load_image
from eqnet.data import Images, open_dataset
from eqnet.data.folders import _problem_of
from eqnet.spec.errors import DataError
from eqnet.spec.manifest import Preprocessing


def write_image(path: Path, width: int, height: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.RandomState(seed).randint(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)


def fill(folder: Path, per_class: int, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for label, name in enumerate(classes):
        for index in range(per_class):
            write_image(folder / name / f"{index}.png", 40, 36, 100 * label + index)


def rules(resize: int, crop: int, channels: int = 3) -> Preprocessing:
    half = (0.5,) * channels
    return Preprocessing(mean=half, std=half, size=(crop, crop), resize=(resize, resize))


def paths(images: Images) -> set[Path]:
    return {entry.path for entry in images._entries}  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(256, 256), (300, 400), (401, 300), (500, 257), (100, 61), (256, 300), (333, 999)],
)
def test_pixels_equal_torchvision(tmp_path: Path, width: int, height: int, suffix: str) -> None:
    from torchvision import transforms

    path = tmp_path / f"image{suffix}"
    write_image(path, width, height, width + height)
    reference = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    )
    with Image.open(path) as image:
        expected = reference(image.convert("RGB")).numpy()
    np.testing.assert_array_equal(load_image(path, rules(256, 224)), expected)


@pytest.mark.parametrize(("resize", "crop"), [(65, 64), (33, 32), (64, 33), (41, 41)])
def test_other_sizes_equal_torchvision(tmp_path: Path, resize: int, crop: int) -> None:
    from torchvision import transforms

    path = tmp_path / "image.png"
    write_image(path, 91, 67, 5)
    reference = transforms.Compose(
        [transforms.Resize(resize), transforms.CenterCrop(crop), transforms.PILToTensor()]
    )
    with Image.open(path) as image:
        expected = reference(image.convert("RGB")).numpy()
    np.testing.assert_array_equal(load_image(path, rules(resize, crop)), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_colour_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    write_image(tmp_path / "rgb.png", 20, 20, 0)
    with Image.open(tmp_path / "rgb.png") as image:
        image.convert(mode).save(path)
    assert load_image(path, rules(16, 16)).shape == (3, 16, 16)


def test_train_and_val(tmp_path: Path) -> None:
    fill(tmp_path / "train", 30)
    fill(tmp_path / "val", 5)
    data = open_dataset("image_folder", tmp_path, inputs=rules(32, 24))
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 24, 24)
    train, validation, test = (paths(i) for i in (data.train(), data.validation(), data.test()))
    assert (len(train), len(validation), len(test)) == (54, 6, 10)
    assert not train & validation
    assert all("val" in path.parts for path in test)
    assert paths(data.calibration()) <= train
    assert paths(data.parity()) == test
    pixels, labels = data.test().take(100)
    assert pixels.shape == (10, 3, 24, 24)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5
    assert data.test().name == f"{tmp_path.name} test, 10 images"


def test_one_folder_is_divided(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    data = open_dataset("image_folder", tmp_path)
    parts = [paths(images) for images in (data.train(), data.validation(), data.test())]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20
    assert paths(data.calibration()) <= parts[0]


def test_the_seed_fixes_the_split(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    one, same, other = (
        open_dataset("image_folder", tmp_path, split_seed=seed).validation() for seed in (0, 0, 1)
    )
    assert paths(one) == paths(same) != paths(other)


def test_labels_belong_to_their_files(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    data = open_dataset("image_folder", tmp_path, inputs=rules(30, 30))
    images = data.train()
    _, labels = images.take(12)
    names = [entry.path.parent.name for entry in images._entries]  # type: ignore[attr-defined]
    assert [data.classes[label] for label in labels] == names


def test_a_class_list_gives_the_order_of_the_model(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    (tmp_path / "classes.txt").write_text("bird\ndog\ncat\n")
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ("bird", "dog", "cat")
    entries = data.train()._entries  # type: ignore[attr-defined]
    assert {(entry.path.parent.name, entry.label) for entry in entries} == {("dog", 1), ("cat", 2)}


@pytest.mark.parametrize(
    ("text", "message"),
    [("cat\ncat\n", "'cat' is there twice"), ("\n", "empty"), ("cat\ndig\n", "folder 'dog'.*dig")],
)
def test_a_wrong_class_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    fill(tmp_path, 5)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset("image_folder", tmp_path)


def test_a_class_that_training_does_not_have_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", 10)
    fill(tmp_path / "val", 2, ("cat", "fish"))
    with pytest.raises(DataError, match="unknown class folder 'fish'"):
        open_dataset("image_folder", tmp_path)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:120])
    images = open_dataset("image_folder", tmp_path).train()
    with pytest.raises(DataError, match=r"(cat|dog)/\d\.png: not a readable image") as error:
        images.take(4)
    assert "\n" not in str(error.value)


def test_a_text_file_named_jpg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"image\.jpg: not a readable image"):
        load_image(path, rules(32, 32))


def test_wrong_folders_say_which_layout_is_allowed(tmp_path: Path) -> None:
    for root, message in ((None, "no folder given"), (tmp_path / "none", "no such folder")):
        with pytest.raises(DataError, match=f"{message}.*CLASS"):
            open_dataset("image_folder", root)
    with pytest.raises(DataError, match=r"no images found.*CLASS"):
        open_dataset("image_folder", tmp_path)


def layout(root: Path, *names: str) -> None:
    """Small images at these paths below `root`; a name that ends in a slash is an empty folder."""
    for index, name in enumerate(names):
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        else:
            write_image(root / name, 20, 18, index)


def many(*folders: str, count: int = 10) -> list[str]:
    return [f"{folder}/{index}.png" for folder in folders for index in range(count)]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    layout(tmp_path, *many("photos"))
    data = open_dataset("image_folder", tmp_path / "photos")
    assert data.classes == ()
    parts = [paths(images) for images in (data.train(), data.validation(), data.test())]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len(set.union(*parts)) == 10
    pixels, labels = data.calibration().take(3)
    assert pixels.shape == (3, 3, 224, 224)
    assert labels.tolist() == [-1, -1, -1]
    assert data.notes == ()


def test_one_folder_in_a_folder_is_no_class(tmp_path: Path) -> None:
    layout(tmp_path, *many("photos"), "notes.png")
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ()
    assert set(data.train().take(9)[1]) == {-1}
    assert data.notes == (f"not read, beside the class folders of {tmp_path.name}/: notes.png",)


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val", "VALID"])
def test_validation_and_test_folders_are_known(tmp_path: Path, validation: str) -> None:
    layout(tmp_path, *many("train/a", "train/b", f"{validation}/a", f"{validation}/b"))
    data = open_dataset("image_folder", tmp_path)
    assert data.notes == ()
    assert all(validation in path.parts for path in paths(data.test()))
    assert all("train" in path.parts for path in paths(data.validation()) | paths(data.train()))
    layout(tmp_path, *many("test/a", "test/b", count=3))
    data = open_dataset("image_folder", tmp_path)
    sizes = [len(part()) for part in (data.train, data.validation, data.test, data.parity)]
    assert sizes == [20, 20, 6, 6]
    assert all("test" in path.parts for path in paths(data.test()) | paths(data.parity()))
    assert all(validation in path.parts for path in paths(data.validation()))
    assert all("train" in path.parts for path in paths(data.calibration()))


def test_validation_and_test_alone(tmp_path: Path) -> None:
    layout(tmp_path, *many("valid/a", "valid/b", "test/a", "test/b"))
    data = open_dataset("image_folder", tmp_path)
    assert all("test" in path.parts for path in paths(data.test()))
    assert all("valid" in path.parts for path in paths(data.validation()) | paths(data.train()))
    assert not paths(data.validation()) & paths(data.train())
    assert "no train/" in data.notes[0]


def test_training_images_alone_are_divided_and_it_is_said(tmp_path: Path) -> None:
    layout(tmp_path, *many("train/a", "train/b"))
    data = open_dataset("image_folder", tmp_path)
    parts = [paths(images) for images in (data.train(), data.validation(), data.test())]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20
    assert "only train/ is there" in data.notes[0]
    assert "may have been trained on them" in data.notes[0]


def test_test_images_without_labels_beside_labelled_training(tmp_path: Path) -> None:
    layout(tmp_path, *many("train/a", "train/b", "test"))
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ("a", "b")
    assert set(data.train().take(20)[1]) == {0, 1}
    assert set(data.test().take(20)[1]) == {-1}


def test_flat_parts(tmp_path: Path) -> None:
    layout(tmp_path, *many("train", "val"))
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ()
    assert all("val" in path.parts for path in paths(data.test()))


def test_a_class_of_trains_is_a_class(tmp_path: Path) -> None:
    layout(tmp_path, *many("car", "ship", "train"))
    assert open_dataset("image_folder", tmp_path).classes == ("car", "ship", "train")


def test_folders_beside_the_parts_are_told(tmp_path: Path) -> None:
    layout(tmp_path, *many("train/a", "train/b", "val/a", "val/b", "extra"), "cover.png")
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ("a", "b")
    assert data.notes == ("not read, beside train, val: extra, cover.png",)


def test_two_spellings_of_a_part_are_refused(tmp_path: Path) -> None:
    layout(tmp_path, *many("train/a", "train/b", "val/a", "valid/b"))
    with pytest.raises(DataError, match=r"val and valid are there \(allowed: one of them\)"):
        open_dataset("image_folder", tmp_path)
    shutil.rmtree(tmp_path / "val")
    layout(tmp_path, *many("Train/a", count=1))
    with pytest.raises(DataError, match=r"Train and train are there \(allowed: one of them\)"):
        open_dataset("image_folder", tmp_path)


def test_stray_folders_are_no_classes(tmp_path: Path) -> None:
    layout(
        tmp_path,
        *many("cat", "dog"),
        "__MACOSX/cat/._0.png",
        "__MACOSX/real.png",
        ".cache/x.png",
        "@eaDir/thumb.png",
        "empty/",
        "lost+found/",
        "cat/._0.png",
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("no image")
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.train()) + len(data.validation()) + len(data.test()) == 20
    assert data.notes == (f"no classes, since without images in {tmp_path.name}/: empty, texts",)


def test_a_class_that_training_lacks_has_its_place(tmp_path: Path) -> None:
    layout(tmp_path, *many("train/a", "train/c", "val/a", "val/b", "val/c"), "train/b/")
    assert open_dataset("image_folder", tmp_path).classes == ("a", "b", "c")


def test_images_below_a_class_belong_to_it(tmp_path: Path) -> None:
    layout(tmp_path, *many("cat/2024/may", "cat/2025", "dog"))
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    data = open_dataset("image_folder", tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.train()) + len(data.validation()) + len(data.test()) == 30


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("folders", [("",), ("cat", "dog")])
def test_a_few_images_serve_everything_without_labels(
    tmp_path: Path, count: int, folders: tuple[str, ...]
) -> None:
    layout(tmp_path, *(f"{folders[i % len(folders)]}/{i}.png".lstrip("/") for i in range(count)))
    data = open_dataset("image_folder", tmp_path)
    assert "too few to hold some out" in data.notes[-1]
    for part in (data.validation(), data.test(), data.parity()):
        assert paths(part) == paths(data.train())
        assert set(part.take(9)[1]) == {-1}
    assert len(data.calibration()) == count


def test_one_training_image_is_enough(tmp_path: Path) -> None:
    layout(tmp_path, "train/a/0.png", *many("val/a", "val/b", count=2), "train/b/")
    data = open_dataset("image_folder", tmp_path)
    assert len(data.train()) == len(data.validation()) == 1
    assert data.validation().take(1)[1].tolist() == [-1]
    assert sorted(data.test().take(9)[1].tolist()) == [0, 0, 1, 1]


def test_other_inputs_are_the_same_images(tmp_path: Path) -> None:
    layout(tmp_path, *many("a", "b"))
    data = open_dataset("image_folder", tmp_path)
    other = data.with_inputs(rules(40, 32, channels=1))
    assert (data.input_shape, other.input_shape) == ((3, 224, 224), (1, 32, 32))
    assert paths(data.test()) == paths(other.test())
    assert other.train().take(2)[0].shape == (2, 1, 32, 32)


def test_stored_images_take_no_other_shape() -> None:
    data = open_dataset("fashion_mnist")
    half = Preprocessing(mean=(0.5,), std=(0.5,))
    assert data.with_inputs(half).preprocessing == half
    assert data.preprocessing != half
    with pytest.raises(DataError, match=r"1 x 32 x 32 \(allowed: 1 x 28 x 28, as its images"):
        data.with_inputs(rules(32, 32, channels=1))


class Counted(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_a_long_list_of_classes_is_gone_through_once():
    names = [Counted(f"class {index}") for index in range(2000)]
    Counted.compared = 0
    assert _problem_of(names) is None
    assert Counted.compared < 2 * len(names)
    assert _problem_of([*names, Counted("class 7")]) == "'class 7' is there twice"
