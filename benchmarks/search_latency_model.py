"""How well the latency model of `eqnet profile-device` predicts subnets that it has not seen.

    python benchmarks/search_latency_model.py [--nets N ...] [--profiles P ...] [--work DIR]
        [--subnets N] [--held-out N] [--burst SECONDS --pause SECONDS]

Nets have random weights, 224 x 224 pixels: latency does not depend on weights. Each row is one
latency file, in DIR/NET/, that says everything; what is there already is not measured again. On a
machine that others use too, run it with real-time priority, and let them have a pause:
`chrt -f 10 python benchmarks/search_latency_model.py --burst 90 --pause 15`.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path

from eqnet.backend.discovery import exporter_of
from eqnet.latency.folder import read_graphs, write_graphs
from eqnet.latency.measure import HELD_OUT, SUBNETS, Plan, Subject, measure
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.latency.file import LatencyFile, Quality, latency_name

NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0")
PROFILES = ("onnxruntime_x86", "openvino_asym")
SHAPE = (3, 224, 224)
ERROR_GOAL, TAU_GOAL = 0.08, 0.9
HEAD = (
    "| net | profile | int8, ms | fastest to slowest | mean error | worst | Kendall tau "
    "| left out: error, tau |\n|---|---|---|---|---|---|---|---|"
)


class Bursts:
    """A Progress that sleeps for `pause` seconds after each `burst` of work."""

    def __init__(self, burst: float, pause: float) -> None:
        self._burst, self._pause = burst, pause
        self._since = time.monotonic()

    def start(self, task: str, total: int | None) -> None:
        """Nothing to show."""

    def advance(self, n: int = 1, **info: float | str) -> None:
        """Sleep where it is time."""
        if self._pause and time.monotonic() - self._since > self._burst:
            time.sleep(self._pause)
            self._since = time.monotonic()

    def finish(self) -> None:
        """Nothing to show."""


def subject_of_net(net: str, profile: str, work: Path) -> Subject:
    """A net of torchvision under a profile, from its folder of graphs where there is one."""
    folder = work / net / f"{profile}.graphs"
    if not folder.is_dir():
        write_graphs(folder, _captured(net, profile))
    return read_graphs(folder)


def _captured(net: str, profile: str) -> Subject:
    import torch

    from eqnet.models.loader import load_model
    from eqnet.supernet.first_scales import calibrate
    from eqnet.supernet.supernet import Supernet
    from eqnet.supernet.whole import subject_of

    torch.manual_seed(0)
    supernet = Supernet(load_model(f"torchvision:{net}", classes=1000, in_channels=3), SHAPE)
    calibrate(supernet, [torch.randn(1, *SHAPE)])
    return subject_of(supernet, load_profile(profile), "random weights")


def line(net: str, file: LatencyFile) -> str:
    """A row of the table."""
    assert file.fit is not None
    assert file.fit.held_out is not None
    assert file.reference_ms is not None
    times = [sample.ratio * file.reference_ms for sample in file.samples]
    held, crossed = file.fit.held_out, file.fit.crossed
    cells = (
        net,
        f"`{file.setting.profile}`",
        f"{file.reference_ms:.2f}",
        f"{min(times):.2f} to {max(times):.2f}",
        f"{held.mean_error:.1%} of {held.subnets}",
        f"{held.worst_error:.1%}",
        f"{held.kendall_tau:.3f}",
        f"{crossed.mean_error:.1%}, {crossed.kendall_tau:.3f} of {crossed.subnets}",
    )
    return "| " + " | ".join(cells) + " |"


def verdict(found: list[Quality]) -> str:
    """The figures against the goal."""
    error = max(quality.mean_error for quality in found)
    tau = min(quality.kendall_tau for quality in found)
    return (
        f"largest mean error {error:.1%} (goal <= {ERROR_GOAL:.0%}), smallest Kendall tau "
        f"{tau:.3f} (goal >= {TAU_GOAL})"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=list(NETS), help="torchvision names")
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES))
    parser.add_argument("--work", type=Path, default=Path("runs/latency_model"))
    parser.add_argument("--subnets", type=int, default=SUBNETS)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--burst", type=float, default=90.0, help="seconds of work")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of rest after each")
    return parser.parse_args()


def main() -> None:
    """Measure, print."""
    arguments = parse()
    numbers = {key: getattr(arguments, key) for key in ("threads", "batch", "seed", "subnets")}
    plan = Plan(**numbers, held_out=arguments.held_out)
    found: list[Quality] = []
    for net in arguments.nets:
        for profile in arguments.profiles:
            subject = subject_of_net(net, profile, arguments.work)
            out = arguments.work / net / latency_name(profile)
            listener = Bursts(arguments.burst, arguments.pause)
            file = measure(subject, exporter_of(subject.profile), plan, out, listener)
            if not found:
                host, day = file.host, datetime.datetime.now(datetime.UTC).date()
                print(f"{host['cpu']}, {host['cores']} cores ({host['isa']}), {day}\n\n{HEAD}")
            print(line(net, file), flush=True)
            assert file.fit is not None
            assert file.fit.held_out is not None
            found.append(file.fit.held_out)
    print(f"\n{verdict(found)}")


if __name__ == "__main__":
    main()
