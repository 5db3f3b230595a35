"""Fashion-MNIST: the splits and the slice that travels with eqnet; augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import one_line, plain_idx

from eqnet.data import open_dataset
from eqnet.data.augment import random_shift_flip
from eqnet.data.fashion_mnist import (
    BUNDLE,
    PARTS,
    SYSTEM_FOLDERS,
    FashionMnist,
    find_folder,
    open_fashion_mnist,
    split_indices,
)
from eqnet.data.idx import read_idx, write_idx
from eqnet.data.images import Images
from eqnet.data.make_bundle import make_bundle, pick
from eqnet.spec.errors import DataError, UsageError


def numbered(count: int) -> np.ndarray:
    """Images whose first pixels hold their number, so that a split can be read from them."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    return images


def numbers(images: Images) -> list[int]:
    pixels, _ = images.take(len(images))
    return (pixels[:, 0, 0, 0].astype(int) * 256 + pixels[:, 0, 0, 1]).tolist()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the full data's form: two files plain, two gzipped."""
    folder = tmp_path_factory.mktemp("data") / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    plain_idx(folder / PARTS[0], numbered(60_000))
    write_idx(folder / f"{PARTS[1]}.gz", (np.arange(60_000) % 10).astype(np.uint8))
    plain_idx(folder / PARTS[2], numbered(10_000))
    write_idx(folder / f"{PARTS[3]}.gz", (np.arange(10_000) % 10).astype(np.uint8))
    return folder


def test_full_data_splits_are_disjoint_and_fixed(full: Path) -> None:
    data = open_dataset("fashion_mnist", full.parents[1])
    train, validation = numbers(data.train()), numbers(data.validation())
    assert (len(train), len(validation), len(data.test())) == (55_000, 5_000, 10_000)
    assert sorted(train + validation) == list(range(60_000))
    # The split is part of every published number: these are its first members, for ever.
    assert validation[:3] == split_indices(0)[1][:3].tolist() == [14661, 39257, 8536]


def test_another_seed_is_another_split(full: Path) -> None:
    first = open_dataset("fashion_mnist", full, split_seed=0).validation()
    other = open_dataset("fashion_mnist", full, split_seed=1).validation()
    assert len(set(numbers(first)) & set(numbers(other))) < 1_000


def test_labels_stay_with_their_images(full: Path) -> None:
    images = open_dataset("fashion_mnist", full).train()
    _, labels = images.take(len(images))
    assert labels.dtype == np.int64
    assert labels.tolist() == [number % 10 for number in numbers(images)]


def test_only_the_bundled_slice() -> None:
    data = open_fashion_mnist(system=())
    assert (len(data.validation()), len(data.test())) == (1_000, 2_000)
    assert data.test().name == "fashion_mnist test slice, 2000 images"
    with pytest.raises(DataError, match=r"only the bundled slice.*dataset-fashion-mnist") as error:
        data.train()
    one_line(error)


def test_calibration_and_parity_do_not_depend_on_what_is_installed(full: Path) -> None:
    installed, bundled = open_dataset("fashion_mnist", full), open_fashion_mnist(system=())
    for part in ("calibration", "parity"):
        one, other = getattr(installed, part)(), getattr(bundled, part)()
        assert one.name == other.name
        for left, right in zip(one.take(99), other.take(99), strict=True):
            np.testing.assert_array_equal(left, right)
    assert len(bundled.calibration()) == 1_000
    assert len(bundled.parity()) == 2_000


