"""Random parts of image files, as training reads them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from eqnet.data import open_dataset
from eqnet.data.random_crop import AREA, _draw
from eqnet.spec.manifest import Preprocessing

RULES = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, size=(16, 24), resize=(20, 30))


@pytest.fixture
def images(tmp_path):
    """Ten pictures whose red tells the column and whose green the row."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(120))
    blue = np.zeros_like(rows)
    for index in range(10):
        picture = np.stack([columns, rows, blue + 20 * index], -1).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    return open_dataset("image_folder", tmp_path, inputs=RULES).train()


def test_a_seed_gives_the_same_crops_in_whatever_blocks_they_are_read(images):
    crops = images.random_crops((3, 1))
    whole, labels = crops.read(0, len(images))
    assert whole.shape == (len(images), 3, 16, 24)
    parts = [crops.read(start, start + 2)[0] for start in range(0, len(images), 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (labels == -1).all()
    other = images.random_crops((3, 2)).read(0, len(images))[0]
    assert (other != whole).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(images.read(0, 6)[0][:, 2], images.read(0, 6)[0][:, 2])


def test_crops_are_parts_of_their_image_mirrored_half_of_the_time(images):
    mirrored, areas = [], []
    for seed in range(60):
        pixels, _ = images.random_crops((seed,)).read(0, 1)
        left, right = pixels[0, 0, 8, 0], pixels[0, 0, 8, -1]
        top, bottom = pixels[0, 1, 0, 12], pixels[0, 1, -1, 12]
        mirrored.append(left > right)
        assert bottom > top
        areas.append(abs(float(right) - float(left)) * float(bottom - top) / (200 * 120))
    assert 0.25 < np.mean(mirrored) < 0.75
    # Pixels' centres span less than the part itself.
    assert min(areas) > 0.7 * AREA[0]
    assert max(areas) > 0.6


def test_a_strip_too_narrow_for_any_ratio_gives_its_middle():
    box = _draw((400, 10), np.random.default_rng(0))
    assert box == (195.0, 0.0, 205.0, 10.0)


def test_images_of_one_stored_size_have_no_parts():
    assert open_dataset("fashion_mnist").calibration().random_crops((0,)) is None
