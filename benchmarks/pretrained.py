"""Post-training on real weights, against the float network and against other tools.

    python benchmarks/pretrained.py [--quick] [--json FILE] [--work DIR] [--peers-python PYTHON]

Network: EfficientNet-Lite0 (`--nets lite1 lite2` for others) with ImageNet weights. Every
contestant sees the same calibration crops, and is judged on crops of other photographs by the
agreement of its top-1 class with the float network's and the signal-to-noise of its logits.
Models are run in their runtime; low bits, which no runtime here has, in the tool's simulation.
Then those of one runtime are timed in turns, batch 1. Fine-tuning takes hours on a CPU, and takes
part only where --only names it: --only "eqnet fine-tuned" --device cuda.

The tools of `pretrained_peers.py` run in --peers-python, one process each; what is not installed
is skipped. FILE holds one JSON object a line; what it has already is not measured again, and
models stay in --work.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import real_weights
import torch
from fidelity import fidelity
from numpy.typing import NDArray
from peers import Contestant as Runnable
from pretrained_ours import FORMS, LEARNED, PLAIN, TUNED, Ours
from pretrained_peers import FLOAT, NETWORK

from eqnet.backend.machine.host import describe_host
from eqnet.backend.machine.isa import onednn_cpu, onednn_switch, this_cpu
from eqnet.backend.machine.timing import in_turns, paired_ratio
from eqnet.spec.errors import EqnetError, one_line
from eqnet.spec.hardware.load import load_profile

Row = dict[str, Any]
Floats = NDArray[np.float32]
CALIBRATION, VALIDATION, EVALUATION = 198, 66, 300
QUICK_CALIBRATION, QUICK_VALIDATION, QUICK_EVALUATION = 33, 33, 45
OPSET = 18
BATCH = 10
WARM_UP = 3
LOW_BITS = ("w8a8", "w6a6", "w4a8", "w4a4")
PROFILES = (
    "openvino_asym",
    "openvino_bf16",
    "openvino_avx2",
    "onnxruntime_x86",
    "tensorrt_int8",
)
QUICK = (
    "float32 onnxruntime",
    "bf16 openvino",
    "nncf_performance",
    "quantize_static_minmax",
    "eqnet openvino_asym",
    "eqnet onnxruntime_x86",
    "eqnet w8a8 per-channel",
)
LABELS = {PLAIN: "eqnet", LEARNED: "eqnet reconstructed", TUNED: "eqnet fine-tuned"}


@dataclass(frozen=True)
class Made:
    """What a contestant became: logits on the evaluation crops, and what to time, if anything."""

    logits: Floats
    seconds: float
    runnable: Runnable | None = None
    versions: dict[str, str] | None = None


@dataclass(frozen=True)
class Contestant:
    """One row. role: "float", "peer" or "ours"; where: the runtime, or what simulates it."""

    name: str
    role: str
    bits: str
    where: str
    make: Callable[[Bench], Made]


class SkippedError(Exception):
    """A contestant cannot take part here; the text says why."""


class Bench:
    """One network's folder: crops, float graph, and what was made of them.

    Raises MissingExtraError or DataError where network or photographs are not installed.
    """

    def __init__(self, net: str, folder: Path, options: argparse.Namespace) -> None:
        """The crops are made here, as many as `options.counts` says by split."""
        self.net, self.folder, self.options = net, folder, options
        folder.mkdir(parents=True, exist_ok=True)
        for split, count in zip(real_weights.SPLITS, options.counts, strict=True):
            path = folder / f"{split}.npy"
            if not path.is_file():
                side = real_weights.SIDES[net]
                np.save(path, real_weights.crops(split, count, options.seed, side))
        (folder / NETWORK).write_text(net)
        if not (folder / FLOAT).is_file():
            self._export_float()
        self.reference = self.run(self.float_graph("onnxruntime"))
        self.ours = Ours(folder / "eqnet", net, options.seed, options.epochs, options.device)
        self.ours.lay({split: self.crops(split) for split in real_weights.SPLITS})

    def crops(self, split: str) -> NDArray[np.uint8]:
        """uint8 [N, 3, H, W]."""
        pixels: NDArray[np.uint8] = np.load(self.folder / f"{split}.npy")
        return pixels

    @staticmethod
    def float_graph(runtime: str, precision: str = "f32") -> Runnable:
        """The float network in a runtime."""
        return Runnable(f"float {precision}", runtime, "float", FLOAT, precision)

    def run(self, runnable: Runnable) -> Floats:
        """Logits of a model on the evaluation crops."""
        call = runnable.open(self.folder, self.options.threads)
        inputs = real_weights.inputs(self.crops("evaluation"))
        found = [call(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]
        return np.concatenate([f[0] if isinstance(f, list) else np.asarray(f) for f in found])

    def _export_float(self) -> None:
        model, side = real_weights.NETS[self.net](), real_weights.SIDES[self.net]
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, side, side),),
            str(self.folder / FLOAT),
            input_names=["input"],
            output_names=["logits"],
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=[{0: torch.export.Dim("N")}],
            external_data=False,
            verbose=False,
        )


def make_float(bench: Bench, runtime: str, precision: str) -> Made:
    """The float network itself."""
    if precision == "bf16" and (lacking := onednn_cpu().missing("bf16")):
        raise SkippedError(lacking)
    runnable = bench.float_graph(runtime, precision)
    return Made(bench.run(runnable), 0.0, runnable)


def make_peer(
    bench: Bench, tool: str, bits: str, runtime: str, iterations: int = 0, precision: str = "f32"
) -> Made:
    """Run a tool in its own interpreter, unless its result is there, and its model here."""
    name = tool if runtime else f"{tool}_{bits}"
    report = bench.folder / f"{name}.json"
    if not report.is_file():
        _call_tool(bench, tool, name, bits, iterations)
    result = json.loads(report.read_text())
    if "skipped" in result:
        report.unlink()  # it may be installed by the next time
        raise SkippedError(result["skipped"])
    if not runtime:
        logits = np.load(bench.folder / result["file"])
        return Made(logits, result["seconds"], versions=result["versions"])
    runnable = Runnable(name, runtime, "int8", result["file"], precision)
    return Made(bench.run(runnable), result["seconds"], runnable, result["versions"])


def _call_tool(bench: Bench, tool: str, name: str, bits: str, iterations: int) -> None:
    """Raises SkippedError with the last line of what the tool says when it fails."""
    here = Path(__file__).resolve().parent
    paths = [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]
    command = [
        bench.options.peers_python,
        str(here / "pretrained_peers.py"),
        tool,
        str(bench.folder),
        "--name",
        name,
        "--bits",
        ",".join(bits[1::2]),
        "--seed",
        str(bench.options.seed),
        "--iterations",
        str(iterations),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    log = bench.folder / f"{name}.log"
    with log.open("w") as stream:
        done = subprocess.run(command, env=environment, stdout=stream, stderr=stream, check=False)
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise SkippedError(f"{tool} ended with {done.returncode}: {lines[-1]}")


def make_artifact(bench: Bench, profile: str, how: str) -> Made:
    """Our artifact, in its runtime; TensorRT's graph is run by ONNX Runtime."""
    try:
        rules = load_profile(profile)
    except EqnetError as error:
        raise SkippedError(str(error)) from error
    path, seconds = bench.ours.artifact(profile, how)
    file = str(path.relative_to(bench.folder))
    runtime, opened = rules.backend, profile
    if runtime == "tensorrt":
        runtime, opened = "onnxruntime", ""
    runnable = Runnable(file, runtime, "ours", file, profile=opened)
    return Made(bench.run(runnable), seconds, runnable)


