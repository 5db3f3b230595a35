"""Accuracy with scales that are powers of two against learned ones, at the same bits and form.

    python benchmarks/scales_table.py [--quick] [--json FILE] [--placement NAME]

Every subnet is measured on all test images after its batch norm statistics are recalibrated.
The difference has a 95% paired bootstrap interval over the images. Which scales are powers of
two, those of weights, of activations or of both, is a column each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from elastic_table import paired_interval

from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import Form, Granularity, Scales, Symmetry
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import PlacementStyle, uniform
from eqnet.supernet.measure import logits
from eqnet.supernet.session import Session, open_session

FORMS = (
    Form(activation_symmetry=Symmetry.SYMMETRIC),
    Form(weight_granularity=Granularity.PER_TENSOR, weight_symmetry=Symmetry.ASYMMETRIC),
)
KINDS = {
    "weights": (Scales.POWER_OF_TWO, Scales.FREE),
    "activations": (Scales.FREE, Scales.POWER_OF_TWO),
    "both": (Scales.POWER_OF_TWO, Scales.POWER_OF_TWO),
}
GOAL = 1.0
"""Points that powers of two everywhere may cost at 8 bits."""


def correct(session: Session, spec: SubnetSpec, images: int) -> np.ndarray:
    """Whether each test image is classified right, bool [N]."""
    session.settle(spec, session.calibration())
    batches = session.batches(session.dataset.test(), images)
    return (logits(session.supernet.graph, batches).argmax(1) == batches.labels).numpy()


def measure_all(
    session: Session, style: PlacementStyle, bits: list[int], images: int
) -> list[dict[str, Any]]:
    """One row for each form, bit-width and kind."""
    rng = np.random.default_rng(0)
    rows = []
    for form in FORMS:
        for width in bits:
            free = uniform(session.supernet.info, style, form, width, width)
            base = correct(session, free, images)
            rows.append(_row(form, width, "free", base, base, rng))
            for kind, (weights, activations) in KINDS.items():
                chosen = {"weight_scales": weights, "activation_scales": activations}
                found = correct(session, free.model_copy(update=chosen), images)
                rows.append(_row(form, width, kind, found, base, rng))
    return rows


def _row(
    form: Form, bits: int, kind: str, found: np.ndarray, base: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    made = {
        "form": form.label(),
        "bits": bits,
        "powers_of_two": kind,
        "accuracy": float(found.mean()),
        "difference": float(found.mean() - base.mean()) * 100,
        "interval": list(paired_interval(found, base, rng)),
    }
    print(json.dumps(made), flush=True)
    return made


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown: a row for each form and bit-width, a column for each kind."""
    print("\n| form | bits | learned scales | " + " | ".join(KINDS) + " |")
    print("|---|---|---|" + "---|" * len(KINDS))
    for start in range(0, len(rows), 1 + len(KINDS)):
        base, *others = rows[start : start + 1 + len(KINDS)]
        cells = [
            f"{row['accuracy'] * 100:.2f} ({row['difference']:+.2f}: "
            f"{row['interval'][0]:+.2f} to {row['interval'][1]:+.2f})"
            for row in others
        ]
        head = (
            f"| {base['form']} | W{base['bits']}A{base['bits']} | {base['accuracy'] * 100:.2f} | "
        )
        print(head + " | ".join(cells) + " |")


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 bits on 500 images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--placement", default="custom_pow2")
    arguments = parser.parse_args()
    style = PlacementStyle.of(load_profile(arguments.placement))
    bits = [8] if arguments.quick else [8, 4, 2]
    rows = measure_all(open_session(None), style, bits, 500 if arguments.quick else 10_000)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2))
    at_8 = [row for row in rows if row["bits"] == 8 and row["powers_of_two"] == "both"]
    worst = min(row["difference"] for row in at_8)
    print(f"\nlargest loss at W8A8: {-worst:.2f} points (goal: at most {GOAL})")


if __name__ == "__main__":
    main()
