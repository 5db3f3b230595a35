"""Readers of documents: profiles, recipes, subnets, manifests, and what the stages report."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import tiny
import yaml
from artifacts import pixels, profile, write_artifact
from graphs import residual_net
from mutations import damaged, flipped, written
from readers import Make, Reader, json_file
from report_samples import benched, search_report, verified

from eqnet.backend.artifact import foreign_content
from eqnet.runtime import load
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.inputs import Inputs
from eqnet.spec.latency.file import LatencyFile, read_latency
from eqnet.spec.manifest import MANIFEST
from eqnet.spec.reports import BenchReport, VerifyReport
from eqnet.spec.scheme import Form
from eqnet.spec.seal import sealed
from eqnet.spec.subnet import load_subnet
from eqnet.stages.bench import bench
from eqnet.stages.bench.baseline import read_report as read_baseline
from eqnet.stages.quantize.settings import RECORD, Settings, read_record, write_record
from eqnet.stages.report.load import read_model, read_training
from eqnet.stages.search.fronts.stored import read_report
from eqnet.stages.search.journal import STATE_FILE, Journal, State
from eqnet.stages.train.recipe import load_recipe, recipes_dir
from eqnet.subnets.build import PAPER_STYLE, uniform
from eqnet.supernet.checkpoint import SUPERNET_FILE
from eqnet.supernet.supernet import Supernet


def _yaml(folder: Path, home: Path, read: Callable[[Path], object]) -> Reader:
    texts = [path.read_bytes() for path in sorted(home.glob("*.yaml"))]
    path = folder / "file.yaml"

    def spoil(rng: random.Random) -> None:
        text = rng.choice(texts)
        if rng.random() < 0.5:
            path.write_bytes(flipped(text, rng))
        else:
            path.write_bytes(written(damaged(yaml.safe_load(text), rng)))

    return Reader(spoil, lambda: read(path))


def profiles(folder: Path) -> Reader:
    """Hardware profiles."""
    return _yaml(folder, profiles_dir(), lambda path: load_profile(str(path)).sha256())


def recipes(folder: Path) -> Reader:
    """Training recipes."""
    return _yaml(folder, recipes_dir(), load_recipe)


def subnets(folder: Path) -> Reader:
    """Subnet files."""
    manifest = write_artifact(folder / "a", residual_net(), profile())
    path = folder / "subnet.json"
    whole = json.loads(manifest.subnet.model_dump_json())
    return json_file(path, whole, lambda: load_subnet(path).sha256())


def manifests(folder: Path) -> Reader:
    """Manifests whose digest is right, as a forger's, and what is opened by them and run."""
    artifact = folder / "a"
    write_artifact(artifact, residual_net(), profile())
    whole, images = json.loads((artifact / MANIFEST).read_text()), pixels(2)

    def spoil(rng: random.Random) -> None:
        document = damaged(whole, rng)
        # What cannot be sealed is read as it is.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            document = sealed(document)
        (artifact / MANIFEST).write_bytes(written(document))

    def read() -> object:
        foreign_content(artifact)
        return load(artifact, threads=1)(images)

    return Reader(spoil, read)


def baselines(folder: Path) -> Reader:
    """Latency reports of a former run."""
    artifact, path = folder / "a", folder / "baseline.json"
    manifest = write_artifact(artifact, residual_net(), profile())
    whole = json.loads(bench(artifact, repeats=5).model_dump_json())
    return json_file(
        path,
        whole,
        lambda: read_baseline(path, manifest, manifest.profile.bench, whole["host"]),
    )


def verifications(folder: Path) -> Reader:
    """verify.json."""
    path = folder / "verify.json"
    whole = json.loads(verified("one", "onnxruntime", "passed", 0.9).model_dump_json())
    return json_file(path, whole, lambda: read_model(path, VerifyReport))


def benchmarks(folder: Path) -> Reader:
    """bench.json."""
    path = folder / "bench.json"
    whole = json.loads(benched("one", "onnxruntime", 0.5).model_dump_json())
    for side in ("quantized", "float32"):
        whole[side]["samples"] = whole[side]["samples"][:10]
    return json_file(path, whole, lambda: read_model(path, BenchReport))


def searches(folder: Path) -> Reader:
    """search.json."""
    path = folder / "search.json"
    whole = json.loads(search_report().model_dump_json())
    whole["front"], whole["history"] = whole["front"][:3], whole["history"][:3]
    return json_file(path, whole, lambda: read_report(path))