def make_subnet(bench: Bench, bits: str, form: str, how: str) -> Made:
    """Our subnet in PyTorch."""
    return Made(*bench.ours.subnet(bits, form, how, bench.crops("evaluation")))


def contestants(iterations: int) -> Iterator[Contestant]:
    """All of them; `iterations` is for what learns roundings, for each layer."""
    for runtime, precision in (("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16")):
        name = f"{'float32' if precision == 'f32' else precision} {runtime}"
        make = partial(make_float, runtime=runtime, precision=precision)
        yield Contestant(name, "float", precision, runtime, make)
    variants = ("performance", "mixed", "performance_no_fix", "mixed_no_fix")
    tools = [(f"nncf_{variant}", "openvino") for variant in variants]
    tools += [(f"quantize_static_{method}", "onnxruntime") for method in ("minmax", "percentile")]
    if this_cpu().missing("vnni"):
        tools.append(("quantize_static_minmax_7bit", "onnxruntime"))
    for tool, runtime in tools:
        make = partial(make_peer, tool=tool, bits="w8a8", runtime=runtime)
        yield Contestant(tool, "peer", "w8a8", runtime, make)
        if runtime == "openvino" and onednn_cpu().missing("bf16") is None:
            make = partial(make, precision="bf16")
            yield Contestant(f"{tool} bf16", "peer", "w8a8", runtime, make)
    for bits in LOW_BITS:
        for tool in ("aimet_adaround", "brevitas_gptq", "brevitas_gpfq", "brevitas_learned_round"):
            make = partial(make_peer, tool=tool, bits=bits, runtime="", iterations=iterations)
            yield Contestant(f"{tool} {bits}", "peer", bits, "simulated", make)
    for how, label in LABELS.items():
        for profile in PROFILES:
            artifact = partial(make_artifact, profile=profile, how=how)
            yield Contestant(f"{label} {profile}", "ours", "w8a8", "runtime", artifact)
        for bits in LOW_BITS:
            for form in FORMS:
                subnet = partial(make_subnet, bits=bits, form=form, how=how)
                yield Contestant(f"{label} {bits} {form}", "ours", bits, "PyTorch", subnet)


