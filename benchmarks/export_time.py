"""Time and memory of `eqnet export`, one fresh process for each profile.

    python benchmarks/export_time.py [--quick] [--json FILE] [--net SOURCE] [--profiles NAME ...]

The supernet is made once, by post-training on two images with random weights; that is not
counted. Counted is everything that `eqnet export` does for an image folder of twenty images:
interpreter, imports, loading the supernet, batch norm statistics on its 12 calibration images,
the ONNX graph, 4 parity images in PyTorch and in ONNX Runtime, and the target's own files (for
TensorRT the float16 twin and every engine). More images take longer in proportion, in the two
stages `settle` and `parity` alone. CPU seconds and memory include the second process that builds
TensorRT engines.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NET, QUICK_NET = "torchvision:resnet50", "torchvision:resnet18"
PROFILES = ("onnxruntime_x86", "openvino_asym", "tensorrt_int8", "custom_pow2")
STAGES = ("import", "load", "settle", "graph", "parity", "backend", "write")
IMAGES, SIDE = 20, 256
MAX_SECONDS, MAX_MIB = 15.0, 3072


class Timer:
    """A progress listener that notes when each stage of an export begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "load", time.perf_counter()

    def _next(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def start(self, task: str, total: int | None) -> None:
        """The session is open."""
        self._next("settle")

    def advance(self, n: int = 1, **info: float | str) -> None:
        """A stage is over."""
        self._next(str(info.get("stage", "write")))

    def finish(self) -> None:
        """The artifact is in its place."""
        self._next("end")


def make_images(root: Path) -> None:
    """Two classes of random images."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        folder = root / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def make_supernet(net: str, work: Path) -> None:
    """A post-training supernet with random weights in `work`/supernet."""
    from eqnet.stages.train.post_training import post_training

    make_images(work / "images")
    post_training(model=net, data=work / "images", out=work / "supernet", images=2)


def export_once(work: Path, profile: str) -> None:
    """In a process of its own: export, and print stages and peak memory as JSON."""
    began = time.perf_counter()
    from eqnet.stages.export.export import export

    imported = time.perf_counter() - began
    timer = Timer()
    export(profile=profile, supernet=work / "supernet", out=work / "made" / profile, progress=timer)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = {"import": imported, **timer.seconds}
    result = {
        "stages": {name: seconds[name] for name in STAGES},
        "cpu_seconds": sum(part.ru_utime + part.ru_stime for part in used),
        "peak_mib": sum(part.ru_maxrss for part in used) / 1024,
    }
    print(json.dumps(result))
    atexit.register(gc.freeze)  # as the command line does


def measure(work: Path, profile: str) -> dict[str, Any]:
    """One export in a fresh process: its stages, its wall time and its peak memory."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", profile, "--work", str(work)],
        check=True,
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - began
    return {"profile": profile, "seconds": wall, **json.loads(done.stdout.splitlines()[-1])}


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    stages = " | ".join(f"{row['stages'][name]:.1f}" for name in STAGES)
    sums = f"{row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['peak_mib']:.0f}"
    print(f"| {row['profile']} | {stages} | {sums} |", flush=True)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="resnet18")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--net", help=f"default {NET}")
    parser.add_argument("--profiles", nargs="+", default=PROFILES)
    parser.add_argument("--work", type=Path, help="keep the supernet here, and use it again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        export_once(arguments.work, arguments.child)
        return
    net = arguments.net or (QUICK_NET if arguments.quick else NET)
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        if not (work / "supernet").is_dir():
            make_supernet(net, work)
        print(f"{net}, seconds by stage\n")
        print(f"| profile | {' | '.join(STAGES)} | all | CPU | peak MiB |")
        print("|---|" + "---:|" * (len(STAGES) + 3))
        rows = []
        for profile in arguments.profiles:
            rows.append(measure(work, profile))
            print_row(rows[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps({"net": net, "rows": rows}, indent=2))
    slowest = max(row["seconds"] for row in rows)
    largest = max(row["peak_mib"] for row in rows)
    print(
        f"\nslowest export: {slowest:.1f} s (goal: below {MAX_SECONDS:g}), "
        f"peak memory: {largest:.0f} MiB (goal: below {MAX_MIB})"
    )


if __name__ == "__main__":
    main()