def journals(folder: Path) -> Reader:
    """search.state.json, and what a resumed search takes from it."""
    choices, point = (3, 2, 4), {"accuracy": 0.9, "images": 40, "float_agreement": 0.9, "kl": 0.1}
    record = {"generation": 1, "accuracy": 0.9, "hypervolume": 1.0}
    state = State(
        facts={"seed": "0" * 64},
        points={"1" * 64: (0.1, 0.9)},
        rounds=[[[0, 1, 2], [2, 0, 3]]],
        earlier=12,
        predicted=4,
    )
    whole = json.loads(state.model_dump_json()) | {
        "generation": {
            "number": 1,
            "genomes": [[0, 1, 2], [2, 1, 3]],
            "objectives": [[0.1, 2.0], [0.2, 1.0]],
            "violations": [[0.0], [0.0]],
        },
        "history": [record],
        "measured": {"2" * 64: point},
    }

    def read() -> object:
        journal = Journal.open(folder, resume=True)
        journal.rounds(choices)
        return journal.population(choices, 2, 50)

    return json_file(folder / STATE_FILE, whole, read)


def latencies(folder: Path) -> Reader:
    """latency.PROFILE.json, and what it predicts."""
    path, info = folder / "latency.json", Supernet(tiny.network(2, 1).eval(), tiny.SHAPE).info
    spec = uniform(info, PAPER_STYLE, Form(), 8, 8)
    content = {
        "setting": {
            "profile": "p",
            "graph_sha256": "0" * 64,
            "network": "1" * 64,
            "supernet": "2" * 64,
            "backend": "onnxruntime",
            "runtime": "1.0",
            "threads": 1,
            "batch": 1,
            "seed": 0,
        },
        "host": {"cpu": "a"},
        "origins": {},
        "layers": [{"name": "stem", "integer": 0.5, "floating": 1.0}],
        "samples": [
            {
                "drawn": "uniform",
                "held_out": False,
                "weights": {"stem": 8},
                "activations": {"x": 8},
                "carriers": {},
                "ratio": 1.0,
                "samples": [1.0, 1.1],
                "reference": [1.0, 1.1],
            }
        ],
        "reference_ms": 1.0,
        "fit": {
            "constant": 0.5,
            "coefficients": {"layer:stem": 0.25},
            "fastest": 0.5,
            "held_out": None,
            "crossed": {
                "subnets": 3,
                "mean_error": 0.1,
                "worst_error": 0.2,
                "kendall_tau": 0.9,
            },
        },
    }
    whole = json.loads(LatencyFile.model_validate(content).model_dump_json())

    def read() -> object:
        file = read_latency(path)
        return file.fit and file.milliseconds(info, spec)

    return json_file(path, whole, read)


def records(folder: Path) -> Reader:
    """quantize.json beside a supernet."""
    (folder / SUPERNET_FILE).write_bytes(b"a supernet")
    settings = Settings.of(
        model="eqnet:resnet20",
        weights=None,
        weights_key=None,
        data=None,
        dataset=None,
        inputs=Inputs(),
        images=256,
        reconstruct=True,
        seed=0,
    )
    write_record(folder, settings, {"note": "a"})
    whole = json.loads((folder / RECORD).read_text())
    return json_file(folder / RECORD, whole, lambda: read_record(folder, settings))


def logs(folder: Path) -> Reader:
    """train.jsonl, as a report reads it."""
    path = folder / "train.jsonl"
    rows = [{"epoch": n, "high": 0.5 / n, "low": 1.0 / n} for n in range(1, 4)]

    def spoil(rng: random.Random) -> None:
        whole = b"\n".join(written(row) for row in damaged(rows, rng) if row is not None)
        path.write_bytes(flipped(whole, rng) if rng.random() < 0.3 else whole)

    return Reader(spoil, lambda: read_training(path))


DOCUMENTS: dict[str, Make] = {
    "baselines": baselines,
    "bench.json": benchmarks,
    "latency.json": latencies,
    "manifests": manifests,
    "profiles": profiles,
    "quantize.json": records,
    "recipes": recipes,
    "search.json": searches,
    "search.state.json": journals,
    "subnets": subnets,
    "train.jsonl": logs,
    "verify.json": verifications,
}
