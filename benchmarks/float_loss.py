"""What post-training costs against the float network, on every test image of Fashion-MNIST.

    python benchmarks/float_loss.py NAME=WEIGHTS ... [--quick] [--json FILE] [--work DIR]

A net is a torchvision name with a file of weights (`benchmarks/train_float.py` makes one). All
its subnets come from one supernet, made from the bundled calibration images: W8A8 in every form,
and W4A8 with a scale for each channel. Accuracies are PyTorch's, of what is exported; the interval
of a drop is a paired bootstrap over images. The goal is GOALS, in points.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fidelity import Interval, paired_drop
from parity import make_supernet

from eqnet.cli.options import parse_bits
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import Form, Granularity, all_forms
from eqnet.subnets.build import PAPER_STYLE, PlacementStyle, uniform
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import logits
from eqnet.supernet.session import open_session

GOALS = {"w8a8": 0.3, "w4a8": 1.0}
ELSEWHERE = 0.5  # at 8 bits, of networks that are not named
NAMED = ("resnet18", "mobilenet_v2")
IMAGES, QUICK_IMAGES = 10_000, 1000


@dataclass(frozen=True)
class Row:
    """Accuracies in [0, 1]; the drop, float minus subnet, and its 95% interval in points."""

    net: str
    bits: str
    form: str
    images: int
    float_accuracy: float
    accuracy: float
    drop: float
    interval: Interval

    def goal(self) -> float | None:
        """Points that may be lost, or None where nothing was asked."""
        if self.net in NAMED:
            return GOALS[self.bits]
        return ELSEWHERE if self.bits == "w8a8" else None

    def short(self) -> bool:
        """Whether more is lost."""
        goal = self.goal()
        return goal is not None and self.drop > goal


def cases(quick: bool) -> Iterator[tuple[str, Form]]:
    """Bits and form of each subnet; the usual form alone when in a hurry."""
    for form in [Form()] if quick else all_forms():
        yield "w8a8", form
        if form.weight_granularity is Granularity.PER_CHANNEL:
            yield "w4a8", form


def measure(
    net: str, supernet: Path, style: PlacementStyle, limit: int, quick: bool
) -> Iterator[Row]:
    """One row for each subnet of a supernet."""
    session = open_session(supernet)
    images = session.batches(session.dataset.test(), limit)
    calibration, labels = session.calibration(), images.labels.numpy()
    session.supernet.apply_float()
    truth = logits(session.supernet.graph, images).numpy().argmax(1) == labels
    for bits, form in cases(quick):
        spec = uniform(session.supernet.info, style, form, *parse_bits(bits))
        session.settle(spec, calibration)
        found = logits(extract(session.supernet, spec), images).numpy().argmax(1) == labels
        drop, interval = paired_drop(found, truth)
        yield Row(
            net,
            bits,
            form.label(),
            len(labels),
            float(truth.mean()),
            float(found.mean()),
            drop,
            interval,
        )


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="+", metavar="NAME=WEIGHTS")
    parser.add_argument("--quick", action="store_true", help="1,000 images, one form")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help="folder that keeps the supernets")
    parser.add_argument("--placement", default="paper", help="a profile whose quantizers are used")
    arguments = parser.parse_args()
    rows: list[Row] = []
    style = PAPER_STYLE
    if arguments.placement != "paper":
        style = PlacementStyle.of(load_profile(arguments.placement))
    print("| net | bits | form | float | subnet | drop, points | goal |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.work or Path(scratch)
        for name, weights in (net.split("=", 1) for net in arguments.nets):
            supernet = folder / name
            if not supernet.is_dir():
                make_supernet(name, Path(weights), folder)
            limit = QUICK_IMAGES if arguments.quick else IMAGES
            for row in measure(name, supernet, style, limit, arguments.quick):
                rows.append(row)
                low, high = row.interval
                print(
                    f"| {row.net} | {row.bits} | {row.form} | {row.float_accuracy:.2%} "
                    f"| {row.accuracy:.2%} | {row.drop:+.2f} ({low:+.2f} to {high:+.2f}) "
                    f"| {row.goal() or ''}{' short' if row.short() else ''} |",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    judged = [row for row in rows if row.goal() is not None]
    worst = max(judged, key=lambda row: row.drop - (row.goal() or 0), default=None)
    told = f"; furthest from its goal: {worst.net} {worst.bits} {worst.form}" if worst else ""
    print(
        f"\n{sum(not row.short() for row in judged)} of {len(judged)} subnets lose no more than "
        f"their goal{told}{f' {worst.drop:+.2f}' if worst else ''} (goal: all)"
    )


if __name__ == "__main__":
    main()
