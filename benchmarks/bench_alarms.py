"""How often `eqnet bench --baseline ARTIFACT` errs beside a load: false alarms and missed ones.

Two kinds of runs in turn. *unchanged*: an artifact against a byte-identical copy; an alarm is
false. *slowed*: an artifact whose model has a further layer, as large as makes it 10% slower
beside the load, against the one without; every run should find that. Every run is the real
command with its default rule, in this process; only its time is shorter (`--max-seconds`). Load
generators run beside it: on each of two cores a process that is busy and idle for random times,
and one at low priority on both. Rows go to a file of JSON lines as they come, and a run that was
stopped goes on.

    python benchmarks/bench_alarms.py --runs 100 --seed 0 --json alarms.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from eqnet.backend.artifact import read_manifest, write_manifest
from eqnet.backend.files import sha256_file
from eqnet.backend.machine.host import describe_host
from eqnet.cli.main import main as eqnet
from eqnet.spec.manifest import MODEL
from eqnet.spec.reports import BaselineComparison, BenchReport, Growth
from eqnet.stages.bench import bench

Row = dict[str, Any]
KINDS = ("unchanged", "slowed")
SLOWDOWN, CLOSE = 0.10, 0.01
FALSE_ALARMS, FOUND = 0.01, 0.95
BUSY, IDLE = 0.3, 0.5  # mean seconds of a load generator
REGRESSION = 12  # exit code
TRIES, SECONDS = 4, 15.0  # to find the layer's size, and time for each


def add_layer(artifact: Path, channels: int, out: Path) -> None:
    """Write an artifact whose model has one more convolution, which moves no logit."""
    shutil.copytree(artifact, out, dirs_exist_ok=True)
    model, manifest = onnx.load(out / MODEL), read_manifest(artifact)
    rng = np.random.default_rng(0)
    colours, classes = manifest.model.input_shape[0], manifest.model.classes
    logits = model.graph.output[0].name
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == logits:
                node.output[place] = "before"
    weights = {
        "more.weight": rng.standard_normal((channels, colours, 3, 3)),
        "more.mix": rng.standard_normal((channels, classes)) * 1e-12,
    }
    for name, value in weights.items():
        array = value.astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("Conv", [model.graph.input[0].name, "more.weight"], ["more.1"]),
            make("Relu", ["more.1"], ["more.2"]),
            make("GlobalAveragePool", ["more.2"], ["more.3"]),
            make("Flatten", ["more.3"], ["more.4"]),
            make("MatMul", ["more.4", "more.mix"], ["more.5"]),
            make("Add", ["before", "more.5"], [logits]),
        ]
    )
    onnx.save(model, out / MODEL)
    files = {**manifest.files, MODEL: sha256_file(out / MODEL)}
    write_manifest(out, manifest.model_copy(update={"files": files}))


def slowed(artifact: Path, out: Path) -> tuple[int, float]:
    """Write an artifact that is 10% slower beside the load; its channels, and its ratio."""
    channels = 64
    for number in range(TRIES):
        add_layer(artifact, channels, out)
        report = bench(out, baseline=artifact, max_regression=1.0, max_seconds=SECONDS)
        assert report.baseline is not None
        ratio = report.baseline.first.ratio
        print(f"{channels} channels: {ratio:.3f} of the time", flush=True)
        if abs(ratio - 1 - SLOWDOWN) <= CLOSE or number == TRIES - 1:
            break
        channels = max(1, round(channels * np.clip(SLOWDOWN / max(ratio - 1, 0.01), 0.25, 4)))
    return channels, ratio


def load(seed: int, core: int | None, nice: int) -> None:
    """Be busy and idle for random times until the parent is gone."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    os.nice(nice)
    rng, parent = random.Random(seed), os.getppid()
    while os.getppid() == parent:
        until = time.perf_counter() + rng.expovariate(1 / BUSY)
        while time.perf_counter() < until:
            pass
        time.sleep(rng.expovariate(1 / IDLE))


