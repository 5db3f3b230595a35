"""Images of every mode and shape become uint8 pixels as torchvision would, or one line says why."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from eqnet.backend.images import FORMATS, load_image, pixels_of, pixels_of_array
from eqnet.spec.errors import DataError
from eqnet.spec.manifest import Fit, Preprocessing

WIDTH, HEIGHT = 31, 22


def rules(channels: int = 3, size: tuple[int, int] = (16, 16), fit: Fit = "cover", **more: Any):
    half = (0.5,) * channels
    return Preprocessing(mean=half, std=half, size=size, fit=fit, **more)


def plain(channels: int = 3) -> Preprocessing:
    """Images of WIDTH x HEIGHT as they are."""
    return rules(channels, (HEIGHT, WIDTH), "squash")


def gradient() -> np.ndarray:
    """Every multiple of 8 in three channels, uint8 [HEIGHT, WIDTH, 3]."""
    across = np.linspace(0, 255, WIDTH).round()[None, :, None]
    down = np.linspace(255, 0, HEIGHT).round()[:, None, None]
    return np.concatenate(
        [across + 0 * down, down + 0 * across, (across + down) / 2], axis=2
    ).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def as_torchvision(path: Path) -> np.ndarray:
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "bmp"])
def test_every_mode_is_what_torchvision_reads(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    try:
        Image.fromarray(gradient()).convert(mode).save(path)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"{suffix} holds no {mode}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(path, plain()), as_torchvision(path))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, transparency):
    image = Image.fromarray(gradient()).quantize(64)
    path = saved(tmp_path / "image.png", image, transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(path, plain()), as_torchvision(path))
        alpha = load_image(path, plain(4))[3]
    assert alpha.min() < 255


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_gray_is_scaled(tmp_path, suffix):
    eight = gradient()[..., 0]
    path = saved(tmp_path / f"image.{suffix}", Image.fromarray(eight.astype(np.uint16) * 257))
    np.testing.assert_array_equal(load_image(path, plain(1))[0], eight)
    np.testing.assert_array_equal(load_image(path, plain())[2], eight)
    half = Image.fromarray(np.full((4, 4), 128 * 257 + 100, np.uint16))
    assert set(load_image(saved(path, half), rules(1)).ravel()) == {128}


def test_16_bit_gray_in_memory_is_scaled():
    eight = gradient()[..., 1]
    image = Image.fromarray(eight.astype(np.uint16) * 257)
    assert image.mode.startswith("I;16")
    np.testing.assert_array_equal(pixels_of(image, plain(1))[0], eight)


def test_16_bit_colour_is_scaled(tmp_path):
    """Written by hand: Pillow reads such files and writes none."""
    import struct
    import zlib

    wide = (gradient().astype(np.uint16) * 257).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    path = tmp_path / "image.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(load_image(path, plain()), gradient().transpose(2, 0, 1))


def test_floats_of_0_to_1_are_scaled_and_others_refused(tmp_path):
    eight = gradient()[..., 2]
    unit = eight.astype(np.float32) / np.float32(255)
    path = saved(tmp_path / "image.tif", Image.fromarray(unit))
    np.testing.assert_array_equal(load_image(path, plain(1))[0], eight)
    for values in (unit * 255, unit - 0.5, np.full_like(unit, np.nan)):
        saved(path, Image.fromarray(values))
        with pytest.raises(DataError, match=r"image\.tif: floats outside of 0 to 1"):
            load_image(path, plain())


def test_32_bit_integers_are_refused(tmp_path):
    path = saved(tmp_path / "image.tif", Image.fromarray(gradient()[..., 0].astype(np.int32)))
    with pytest.raises(DataError, match=r"image\.tif: integers of 32 bits \(allowed: 8 or 16"):
        load_image(path, plain())


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_gray_and_four_channels(tmp_path, mode):
    image = Image.fromarray(gradient())
    path = saved(tmp_path / "image.png", image.convert(mode))
    gray, four = load_image(path, plain(1)), load_image(path, plain(4))
    with Image.open(path) as stored:
        rgb = stored.convert("RGB")
    assert gray.shape == (1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(gray[0], np.asarray(rgb.convert("L")))
    np.testing.assert_array_equal(four[:3], np.asarray(rgb).transpose(2, 0, 1))
    assert (four[3] == 255).all()


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(DataError, match=r"2 channels .*allowed: 1, 3 or 4"):
        pixels_of(Image.new("RGB", (9, 9)), rules(2))


def test_exif_orientation_is_left_as_torchvision_and_timm_leave_it(tmp_path):
    image = Image.fromarray(gradient())
    turned = Image.Exif()
    turned[0x0112] = 6
    path = saved(tmp_path / "image.png", image, exif=turned)
    np.testing.assert_array_equal(load_image(path, plain()), gradient().transpose(2, 0, 1))


def test_arrays_are_read_as_the_images_that_they_are():
    image = gradient()
    for array in (image, image[..., :1], image[..., 0], image[..., [0, 0, 0, 1]]):
        flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        for channels in (1, 3, 4):
            chosen = rules(channels, resize=(20, 20), interpolation="bicubic")
            expected = pixels_of(Image.fromarray(flat), chosen)
            np.testing.assert_array_equal(pixels_of_array(array, chosen), expected)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 200_000)])
def test_a_strip_that_would_become_huge_is_refused(tmp_path, size):
    path = saved(tmp_path / "strip.png", Image.new("L", size))
    with pytest.raises(DataError, match=r"strip\.png: .* pixels become .*allowed: images less"):
        load_image(path, rules(3, (224, 224), resize=(256, 256)))
    squashed = load_image(path, rules(3, (224, 224), "squash"))
    assert squashed.shape == (3, 224, 224)


def test_narrow_images_are_still_read():
    image = Image.new("RGB", (1000, 8), (9, 8, 7))
    assert pixels_of(image, rules(3, (224, 224), resize=(256, 256))).shape == (3, 224, 224)


def test_only_formats_of_photographs_are_decoded(tmp_path):
    assert not set(FORMATS) & {"EPS", "PDF", "WMF", "FPX", "MPEG", "HDF5", "GRIB"}
    path = tmp_path / "program.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(DataError, match=r"program\.png: not a readable image"):
        load_image(path, plain())


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "image.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"image\.png: not a readable image: .*bomb"):
        load_image(path, plain())


@pytest.mark.parametrize("kind", [TypeError, MemoryError, KeyError])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, kind):
    path = saved(tmp_path / "image.png", Image.new("L", (10, 10)))

    def load(self):
        raise kind("'float' object cannot be interpreted as an integer")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(DataError, match=r"image\.png: not a readable image: "):
        load_image(path, plain())


def test_every_format_that_folders_are_searched_for_is_decoded(tmp_path):
    from eqnet.backend.images import SUFFIXES

    for suffix in SUFFIXES:
        if suffix == ".webp" and not features.check("webp"):
            continue
        image = Image.new("L" if suffix == ".pgm" else "RGB", (20, 20), 99)
        path = saved(tmp_path / f"image{suffix}", image)
        assert load_image(path, rules()).shape == (3, 16, 16)


def test_reading_images_imports_no_torch(tmp_path):
    path = saved(tmp_path / "image.png", Image.fromarray(gradient()))
    code = (
        "import sys, eqnet.runtime; assert 'PIL' not in sys.modules\n"
        "from pathlib import Path\n"
        "from eqnet.backend.images import load_image\n"
        "from eqnet.spec.manifest import Preprocessing\n"
        "load_image(Path(sys.argv[1]), Preprocessing(mean=(0.5,), std=(0.5,), size=(8, 8)))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_without_pillow_one_line_says_what_to_install(tmp_path, monkeypatch):
    from eqnet.spec.errors import MissingExtraError

    path = saved(tmp_path / "image.png", Image.fromarray(gradient()))
    monkeypatch.setitem(sys.modules, "PIL", None)
    for read in (lambda: load_image(path, plain()), lambda: pixels_of_array(gradient(), plain())):
        with pytest.raises(MissingExtraError, match=r"pip install 'eqnet\[images\]'"):
            read()
