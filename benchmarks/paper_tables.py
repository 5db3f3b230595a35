"""One elastic supernet against networks trained for one form alone, on the same budget.

    python benchmarks/paper_tables.py [--json FILE] [--work DIR] [--epochs 5] [--only NAME ...]

For each net and seed a float network is trained; from it the supernet, the float network and a
static network (LSQ) for each form and bit-width are trained on, with the same data, epochs,
optimizer, teacher and placement (quantizers at layer inputs). All are judged on the 10,000 test
images, after their batch norm statistics are collected on the same 1,000 calibration images.
Each finished training adds a row to FILE, which keeps what was right on each image; a run that
was stopped goes on where it was. The table has elastic minus static in points, with a paired
bootstrap interval over the images; `--table` prints it without training anything.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.machine.host import describe_host
from eqnet.cli.options import parse_static
from eqnet.cli.progress import progress
from eqnet.spec.scheme import Form, all_forms
from eqnet.stages.train.elastic import train
from eqnet.stages.train.recipe import StaticRecipe, load_recipe
from eqnet.stages.train.resume import FLOAT_FILE
from eqnet.subnets.build import PAPER_STYLE, uniform
from eqnet.supernet.measure import logits
from eqnet.supernet.session import Session, open_session

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    "resnet20": ROOT / "recipes" / "fashion_mnist_resnet20.yaml",
    "mobilenet_small": ROOT / "recipes" / "fashion_mnist_mobilenet.yaml",
}
LOWEST = {"resnet20": 2, "mobilenet_small": 3}
HEADLINE_FORMS = ("per_tensor:symmetric/asymmetric", "per_channel:symmetric/asymmetric")
HEADLINE_SEEDS = (0, 1, 2)
ELASTIC, FLOAT = "elastic", "float"
RESAMPLES = 2000
GOALS = {2: -0.2}  # points of elastic minus static; 0 at more bits

Row = dict[str, Any]
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Contestant:
    """One training: ELASTIC, FLOAT, or a static form such as ``w4a4:per_tensor:...``."""

    net: str
    seed: int
    name: str

    @property
    def key(self) -> str:
        return f"{self.net} {self.seed} {self.name}"


def bits_of(net: str) -> tuple[int, ...]:
    """The bit-widths of the comparison, lowest first."""
    return tuple(sorted({LOWEST[net], 3, 4}))


def contestants() -> Iterator[Contestant]:
    """All trainings: the headline of every seed first, the other forms of seed 0 last."""
    for seed in HEADLINE_SEEDS:
        for net in RECIPES:
            yield Contestant(net, seed, ELASTIC)
            yield Contestant(net, seed, FLOAT)
            for bits in bits_of(net):
                for form in HEADLINE_FORMS:
                    yield Contestant(net, seed, f"w{bits}a{bits}:{form}")
    for net in RECIPES:
        for other in all_forms():
            for bits in bits_of(net):
                if other.label() not in HEADLINE_FORMS:
                    yield Contestant(net, 0, f"w{bits}a{bits}:{other.label()}")


def plan(net: str, folder: Path, epochs: int, float_epochs: int) -> Path:
    """The net's recipe with this budget and the paper's placement, as a file."""
    recipe = load_recipe(RECIPES[net])
    elastic = recipe.elastic.model_copy(update={"epochs": epochs, "styles": ("paper",)})
    float_model = recipe.float_model.model_copy(update={"epochs": float_epochs})
    made = recipe.model_copy(update={"elastic": elastic, "float_model": float_model})
    path = folder / "recipe.yaml"
    path.write_text(made.model_dump_json(exclude_none=True))  # JSON is YAML
    return path


def run(contestant: Contestant, options: argparse.Namespace) -> list[Row]:
    """Train, or go on with it, and judge: a row for each subnet that is compared."""
    name = contestant.name.replace(":", "-").replace("/", "-")
    shared = options.work / f"{contestant.net}-{contestant.seed}"
    out = shared / name
    out.mkdir(parents=True, exist_ok=True)
    if (shared / FLOAT_FILE).is_file() and not (out / FLOAT_FILE).is_file():
        shutil.copy(shared / FLOAT_FILE, out / FLOAT_FILE)
    static = None if contestant.name == ELASTIC else parse_static(contestant.name)
    start = time.perf_counter()
    with progress(options.quiet) as listener:
        train(
            plan(contestant.net, out, options.epochs, options.float_epochs),
            out,
            data=options.data,
            seed=contestant.seed,
            static=static,
            resume=True,
            device=options.device,
            progress=listener,
        )
    seconds = time.perf_counter() - start
    if not (shared / FLOAT_FILE).is_file():
        shutil.copy(out / FLOAT_FILE, shared / FLOAT_FILE)
    session = open_session(out)
    rows = [
        {"subnet": subnet, **judged(session, form, bits, options)}
        for subnet, form, bits in subnets(contestant, static)
    ]
    return [
        {
            "key": contestant.key,
            "net": contestant.net,
            "seed": contestant.seed,
            "contestant": contestant.name,
            "epochs": options.epochs,
            "float_epochs": options.float_epochs,
            "seconds": round(seconds),
            **row,
        }
        for row in rows
    ]


def subnets(
    contestant: Contestant, static: StaticRecipe | None
) -> Iterator[tuple[str, Form, int | None]]:
    """What is judged of a training: name, form, and bits (None: float)."""
    if static is not None:
        yield contestant.name, static.form, static.weight_bits
        return
    for form in all_forms():
        if contestant.seed == 0 or form.label() in HEADLINE_FORMS:
            for bits in (*bits_of(contestant.net), 8):
                yield f"w{bits}a{bits}:{form.label()}", form, bits


def judged(session: Session, form: Form, bits: int | None, options: argparse.Namespace) -> Row:
    """Accuracy in [0, 1] on the test images, and which were right."""
    calibration = session.calibration()
    if bits is None:
        session.supernet.apply_float()
        session.supernet.recalibrate(calibration.inputs())
    else:
        session.settle(uniform(session.supernet.info, PAPER_STYLE, form, bits, bits), calibration)
    batches = session.batches(session.dataset.test(), options.images)
    right = (logits(session.supernet.graph, batches).argmax(1) == batches.labels).numpy()
    packed = base64.b64encode(np.packbits(right).tobytes()).decode()
    return {"accuracy": float(right.mean()), "images": len(right), "right": packed}


def right_of(row: Row) -> Right:
    """Which images a row got right, bool [N]."""
    packed = np.frombuffer(base64.b64decode(row["right"]), np.uint8)
    return np.unpackbits(packed, count=row["images"]).astype(bool)


@dataclass(frozen=True)
class Difference:
    """Elastic minus static of one net, form and bit-width, over the seeds that have both."""

    net: str
    subnet: str
    seeds: int
    elastic: float
    static: float
    interval: tuple[float, float]

    @property
    def points(self) -> float:
        return 100 * (self.elastic - self.static)


def differences(rows: list[Row]) -> list[Difference]:
    """Every pair that was trained, in the order of the rows."""
    by_name = {(row["net"], row["seed"], row["contestant"], row["subnet"]): row for row in rows}
    pairs: dict[tuple[str, str], list[tuple[Right, Right]]] = {}
    for net, seed, contestant, subnet in by_name:
        elastic = by_name.get((net, seed, ELASTIC, subnet))
        if contestant == subnet and elastic is not None:
            static = by_name[net, seed, contestant, subnet]
            pairs.setdefault((net, subnet), []).append((right_of(elastic), right_of(static)))
    return [_difference(net, subnet, found) for (net, subnet), found in pairs.items()]


def _difference(net: str, subnet: str, pairs: list[tuple[Right, Right]]) -> Difference:
    """The mean over seeds; the interval draws images, the same ones for every seed."""
    each = np.mean([a.astype(np.float64) - b for a, b in pairs], axis=0)
    picks = np.random.default_rng(0).integers(0, len(each), (RESAMPLES, len(each)))
    low, high = np.percentile(100 * each[picks].mean(1), [2.5, 97.5])
    elastic, static = (float(np.mean([pair[side].mean() for pair in pairs])) for side in (0, 1))
    return Difference(net, subnet, len(pairs), elastic, static, (float(low), float(high)))


def print_table(rows: list[Row]) -> None:
    """Differences as a Markdown table, and the goals."""
    for row in rows:
        if row["contestant"] == FLOAT:
            print(f"{row['net']}, seed {row['seed']}: float {row['accuracy']:.2%}")
    found = differences(rows)
    print("\n| net | subnet | seeds | elastic | static | elastic - static, points | goal |")
    print("|---|---|---|---|---|---|---|")
    for one in found:
        goal = GOALS.get(int(one.subnet[1]), 0.0)
        state = "met" if one.points >= goal else "short"
        low, high = one.interval
        print(
            f"| {one.net} | {one.subnet} | {one.seeds} | {one.elastic:.2%} | {one.static:.2%} "
            f"| {one.points:+.2f} ({low:+.2f} to {high:+.2f}) | >= {goal:g}: {state} |"
        )
    if found:
        mean = float(np.mean([one.points for one in found]))
        print(f"\nmean over {len(found)} forms: {mean:+.2f} points (goal: above 0)")


def read(path: Path | None) -> list[Row]:
    """The rows of a results file."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="rows are added to it, and read from it")
    parser.add_argument("--work", type=Path, default=Path("runs/paper_tables"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--float-epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", help="contestants whose 'NET SEED NAME' begins so")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    rows = read(options.json)
    budget = options.epochs, options.float_epochs
    rows = [row for row in rows if (row["epochs"], row["float_epochs"]) == budget]
    done = {row["key"] for row in rows}
    host = describe_host()
    for contestant in contestants():
        asked = not options.only or contestant.key.startswith(tuple(options.only))
        if options.table or contestant.key in done or not asked:
            continue
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        made = [row | {"date": today, "cpu": host["cpu"]} for row in run(contestant, options)]
        rows += made
        if options.json is not None:
            with options.json.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in made)
        accuracies = ", ".join(f"{row['accuracy']:.2%}" for row in made)
        print(f"{contestant.key}: {accuracies}", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
