"""Parity of exported artifacts with PyTorch on every test image.

    python benchmarks/parity.py [--quick] [--json FILE] [--profiles A,B] [--nets NAME=WEIGHTS ...]

Without --nets the bundled ResNet-20 is exported. A net is a torchvision name with a file of
weights (`benchmarks/train_float.py` makes one); its supernet is made by post-training on the
bundled calibration images. PyTorch runs the extracted subnet, the runtime runs the artifact as
it is deployed, on the same images. A runtime that cannot execute here is left out by name.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from eqnet.backend.decisions import decide
from eqnet.backend.discovery import find_exporter
from eqnet.runtime import load
from eqnet.spec.hardware.load import builtin_profiles, load_profile
from eqnet.stages.export.export import export
from eqnet.stages.train.post_training import post_training
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import logits
from eqnet.supernet.session import open_session

BUNDLED = "eqnet:resnet20 (bundled)"
AGREEMENT, TRAINED_AGREEMENT, DROP = 0.997, 0.99, 0.1
RESAMPLES = 2000
BATCH = 64


@dataclass(frozen=True)
class Row:
    """Accuracies and agreement in [0, 1]; the drop's interval in points.

    float_accuracy: of the float model that the supernet began as.
    """

    net: str
    profile: str
    runtime: str
    images: int
    float_accuracy: float | None
    torch_accuracy: float
    accuracy: float
    agreement: float
    interval: tuple[float, float]

    def passed(self) -> bool:
        """Whether the row meets the goals."""
        wanted = AGREEMENT if self.net == BUNDLED else TRAINED_AGREEMENT
        return self.agreement >= wanted and self.torch_accuracy - self.accuracy <= DROP / 100


def paired_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of mean(a) - mean(b), in points."""
    difference = a.astype(np.float64) - b
    picks = np.random.default_rng(0).integers(0, len(difference), (RESAMPLES, len(difference)))
    low, high = np.percentile(difference[picks].mean(1) * 100, [2.5, 97.5])
    return float(low), float(high)


def compare(net: str, supernet: Path | None, profile: str, folder: Path, limit: int) -> Row:
    """Export for a profile, and run the test images through PyTorch and through the artifact."""
    artifact = folder / profile
    manifest = export(profile=profile, supernet=supernet, out=artifact, searches=folder / "none")
    session = open_session(supernet)
    images = session.batches(session.dataset.test(), limit)
    session.settle(manifest.subnet, session.calibration())
    expected = logits(extract(session.supernet, manifest.subnet), images).numpy()
    model = load(artifact)
    found = np.concatenate([model(batch.numpy()) for batch in torch.split(images.images, BATCH)])
    labels = images.labels.numpy()
    right, wanted = decide(found) == labels, decide(expected) == labels
    return Row(
        net,
        profile,
        model.runtime,
        len(labels),
        session.header.float_accuracy,
        float(wanted.mean()),
        float(right.mean()),
        float((decide(found) == decide(expected)).mean()),
        paired_interval(right, wanted),
    )


def make_supernet(name: str, weights: Path, folder: Path) -> Path:
    """A post-training supernet of a trained torchvision net on Fashion-MNIST."""
    out = folder / name
    post_training(model=f"torchvision:{name}", weights=weights, out=out, dataset="fashion_mnist")
    return out


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profiles", help="comma-separated; default: all that execute here")
    parser.add_argument("--nets", nargs="*", default=[], metavar="NAME=WEIGHTS")
    arguments = parser.parse_args()
    names = arguments.profiles.split(",") if arguments.profiles else builtin_profiles()
    rows = []
    print(
        "| net | profile | runtime | float | PyTorch subnet | artifact | difference | agreement |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        nets: list[tuple[str, Path | None]] = [
            (name, make_supernet(name, Path(weights), Path(scratch) / "supernets"))
            for name, weights in (net.split("=", 1) for net in arguments.nets)
        ]
        for net, supernet in nets or [(BUNDLED, None)]:
            for profile in names:
                exporter = find_exporter(load_profile(profile).backend)
                if (reason := exporter.unavailable()) is not None:
                    print(f"| {net} | {profile} | skipped: {reason} | | | | | |")
                    continue
                folder = Path(scratch) / net.replace("/", "_")
                limit = 1000 if arguments.quick else 10_000
                row = compare(net, supernet, profile, folder, limit)
                rows.append(row)
                low, high = row.interval
                print(
                    f"| {net} | {profile} | {row.runtime} | {row.float_accuracy or math.nan:.2%} "
                    f"| {row.torch_accuracy:.2%} | {row.accuracy:.2%} "
                    f"| {(row.accuracy - row.torch_accuracy) * 100:+.2f} "
                    f"({low:+.2f} to {high:+.2f}) "
                    f"| {row.agreement:.2%} |",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    short = [f"{row.net} {row.profile}" for row in rows if not row.passed()]
    print(
        f"\n{len(rows) - len(short)} of {len(rows)} rows agree with PyTorch on at least "
        f"{AGREEMENT:.1%} of the images ({TRAINED_AGREEMENT:.0%} for nets given) and lose at most "
        f"{DROP} points (goal: all{'; short: ' + ', '.join(short) if short else ''})"
    )


if __name__ == "__main__":
    main()
