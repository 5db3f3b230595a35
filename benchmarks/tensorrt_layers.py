"""What TensorRT's builder makes of the usual networks: int8 layers and weights memory.

    python benchmarks/tensorrt_layers.py [--quick] [--json FILE] [--nets NAME ...]

Networks of torchvision at 224 x 224 with random weights, exported for the profile
`tensorrt_int8` and built for each compute capability; no GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from eqnet.backend.discovery import find_exporter
from eqnet.models.loader import load_model
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import MODEL
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0")
SHAPE, CLASSES = (3, 224, 224), 1000
# Turing multiplies convolutions in float16, so the goal is asked of the later ones.
WITHOUT_INT8 = "SM75"


def build(net: str) -> dict[str, Any]:
    """The content of ``build.json`` of one network."""
    torch.manual_seed(0)
    supernet = Supernet(load_model(f"torchvision:{net}", classes=CLASSES, in_channels=3), SHAPE)
    images = torch.randn(2, *SHAPE)
    calibrate(supernet, [images])
    rules = load_profile("tensorrt_int8")
    spec = Target.of(supernet.info, rules).default("benchmark")
    supernet.apply(spec)
    supernet.recalibrate([images])
    exporter = find_exporter(rules.backend)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ir.save(exporter.lower(to_onnx(extract(supernet, spec), SHAPE), rules), folder / MODEL)
        exporter.finish(folder, rules)
        sums: dict[str, Any] = json.loads((folder / "build.json").read_text())
    return sums


def main() -> None:
    """Build, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="resnet18 only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--nets", nargs="+", default=NETS)
    arguments = parser.parse_args()
    made, left = {}, 0
    print("| net | engine | int8 layers | weights, bytes | expected | not int8, and why |")
    print("|---|---|---:|---:|---:|---|")
    for net in arguments.nets[: 1 if arguments.quick else None]:
        sums = made[net] = build(net)
        layers = sums["layers"]
        expected = sum(layer["bytes_expected"] for layer in layers)
        for engine in sums["engines"]:
            target = engine["target"]
            why = [text for layer in layers if (text := layer["why_not_int8"].get(target))]
            left += len(why) if target != WITHOUT_INT8 else 0
            reasons = "; ".join(f"{why.count(text)} x {text}" for text in dict.fromkeys(why))
            print(
                f"| {net} | {target} | {len(layers) - len(why)} of {len(layers)} "
                f"| {engine['weights_bytes']:,} | {expected:,} | {reasons} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(made, indent=2))
    print(f"\nlayers not in int8 from SM80 on: {left} (goal: 0)")


if __name__ == "__main__":
    main()