@contextlib.contextmanager
def loaded(seed: int) -> Iterator[None]:
    """Load generators beside whatever runs here."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    plans: list[tuple[int | None, int]] = [*((core, 0) for core in cores), (None, 10)]
    running = []
    for number, (core, nice) in enumerate(plans):
        words = [str(seed * 10 + number), "-1" if core is None else str(core), str(nice)]
        running.append(subprocess.Popen([sys.executable, __file__, "--load", *words]))
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def one(artifact: Path, baseline: Path, kind: str, seed: int, options: list[str]) -> Row:
    """One run of the command."""
    begun, printed = time.monotonic(), io.StringIO()
    words = ["bench", str(artifact), "--baseline", str(baseline), "--quiet", "--json", "--seed"]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        code = eqnet([*words, str(seed), *options])
    report = BenchReport.model_validate_json(printed.getvalue())
    if code not in (0, REGRESSION) or report.baseline is None:
        raise RuntimeError(f"exit code {code}: {report.reason}")
    return {
        "kind": kind,
        "seed": seed,
        "alarm": code == REGRESSION,
        "seconds": round(time.monotonic() - begun, 2),
        "load": round(os.getloadavg()[0], 2),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
        "cpu": report.host["cpu"],
        "threads": report.threads,
        "options": options,
        **_growths(report.baseline),
    }


def _growths(baseline: BaselineComparison) -> Row:
    """What both measurements found, without the samples."""
    row: Row = {}
    for name, growth in (("first", baseline.first), ("confirming", baseline.confirming)):
        row[name] = None if growth is None else _growth(growth)
    return row


def _growth(growth: Growth) -> Row:
    sampling = growth.sampling
    assert sampling is not None
    return {
        "ratio": round(growth.ratio, 4),
        "interval": [round(edge, 4) for edge in growth.interval],
        "chance": growth.chance,
        "p": growth.p_value,
        "rounds": sampling.rounds,
        "legs": len(sampling.legs),
        "stopped": sampling.stopped,
    }


def table(rows: list[Row]) -> bool:
    """Print what came of the runs; whether both goals are met."""
    print("| runs | kind | first looked slower | alarms | median ratio, 5% to 95% of runs | s |")
    print("|---|---|---|---|---|---|")
    share = {}
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        if not own:
            continue
        ratios = sorted(row["first"]["ratio"] for row in own)
        low, high = ratios[len(ratios) // 20], ratios[-1 - len(ratios) // 20]
        alarms = sum(row["alarm"] for row in own)
        first = sum(row["confirming"] is not None for row in own)
        seconds = median(row["seconds"] for row in own)
        share[kind] = alarms / len(own)
        print(
            f"| {len(own)} | {kind} | {first} | {alarms} | {median(ratios):.3f}, {low:.3f} to "
            f"{high:.3f} | {seconds:.1f} |"
        )
    met = share.get("unchanged", 1.0) <= FALSE_ALARMS and share.get("slowed", 0.0) >= FOUND
    return bool(met)


def known(path: Path | None) -> list[Row]:
    """The rows that a run before left."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--load":
        seed, core, nice = map(int, sys.argv[2:5])
        load(seed, None if core < 0 else core, nice)
        return
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="onnxruntime_avx2", help="of the bundled network")
    parser.add_argument("--max-seconds", default="4")
    parser.add_argument("--channels", type=int, default=None, help="of the further layer")
    parser.add_argument("--json", type=Path, default=None, help="JSON lines, to go on from too")
    parser.add_argument("--quick", action="store_true", help="3 runs of each kind")
    args = parser.parse_args()
    rows, runs = known(args.json), 3 if args.quick else args.runs
    done = {(row["kind"], row["seed"]) for row in rows}
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {describe_host()['cpu']}")
    with tempfile.TemporaryDirectory() as scratch, loaded(args.seed):
        artifact, copy = Path(scratch, "net"), Path(scratch, "before", "net")
        quiet = ["export", "--quiet", "--no-race", "--json", "--profile", args.profile]
        with contextlib.redirect_stdout(io.StringIO()):
            if eqnet([*quiet, "--out", str(artifact)]) != 0:
                sys.exit("the export failed")
        shutil.copytree(artifact, copy)
        slow = Path(scratch, "slow")
        if args.channels is None:
            slowed(artifact, slow)
        else:
            add_layer(artifact, args.channels, slow)
        for number in range(args.seed, args.seed + runs):
            for kind, measured in zip(KINDS, (artifact, slow), strict=True):
                if (kind, number) in done:
                    continue
                row = one(measured, copy, kind, number, ["--max-seconds", args.max_seconds])
                rows.append(row)
                if args.json is not None:
                    with args.json.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(row) + "\n")
    met = table(rows)
    goal = f"at most {FALSE_ALARMS:.0%} false alarms, at least {FOUND:.0%} found"
    print(f"goal {'met' if met else 'missed'}: {goal}")


if __name__ == "__main__":
    main()
