"""Latency of our artifacts against the vendors' own int8 quantizers and the float model.

    python benchmarks/export_latency.py [--quick] [--json FILE] [--work DIR [--build-only]]

ONNX Runtime: `quantize_static` (U8S8 and S8S8, per-channel QDQ) and float32. OpenVINO: NNCF
(presets PERFORMANCE and MIXED, with float32 and with bfloat16 for what stays in float), float32
and bfloat16. All of one row run in turns, each timed call after one of its own; ratios are
medians of paired ratios with a 95% bootstrap interval. Ours is the subnet that was fastest in a
short race before, as in a search by measured cost; --default takes the profile's default subnet.
Built models stay in --work; with --json, rows that the file has already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import peers

from eqnet.backend.machine.timing import in_turns, paired_ratio
from eqnet.spec.hardware.load import load_profile

NETS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf")
QUICK_NETS = ("resnet18", "mobilenet_v2")
PROFILES = ("onnxruntime_x86", "openvino_asym")
WARM_UP = 3
LEAST, MOST, RACE = 15, 200, 9
ROW_GOAL, MEAN_GOAL = 1.03, 1.00


def fastest(folder: Path, ours: list[peers.Contestant], batch: int, threads: int) -> Any:
    """The quickest of our subnets in a short race of its own."""
    if len(ours) == 1:
        return ours[0]
    inputs = peers.images(batch)
    runs = [partial(one.open(folder, threads), inputs) for one in ours]
    medians = [float(np.median(times)) for times in in_turns(runs, RACE, 1)]
    return ours[int(np.argmin(medians))]


def measure(
    folder: Path, runtime: str, batch: int, threads: int, seconds: float, only_default: bool
) -> dict[str, Any]:
    """One row of the table."""
    known = [one for one in peers.read(folder) if one.runtime == runtime]
    ours = [one for one in known if one.role == "ours"]
    if only_default:
        ours = [one for one in ours if one.name.endswith(": default")]
    entered = [fastest(folder, ours, batch, threads), *(o for o in known if o.role != "ours")]
    inputs = peers.images(batch)
    runs = [partial(one.open(folder, threads), inputs) for one in entered]
    start = time.perf_counter()
    in_turns(runs, 1, WARM_UP)
    per_round = (time.perf_counter() - start) / (WARM_UP + 1)
    repeats = int(np.clip(seconds / per_round, LEAST, MOST))
    samples = in_turns(runs, repeats, WARM_UP)
    medians = [float(np.median(times)) for times in samples]
    row = {
        "net": folder.name,
        "runtime": runtime,
        "batch": batch,
        "threads": threads,
        "ours": entered[0].name,
        "repeats": repeats,
        "ms": {one.name: value for one, value in zip(entered, medians, strict=True)},
    }
    for role in ("int8", "float"):
        rivals = [index for index, one in enumerate(entered) if one.role == role]
        best = min(rivals, key=lambda index: medians[index])
        ratio, interval = paired_ratio(samples[0], samples[best], np.random.default_rng(0))
        row[role] = {"name": entered[best].name, "ratio": ratio, "interval": list(interval)}
    return row


def rows(
    arguments: argparse.Namespace, work: Path, done: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Build what is missing and measure what is not done, until the time is up."""
    started = time.perf_counter()
    for net in arguments.nets:
        folder = work / net
        made = {one.profile for one in peers.read(folder)}
        if arguments.again or not made.issuperset(arguments.profiles):
            peers.build(net, folder, arguments.profiles, whole_space=not arguments.default)
            print(f"built {net}: {len(peers.read(folder))} contestants", flush=True)
        if arguments.build_only:
            continue
        for key in product(arguments.runtimes, arguments.batch, arguments.threads):
            late = time.perf_counter() - started > arguments.limit
            if (net, *key) not in done and not late:
                yield measure(folder, *key, arguments.seconds, arguments.default)


def line(row: dict[str, Any]) -> str:
    """A row of the printed table."""
    cells = [row["net"], row["runtime"], row["batch"], row["threads"]]
    cells.append(f"{row['ms'][row['ours']]:.2f} ({row['ours']})")
    for role in ("int8", "float"):
        best = row[role]
        low, high = best["interval"]
        cells.append(f"{row['ms'][best['name']]:.2f} ({best['name']})")
        cells.append(f"{best['ratio']:.2f} [{low:.2f}, {high:.2f}]")
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def verdict(found: Sequence[dict[str, Any]]) -> str:
    """The figure against the goal."""
    if not found:
        return "no row measured"
    ratios = [row["int8"]["ratio"] for row in found]
    mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
    slower = sum(row["float"]["ratio"] >= 1 for row in found)
    return (
        f"ours / best int8 peer over {len(found)} rows: slowest {max(ratios):.3f} "
        f"(goal <= {ROW_GOAL}), geometric mean {mean:.3f} (goal <= {MEAN_GOAL:.2f}); "
        f"rows not below the best float: {slower} (goal 0)"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two nets, batch 1, 2 threads")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help="folder that keeps the built models")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--again", action="store_true", help="build ours anew; peers stay")
    parser.add_argument("--default", action="store_true", help="only the default subnets")
    parser.add_argument("--nets", nargs="+", default=list(NETS), help="torchvision names")
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES))
    parser.add_argument("--runtimes", nargs="+", choices=list(peers.OPENERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--limit", type=float, default=math.inf, help="begin no row after it, s")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.nets, arguments.batch, arguments.threads = list(QUICK_NETS), [1], [2]
        arguments.default, arguments.seconds = True, 5.0
    if not arguments.runtimes:
        backends = {load_profile(profile).backend for profile in arguments.profiles}
        arguments.runtimes = [name for name in peers.OPENERS if name in backends]
    return arguments


def main() -> None:
    """Build, measure, print, save."""
    arguments = parse()
    saved = arguments.json is not None and arguments.json.is_file()
    found = json.loads(arguments.json.read_text()) if saved else []
    done = {(row["net"], row["runtime"], row["batch"], row["threads"]) for row in found}
    print(
        "| net | runtime | batch | threads | ours, ms | best int8 peer, ms | ratio [95%] "
        "| best float, ms | ratio [95%] |\n|---|---|---|---|---|---|---|---|---|"
    )
    for row in found:
        print(line(row))
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows(arguments, arguments.work or Path(scratch), done):
            found.append(row)
            print(line(row), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=2))
    print(f"\n{verdict(found)}")


if __name__ == "__main__":
    main()