def judge(bench: Bench, contestant: Contestant) -> Row:
    """One row: what came out, or why nothing did."""
    row: Row = {"contestant": contestant.name, "role": contestant.role, "bits": contestant.bits}
    try:
        made = contestant.make(bench)
    except (SkippedError, EqnetError) as error:
        return row | {"skipped": one_line(error)}
    groups = real_weights.owners("evaluation", len(made.logits))
    row |= {"where": made.runnable.runtime if made.runnable else contestant.where}
    row |= asdict(fidelity(made.logits, bench.reference, groups))
    row |= {"images": len(groups), "minutes": made.seconds / 60, "versions": made.versions or {}}
    return row | ({"run": asdict(made.runnable)} if made.runnable else {})


def race(bench: Bench, runtime: str, rows: Sequence[Row], rounds: int) -> Row:
    """Time the models of one runtime in turns, batch 1; ratios are to the best int8 peer."""
    entered = [Runnable(**row["run"]) for row in rows]
    names = [row["contestant"] for row in rows]
    one = real_weights.inputs(bench.crops("evaluation")[:1])
    runs = [partial(each.open(bench.folder, bench.options.threads), one) for each in entered]
    samples = dict(zip(names, in_turns(runs, rounds, WARM_UP), strict=True))
    medians = {name: float(np.median(times)) for name, times in samples.items()}
    rivals = [row["contestant"] for row in rows if row["role"] == "peer"]
    best = min(rivals, key=medians.__getitem__) if rivals else names[0]
    rng = np.random.default_rng(0)
    ratios = {name: paired_ratio(times, samples[best], rng) for name, times in samples.items()}
    return {
        "contestant": f"latency {runtime}",
        "role": "latency",
        "ms": medians,
        "best_peer": best,
        "ratios": ratios,
        "rounds": rounds,
        "threads": bench.options.threads,
    }