@pytest.mark.parametrize("part", ["calibration", "validation", "test"])
def test_the_bundled_slice_is_balanced(part: str) -> None:
    images = getattr(open_fashion_mnist(system=()), part)()
    pixels, labels = images.take(len(images))
    assert pixels.shape == (len(images), 1, 28, 28)
    assert pixels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [len(images) // 10] * 10
    assert labels[:10].tolist() == list(range(10))


@pytest.mark.skipif(find_folder(None) is None, reason="the full Fashion-MNIST is not installed")
def test_the_bundle_is_what_its_script_makes(tmp_path: Path) -> None:
    source = find_folder(None, SYSTEM_FOLDERS)
    assert source is not None
    for path in make_bundle(source, tmp_path):
        dimensions = 3 if "images" in path.name else 1
        bundled = read_idx(BUNDLE / path.name, dimensions)
        np.testing.assert_array_equal(read_idx(path, dimensions), bundled)


def test_pick_draws_balanced_candidates_only() -> None:
    labels = np.arange(1_000, dtype=np.int64) % 10
    candidates = np.arange(200, 700, dtype=np.int64)
    chosen = pick(labels, candidates, 100, seed=3)
    assert len(set(chosen.tolist())) == 100
    assert set(chosen.tolist()) <= set(candidates.tolist())
    assert np.bincount(labels[chosen]).tolist() == [10] * 10


def test_batches_cover_all_images_in_order() -> None:
    images = open_fashion_mnist(system=()).calibration()
    batches = list(images.batches(300))
    assert [len(labels) for _, labels in batches] == [300, 300, 300, 100]
    pixels, labels = images.take(1_000_000)
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), pixels)
    np.testing.assert_array_equal(np.concatenate([batch for _, batch in batches]), labels)
    with pytest.raises(UsageError, match="batch size 0"):
        next(images.batches(0))


def test_a_reader_cannot_change_the_images() -> None:
    images = open_fashion_mnist(system=()).calibration()
    images.take(5)[0][:] = 0
    assert images.take(5)[0].any()


def test_unknown_dataset_lists_the_names() -> None:
    with pytest.raises(DataError, match=r"did you mean 'fashion_mnist'.*image_folder") as error:
        open_dataset("fashionmnist")
    one_line(error)


def test_wrong_folders_say_which_layout_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Fashion-MNIST files.*train-images-idx3-ubyte"):
        open_dataset("fashion_mnist", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_dataset("fashion_mnist", tmp_path / "none")
    for part in PARTS[:3]:
        (tmp_path / part).write_bytes(b"")
    with pytest.raises(DataError, match=f"{PARTS[3]} is missing") as error:
        open_dataset("fashion_mnist", tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (0, np.zeros((60_000, 2, 2)), "images of 2x2 pixels"),
        (2, np.zeros((3, 28, 28)), "10000 labels for 3 images"),
        (3, np.full(10_000, 10), "label 10 .allowed: 0 to 9"),
    ],
)
def test_foreign_content_is_refused(
    tmp_path: Path, full: Path, part: int, values: np.ndarray, message: str
) -> None:
    for path in full.iterdir():
        if not path.name.startswith(PARTS[part]):
            (tmp_path / path.name).symlink_to(path)
    plain_idx(tmp_path / PARTS[part], values)
    data = FashionMnist(tmp_path)
    with pytest.raises(DataError, match=message):
        (data.train if part < 2 else data.test)()


def test_shift_flip_equals_pad_crop_flip_of_each_image() -> None:
    x = torch.arange(64 * 2 * 5 * 6).reshape(64, 2, 5, 6).to(torch.float32)
    out = random_shift_flip(x, 2, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    seen = set()
    for image, source in zip(out, padded, strict=True):
        crops = {
            (top, left, flip): source[:, top : top + 5, left : left + 6].flip(2)
            if flip
            else source[:, top : top + 5, left : left + 6]
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
        }
        found = [key for key, crop in crops.items() if torch.equal(crop, image)]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 30  # of 50 equally likely ones, 64 draws hit 36 on average


def test_shift_flip_keeps_dtype_and_repeats_with_its_seed() -> None:
    x = torch.randint(256, (7, 1, 28, 28), generator=torch.Generator().manual_seed(1)).byte()
    one, other = (
        random_shift_flip(x, generator=torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert one.dtype == torch.uint8
    assert torch.equal(one, other)
    assert torch.equal(
        random_shift_flip(x, 0, generator=torch.Generator().manual_seed(2)).sum((1, 2, 3)),
        x.sum((1, 2, 3)),
    )
