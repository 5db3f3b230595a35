"""Real work in a fresh environment, whose Python runs this file: `install_smoke.py JOB ...`.

    install_smoke.py board ARTIFACT...    verify, time and call artifacts; nothing may bring torch
    install_smoke.py train                export and verify the bundled supernet
    install_smoke.py report ARTIFACT...   a page about artifacts
    install_smoke.py all                  that, post-training, search, OpenVINO, a report
    install_smoke.py images ARTIFACT...   an artifact called with a picture file
    install_smoke.py import MODULE...     nothing but imports

It imports nothing that eqnet's own installation does not bring, writes into the current folder
and ends with a traceback where anything is not as it should be.
"""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import eqnet

EQNET = Path(sys.executable).with_name("eqnet")
MISSING_EXTRA = 10
QUICK = ["--images", "16", "--no-reconstruct"]
SHORT = ["--generations", "2", "--population", "8"]
RESNET20 = ["--model", "eqnet:resnet20", "--channels", "1", "--size", "28"]


def call(*arguments: str, code: int = 0) -> str:
    """What the installed command prints; it must end with `code`."""
    command = [str(EQNET), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != code:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise SystemExit(f"eqnet {' '.join(arguments)}: {done.returncode}: {told[-1:]}")
    return done.stdout


def verify(artifact: str) -> None:
    """The artifact passes in its real runtime; a check that was skipped is not enough."""
    verdict = json.loads(call("verify", artifact, "--json"))["verdict"]
    assert verdict == "passed", f"{artifact}: {verdict}"


def infer(artifact: str) -> None:
    """One numpy image of zeros gives one row of finite logits."""
    model = eqnet.load(artifact)
    shape = model.manifest.model.input_shape
    logits = model(np.zeros((1, *shape), np.uint8))
    assert logits.shape[0] == 1
    assert np.isfinite(logits).all()


def board(*artifacts: str) -> None:
    """The deployment side, which works without torch and says what is missing for the rest."""
    assert find_spec("torch") is None, "torch is installed"
    assert "verify" in call("--help")
    assert "onnxruntime_x86" in call("profiles", "list")
    for artifact in artifacts:
        verify(artifact)
        timed = json.loads(call("bench", artifact, "--repeats", "5", "--json"))
        assert timed["ratio"] > 0
        infer(artifact)
    call("export", "--profile", "onnxruntime_x86", code=MISSING_EXTRA)


def train() -> str:
    """An artifact of the bundled supernet, made and verified here."""
    artifact = "artifacts/onnxruntime_avx2"
    call("export", "--profile", "onnxruntime_avx2", "--no-race", "-q")
    verify(artifact)
    return artifact


def pictures(folder: Path) -> Path:
    """A folder of 32 images of noise, 28 x 28 grey values."""
    from PIL import Image

    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 28, 28), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def images(*artifacts: str) -> None:
    """Artifacts called with a file."""
    path = pictures(Path("pictures")) / "0.png"
    for artifact in artifacts:
        logits = eqnet.load(artifact)(str(path))
        assert math.isfinite(float(logits.sum()))


def report(*artifacts: str) -> None:
    """A page that stands alone."""
    call("report", *artifacts, "--out", "report.html")
    assert "<html" in Path("report.html").read_text(encoding="utf-8")


def everything() -> None:
    """What the extra `all` is for; the network of random weights is not verified."""
    artifact = train()
    images(artifact)
    own, data = ["--supernet", "mine"], ["--data", "pictures"]
    call("train", "--post-training", *RESNET20, *data, *QUICK, "--out", "mine", "-q")
    call("search", *own, *data, "--profile", "custom_lowbit_w4a8", *SHORT, "-q")
    call("export", *own, *data, "--profile", "openvino_avx2", "--no-race", "-q")
    report(artifact, "artifacts/openvino_avx2", "runs/search/custom_lowbit_w4a8")


def imports(*modules: str) -> None:
    """Every module is there."""
    for name in modules:
        importlib.import_module(name)


JOBS: dict[str, Callable[..., object]] = {
    "board": board,
    "train": train,
    "all": everything,
    "images": images,
    "report": report,
    "import": imports,
}

if __name__ == "__main__":
    installed = Path(eqnet.__file__).resolve()
    assert Path(sys.prefix).resolve() in installed.parents, f"not the installed eqnet: {installed}"
    JOBS[sys.argv[1]](*sys.argv[2:])
