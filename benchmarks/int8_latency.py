"""Latency of int8 artifacts against float32 of the same net in the same runtime.

    python benchmarks/int8_latency.py [--quick] [--json FILE] [--threads N]

Nets have random weights: latency does not depend on them. Quantized and float model run in
turns; the ratio is the median of paired ratios with a 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import strip_qdq
from eqnet.backend.machine.timing import in_turns, paired_ratio
from eqnet.models.loader import load_model
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

NETS = {
    "resnet20 28x28": ("eqnet:resnet20", (1, 28, 28), 10),
    "resnet18 224x224": ("torchvision:resnet18", (3, 224, 224), 1000),
    "mobilenet_v2 224x224": ("torchvision:mobilenet_v2", (3, 224, 224), 1000),
}
PROFILES = ("onnxruntime_x86", "openvino_asym")
WARM_UP = 10
GOAL = 1.0


def make_supernet(source: str, shape: tuple[int, int, int], classes: int) -> Supernet:
    """A calibrated supernet with random weights."""
    torch.manual_seed(0)
    model = load_model(source, classes=classes, in_channels=shape[0])
    supernet = Supernet(model, shape)
    calibrate(supernet, [torch.randn(4, *shape)])
    return supernet


def compare(supernet: Supernet, profile: str, threads: int, repeats: int) -> dict[str, Any]:
    """Ratio of int8 to float32 time, batch 1."""
    rules = load_profile(profile)
    exporter = find_exporter(rules.backend)
    spec = Target.of(supernet.info, rules).default("benchmark")
    shape = supernet.info.input_shape
    reference = to_onnx(extract(supernet, spec), shape)
    inputs = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for name, model in (
            ("int8", exporter.lower(reference, rules)),
            ("float32", strip_qdq(reference)),
        ):
            path = Path(scratch) / f"{name}.onnx"
            ir.save(model, path)
            runs.append(partial(exporter.open(path, threads=threads), inputs))
        int8, float32 = in_turns(runs, repeats, WARM_UP)
    ratio, interval = paired_ratio(int8, float32, np.random.default_rng(0))
    return {
        "runtime": exporter.runtime_version(),
        "int8_ms": float(np.median(int8)),
        "float32_ms": float(np.median(float32)),
        "ratio": ratio,
        "interval": list(interval),
    }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="resnet20 and resnet18, 50 pairs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    nets = dict(list(NETS.items())[: 2 if arguments.quick else None])
    rows = []
    print("| net | runtime | int8 / float32 | 95% interval |\n|---|---|---|---|")
    for name, net in nets.items():
        supernet = make_supernet(*net)
        for profile in PROFILES:
            row = compare(supernet, profile, arguments.threads, 50 if arguments.quick else 200)
            rows.append({"net": name, "profile": profile, **row})
            low, high = row["interval"]
            print(f"| {name} | {row['runtime']} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))
    worst = max(row["ratio"] for row in rows)
    print(f"\nslowest ratio int8 / float32: {worst:.2f} (goal: below {GOAL})")


if __name__ == "__main__":
    main()