class Results:
    """Rows of a file, one JSON object a line, with what each was measured under."""

    def __init__(self, path: Path | None, options: argparse.Namespace) -> None:
        """Read what is there already."""
        self._path, self._options, self.host = path, options, describe_host()
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def of(self, net: str) -> list[Row]:
        """Rows of a network on this machine with this seed and these crops, each name's last."""
        key = self._key(net)
        return list({row["contestant"]: row for row in self.rows if row["key"] == key}.values())

    def done(self, net: str) -> set[str]:
        """Names of the contestants that need no second run."""
        return {row["contestant"] for row in self.of(net) if "skipped" not in row}

    def add(self, net: str, row: Row) -> Row:
        """Keep a row, in the file at once."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        whole = row | {"key": self._key(net), "date": today, "cpu": self.host["cpu"]}
        self.rows.append(whole)
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(whole) + "\n")
        return whole

    def _key(self, net: str) -> list[Any]:
        options = self._options
        return [self.host["machine"], net, options.seed, *options.counts, options.isa]


def line(row: Row) -> str:
    """A row of the printed table."""
    if "skipped" in row:
        return f"| {row['contestant']} | {row['bits']} | skipped: {row['skipped']} | | | | |"
    low, high = row["agreement_interval"]
    worst, best = row["snr_interval"]
    return (
        f"| {row['contestant']} | {row['bits']} | {row['where']} "
        f"| {row['agreement']:.3f} | {low:.3f} to {high:.3f} "
        f"| {row['snr']:.1f} ({worst:.1f} to {best:.1f}) | {row['minutes']:.1f} |"
    )


def latency_lines(row: Row) -> Iterator[str]:
    """The table of one runtime's latencies."""
    yield f"\n| {row['contestant']}, {row['threads']} threads | ms | of {row['best_peer']} |"
    yield "|---|---|---|"
    for name, value in sorted(row["ms"].items(), key=lambda pair: pair[1]):
        ratio, (low, high) = row["ratios"][name]
        yield f"| {name} | {value:.2f} | {ratio:.2f} [{low:.2f}, {high:.2f}] |"


GOALS: dict[str, tuple[float, float]] = {
    f"{LABELS[PLAIN]} openvino_asym": (0.92, 22.0),
    f"{LABELS[PLAIN]} onnxruntime_x86": (0.92, 22.0),
    f"{LABELS[LEARNED]} openvino_asym": (0.95, 22.0),
    f"{LABELS[LEARNED]} onnxruntime_x86": (0.95, 22.0),
    f"{LABELS[LEARNED]} tensorrt_int8": (0.92, 0.0),
    f"{LABELS[LEARNED]} w6a6 per-channel": (0.90, 0.0),
    f"{LABELS[LEARNED]} w4a8 per-channel": (0.80, 0.0),
    f"{LABELS[LEARNED]} w4a4 per-channel": (0.60, 0.0),
}
AVX2_GOAL = (0.85, 0.0)
LATENCY_GOAL, AVX2_LATENCY_GOAL = 1.00, 1.05


def verdict(net: str, rows: Sequence[Row], isa: str) -> str:
    """Figures against their goals (agreement, dB, latency), and against the best peer."""
    known = {row["contestant"]: row for row in rows if "agreement" in row}
    goals = {f"{LABELS[PLAIN]} openvino_avx2": AVX2_GOAL} if isa == "AVX2" else GOALS
    told = []
    for name, (agreement, decibels) in goals.items():
        if name not in known:
            continue
        row = known[name]
        short = row["agreement"] < agreement or row["snr"] < decibels
        wanted = f">= {agreement:.2f}" + (f" at >= {decibels:.0f} dB" if decibels else "")
        state = "short" if short else "met"
        told.append(f"{name} {row['agreement']:.3f} at {row['snr']:.1f} dB ({wanted}: {state})")
    for bits in LOW_BITS:
        rivals = [row for row in known.values() if (row["role"], row["bits"]) == ("peer", bits)]
        ours = known.get(f"{LABELS[LEARNED]} {bits} per-channel") or known.get(
            f"{LABELS[PLAIN]} {bits} per-channel"
        )
        if rivals and ours:
            best = max(rivals, key=lambda row: row["agreement"])
            state = "met" if ours["agreement"] >= best["agreement"] else "short"
            told.append(
                f"{ours['contestant']} {ours['agreement']:.3f} against {best['contestant']} "
                f"{best['agreement']:.3f} (goal: not below: {state})"
            )
    limit = AVX2_LATENCY_GOAL if isa == "AVX2" else LATENCY_GOAL
    for row in (row for row in rows if row["role"] == "latency"):
        ours_there = {
            name: r[0] for name, r in row["ratios"].items() if name.startswith(LABELS[PLAIN])
        }
        if ours_there:
            name = min(ours_there, key=ours_there.__getitem__)
            state = "met" if ours_there[name] <= limit else "short"
            told.append(
                f"{row['contestant']}: {name} {ours_there[name]:.2f} of {row['best_peer']} "
                f"(<= {limit:.2f}: {state})"
            )
    return f"{net}: " + ("; ".join(told) or "nothing measured")


