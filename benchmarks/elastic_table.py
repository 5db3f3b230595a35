"""Accuracy of the supernet's uniform subnets: bits x weight forms x activation forms.

    python benchmarks/elastic_table.py [--quick] [--json FILE] [--placement NAME]

Every subnet is measured on all test images after its batch norm statistics are recalibrated.
Beside each accuracy stands its difference to the 8-bit subnet of the same form, with a 95%
paired bootstrap interval over the images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import BITS, Form, Granularity, Symmetry, all_forms
from eqnet.subnets.build import PAPER_STYLE, PlacementStyle, uniform
from eqnet.supernet.measure import logits
from eqnet.supernet.session import Session, open_session

RESAMPLES = 2000
GOAL = 1.0
"""Points that W2A2 may lose against W8A8."""


def correct(
    session: Session, style: PlacementStyle, form: Form, bits: int, images: int
) -> np.ndarray:
    """Whether each test image is classified right, bool [N]."""
    spec = uniform(session.supernet.info, style, form, bits, bits)
    session.settle(spec, session.calibration())
    batches = session.batches(session.dataset.test(), images)
    return (logits(session.supernet.graph, batches).argmax(1) == batches.labels).numpy()


def paired_interval(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95% interval of mean(a) - mean(b), in points."""
    difference = a.astype(np.float64) - b
    picks = rng.integers(0, len(difference), (RESAMPLES, len(difference)))
    low, high = np.percentile(difference[picks].mean(1) * 100, [2.5, 97.5])
    return float(low), float(high)


def measure_all(
    session: Session, style: PlacementStyle, bits: list[int], images: int
) -> list[dict[str, Any]]:
    """One row for each form and bit-width."""
    rng = np.random.default_rng(0)
    rows = []
    for form in all_forms():
        base = correct(session, style, form, 8, images)
        for width in bits:
            found = base if width == 8 else correct(session, style, form, width, images)
            low, high = paired_interval(found, base, rng)
            rows.append(
                {
                    "weights": f"{form.weight_granularity}:{form.weight_symmetry}",
                    "activations": str(form.activation_symmetry),
                    "bits": width,
                    "accuracy": float(found.mean()),
                    "difference": float(found.mean() - base.mean()) * 100,
                    "interval": [low, high],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def print_table(rows: list[dict[str, Any]], bits: list[int]) -> None:
    """Markdown: a row for each form, a column for each bit-width."""
    print("\n| weights | activations | " + " | ".join(f"W{b}A{b}" for b in bits) + " |")
    print("|---|---|" + "---|" * len(bits))
    for granularity in Granularity:
        for symmetry in Symmetry:
            for activation in Symmetry:
                weights = f"{granularity}:{symmetry}"
                cells = [
                    f"{row['accuracy'] * 100:.2f}"
                    + (f" ({row['difference']:+.2f})" if row["bits"] != 8 else "")
                    for row in rows
                    if (row["weights"], row["activations"]) == (weights, activation)
                ]
                print(f"| {weights} | {activation} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2, 4 and 8 bits on 500 images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--placement", default="custom_lowbit")
    parser.add_argument("--supernet", type=Path)
    arguments = parser.parse_args()
    named = arguments.placement
    style = PAPER_STYLE if named == "paper" else PlacementStyle.of(load_profile(named))
    bits = [2, 4, 8] if arguments.quick else list(BITS)
    session = open_session(arguments.supernet)
    rows = measure_all(session, style, bits, 500 if arguments.quick else 10_000)
    print_table(rows, bits)
    if arguments.json:
        arguments.json.write_text(json.dumps({"placement": named, "rows": rows}, indent=2))
    worst = min(row["difference"] for row in rows if row["bits"] == 2)
    print(f"\nlargest loss of W2A2 against W8A8: {-worst:.2f} points (goal: at most {GOAL})")


if __name__ == "__main__":
    main()
