"""What an export takes without a search, over the float model's time: before the race and after.

    python benchmarks/race_table.py [--nets NAME ...] [--profiles NAME ...]

torchvision nets with random weights at 224 x 224, batch and threads of the profile. The float model
runs in the fastest precision that the runtime has here (OpenVINO: bfloat16 where the CPU has it).
Last line: the slowest of what was taken, whose ratio is not to be above 1.
"""

from __future__ import annotations

import argparse
import datetime
import time
from types import SimpleNamespace
from typing import Any

import peers

from eqnet.backend.machine.host import describe_host
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import DEFAULT
from eqnet.spec.progress import Silent
from eqnet.stages.export.export import checked_exporter
from eqnet.stages.export.race import can_race, race
from eqnet.subnets.target import Target

NETS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf")
PROFILES = ("onnxruntime_x86", "openvino_asym", "openvino_bf16")


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=NETS, help="torchvision names")
    parser.add_argument("--profiles", nargs="+", default=PROFILES)
    options = parser.parse_args()
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {describe_host()['cpu']}\n")
    print("| net | profile | float, ms | default / float | taken / float | taken | s |")
    print("|---|---|---|---|---|---|---|")
    slowest = 0.0
    for net in options.nets:
        supernet = peers.supernet_of(net)
        for profile in options.profiles:
            rules = load_profile(profile)
            exporter = checked_exporter(rules)
            if not can_race(exporter, rules):
                print(f"| {net} | {profile} | skipped: not this machine's | | | | |")
                continue
            header = SimpleNamespace(input_shape=peers.SHAPE)
            session = SimpleNamespace(supernet=supernet, header=header)
            default = Target.of(supernet.info, rules).default("benchmark")
            started = time.perf_counter()
            # All that a race asks of a session.
            session_like: Any = session
            told = race(session_like, rules, exporter, default, Silent()).race
            seconds = time.perf_counter() - started
            entries = {entry.name: entry for entry in told.entries}
            before, taken = entries[DEFAULT], told.winner
            plain = f"{taken.milliseconds / taken.to_float:.2f} ({told.float_precision})"
            low, high = taken.interval
            print(
                f"| {net} | {profile} | {plain} | {before.to_float:.2f} | {taken.to_float:.2f} "
                f"({low:.2f} to {high:.2f}) | {told.chosen} | {seconds:.0f} |",
                flush=True,
            )
            slowest = max(slowest, taken.to_float)
    print(f"\nslowest of what was taken: {slowest:.2f} of the float model's time (goal: at most 1)")


if __name__ == "__main__":
    main()