def wanted(name: str, options: argparse.Namespace) -> bool:
    """Whether a contestant was asked for."""
    if options.quick:
        return name in QUICK
    if not options.only:
        return not name.startswith(LABELS[TUNED])  # which takes hours on a CPU
    return name.startswith(tuple(options.only))


def measure(net: str, results: Results, options: argparse.Namespace, work: Path) -> None:
    """Every contestant that is not done, then the latencies."""
    bench = Bench(
        net, work / f"{net}-{'-'.join(map(str, (options.seed, *options.counts)))}", options
    )
    print(
        f"\n{net}: {options.counts[0]} calibration crops, {options.counts[-1]} evaluation crops, "
        f"seed {options.seed}, {results.host['cpu']}\n\n"
        "| contestant | bits | run by | agreement | 95% | SNR, dB | minutes |\n"
        "|---|---|---|---|---|---|---|"
    )
    done = results.done(net)
    for contestant in contestants(options.iterations):
        if wanted(contestant.name, options) and contestant.name not in done:
            results.add(net, judge(bench, contestant))
            print(line(results.rows[-1]), flush=True)
        elif contestant.name in done:
            print(line(next(r for r in results.of(net) if r["contestant"] == contestant.name)))
    for runtime in () if options.no_latency else ("onnxruntime", "openvino"):
        runnable = [row for row in results.of(net) if row.get("where") == runtime and "run" in row]
        if not any(row["role"] == "ours" for row in runnable) and not options.only:
            continue
        if len(runnable) > 1:
            row = results.add(net, race(bench, runtime, runnable, options.rounds))
            print("\n".join(latency_lines(row)), flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few crops, seven contestants")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON lines, added to")
    parser.add_argument("--work", type=Path, help="folder that keeps crops and models")
    parser.add_argument("--nets", nargs="+", choices=list(real_weights.NETS), default=["lite0"])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants that begin so")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter of the tools")
    parser.add_argument("--seed", type=int, default=0, help="of photographs, crops and learning")
    parser.add_argument("--iterations", type=int, default=1000, help="of learned rounding, a layer")
    parser.add_argument("--epochs", type=int, help="of fine-tuning, else the recipe's")
    parser.add_argument("--device", default="cpu", help="where our networks learn")
    parser.add_argument("--threads", type=int, default=2, help="of the runtimes")
    parser.add_argument("--rounds", type=int, default=60, help="of timing")
    parser.add_argument("--no-latency", action="store_true")
    options = parser.parse_args()
    options.counts = (CALIBRATION, VALIDATION, EVALUATION)
    if options.quick:
        options.counts = (QUICK_CALIBRATION, QUICK_VALIDATION, QUICK_EVALUATION)
        options.rounds = min(options.rounds, 20)
    options.isa = onednn_switch().partition("=")[2]  # OpenVINO obeys it
    return options


def main() -> None:
    """Measure, print, save."""
    options = parse()
    results = Results(options.json, options)
    with tempfile.TemporaryDirectory() as scratch:
        for net in options.nets:
            measure(net, results, options, options.work or Path(scratch))
    print()
    for net in options.nets:
        print(verdict(net, results.of(net), options.isa))


if __name__ == "__main__":
    main()
