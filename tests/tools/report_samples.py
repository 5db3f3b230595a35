"""Small synthetic results, built from the project's own models, for the report's tests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from eqnet.backend.artifact import write_manifest
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.judging.comparison import Location, OutputComparison, Run, TensorError
from eqnet.spec.manifest import (
    ALL_FLOAT,
    DEFAULT,
    FLOAT,
    Manifest,
    ModelInfo,
    ParitySet,
    Preprocessing,
    Race,
    Raced,
)
from eqnet.spec.reports import (
    BenchReport,
    Check,
    EvalReport,
    FrontPoint,
    GenerationRecord,
    Latency,
    MeasuredScore,
    SearchReport,
    Verdict,
    VerifyReport,
)
from eqnet.spec.scheme import Form
from eqnet.spec.subnet import Score, SubnetSpec

RUNS: tuple[Run, ...] = ("semantics", "deployed")
HOST = {"cpu": "Test CPU <1>", "cores": "2"}
LAYERS = [
    "conv1",
    *(f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)),
    "layer2.0.downsample.0",
    "layer3.0.downsample.0",
    "fc",
]


def subnet(bits: int | None, seed: int = 0, remainder: tuple[str, ...] = ()) -> SubnetSpec:
    """A subnet with `bits` everywhere, or mixed ones when None; `remainder` stays float."""
    draw = random.Random(seed)
    weights: dict[str, int | str] = {
        name: "remainder" if name in remainder else bits or draw.randint(2, 8) for name in LAYERS
    }
    activations = {f"{name}.out": bits or draw.randint(3, 8) for name in LAYERS[:-1]}
    whole = [value for value in weights.values() if isinstance(value, int)]
    return SubnetSpec.model_validate(
        {
            "supernet": "ab" * 32,
            "form": Form(),
            "weights": weights,
            "activations": activations,
            "carriers": {},
            "avg_weight_bits": sum(whole) / len(whole) if whole else 32.0,
            "avg_activation_bits": sum(activations.values()) / len(activations),
            "measured": Score(accuracy=0.93, images=5000, cost=2.0, unit="Mcycles"),
        }
    )


def manifest(name: str, backend: str, spec: SubnetSpec, description: str = "") -> Manifest:
    """A manifest of ResNet-20's shape."""
    profile = HardwareProfile.model_validate(
        {
            "schema_version": 1,
            "name": name,
            "description": description,
            "backend": backend,
            "weights": {"granularity": "per_channel", "symmetry": "symmetric"},
            "activations": {"symmetry": "asymmetric"},
            "cost": {"model": "size"},
        }
    )
    return Manifest(
        backend=backend,
        profile=profile,
        subnet=spec,
        subnet_origin="search",
        model=ModelInfo(
            source="resnet20",
            input_shape=(1, 28, 28),
            classes=10,
            float_accuracy=0.9412,
            dataset="fashion-mnist",
        ),
        preprocessing=Preprocessing(mean=(0.286,), std=(0.353,)),
        parity=ParitySet(images=256, source="bundled test", logit_step=0.1, accuracy=0.9405),
        layers=tuple(LAYERS),
        int8_layers=tuple(spec.quantized_layers()),
        weight_bytes=int(270_000 * spec.avg_weight_bits / 8),
        versions={"eqnet": "0.1.0", "onnx": "1.23.2"},
        files={"model.onnx": "0" * 64},
    )


def latency(center: float, seed: int) -> Latency:
    """Latencies around `center` milliseconds with a tail, drawn from a fixed seed."""
    draw = random.Random(seed)
    samples = sorted(center * (1 + abs(draw.gauss(0, 0.06))) for _ in range(200))
    return Latency(
        median=samples[100],
        p90=samples[180],
        p99=samples[198],
        minimum=samples[0],
        mean=sum(samples) / 200,
        throughput=1000 / samples[100],
        samples=tuple(samples),
    )


def verified(
    name: str, backend: str, verdict: Verdict, accuracy: float | None, reason: str = ""
) -> VerifyReport:
    """A verification; `reason` belongs to its one check that did not pass."""
    checks = [Check(name="files", verdict="passed")]
    if accuracy is not None:
        checks.append(
            Check(name="top-1 agreement", verdict="passed", value=99.8, limit=99.5, unit="%")
        )
    if reason:
        worse: Verdict = "failed" if verdict == "failed" else "skipped"
        checks.append(Check(name="execution", verdict=worse, reason=reason))
    return VerifyReport(
        artifact=f"artifacts/{name}",
        profile=name,
        backend=backend,
        runtime=f"{backend} 1.2.3",
        verdict=verdict,
        checks=tuple(checks),
        images=2000,
        accuracy=accuracy,
        top1_agreement=None if accuracy is None else 0.998,
        int8_layers=21,
        layers=len(LAYERS),
        host=HOST,
    )


def benched(name: str, backend: str, ratio: float | None, reason: str = "") -> BenchReport:
    """A benchmark with that ratio, or a skipped one with its reason."""
    return BenchReport(
        artifact=f"artifacts/{name}",
        profile=name,
        backend=backend,
        verdict="skipped" if ratio is None else "passed",
        reason=reason,
        batch=1,
        threads=2,
        quantized=None if ratio is None else latency(0.6 * ratio, 1),
        float32=None if ratio is None else latency(0.6, 2),
        ratio=ratio,
        ratio_interval=None if ratio is None else (ratio * 0.96, ratio * 1.05),
        host=HOST,
    )


def write_artifact(
    folder: Path, made: Manifest, verify: VerifyReport | None, bench: BenchReport | None
) -> Path:
    """Write the JSON files of an artifact folder."""
    folder.mkdir(parents=True)
    write_manifest(folder, made)
    for name, content in (("verify", verify), ("bench", bench)):
        if content is not None:
            (folder / f"{name}.json").write_text(content.model_dump_json())
    return folder


def search_report() -> SearchReport:
    """A front of 30 subnets, the chosen one among them."""
    best = subnet(4)
    front = [
        FrontPoint(
            accuracy_predicted=0.945 - 0.05 / (1 + index),
            cost=1 + 0.2 * index,
            avg_weight_bits=2 + index / 5,
            avg_activation_bits=3 + index / 6,
            sha256=best.sha256() if index == 6 else f"{index:064x}",
        )
        for index in range(30)
    ]
    return SearchReport(
        profile="custom_lowbit",
        supernet="bundled",
        budgets={"avg_weight_bits": 4.0},
        unit="Mcycles",
        evaluations=2560,
        front=tuple(front),
        best=best,
        seconds=3.2,
        stop_reason="generations done",
        kendall_tau=0.91,
        pearson=0.97,
    )


def full_search_report() -> SearchReport:
    """A search with everything that a plot shows."""
    plain = search_report()
    front = []
    for index, point in enumerate(plain.front):
        measured = None
        if index % 6 == 0:
            measured = MeasuredScore(accuracy=0.9 + index / 1000, images=100)
        sizes: dict[str, Any] = {"size_kib": 50.0 + index, "bitops": 1.0 + index / 9}
        front.append(point.model_copy(update={"measured": measured, **sizes}))
    baselines = [
        FrontPoint(
            accuracy_predicted=0.9 + bits / 200,
            cost=bits**2 / 4,
            avg_weight_bits=bits,
            avg_activation_bits=bits,
            size_kib=30.0 * bits,
            sha256=f"{bits:064x}",
            label=f"w{bits}a{bits}",
        )
        for bits in range(2, 9)
    ]
    history = [
        GenerationRecord(generation=place, accuracy=0.9 + place / 1000, hypervolume=place / 10)
        for place in range(1, 6)
    ]
    return plain.model_copy(
        update={
            "front": tuple(front),
            "baselines": tuple(baselines),
            "history": tuple(history),
            "sensitivities": {"conv1": 0.01, "conv2": -0.002},
            "budgets": {"size_kib": 60.0},
            "best": subnet(4, 0, ("conv1",)),
        }
    )


def five_artifacts(root: Path) -> list[Path]:
    """One artifact a built-in profile, among them a skipped execution."""
    no_gpu = "no GPU; the same graph was checked in ONNX Runtime"
    made: list[tuple[str, str, SubnetSpec, Verdict, float, str, float | None]] = [
        ("custom_lowbit", "lowbit", subnet(None), "passed", 0.9322, "", 0.71),
        ("custom_lowbit_w4a8", "lowbit", subnet(4), "passed", 0.9377, "", 0.52),
        ("onnxruntime_x86", "onnxruntime", subnet(8), "passed", 0.9403, "", 0.31),
        ("openvino_asym", "openvino", subnet(8), "passed", 0.9401, "", 0.34),
        ("tensorrt_int8", "tensorrt", subnet(8, 0, ("conv1",)), "passed", 0.9399, no_gpu, None),
    ]
    paths = []
    for name, backend, spec, verdict, accuracy, reason, ratio in made:
        paths.append(
            write_artifact(
                root / name,
                manifest(name, backend, spec),
                verified(name, backend, verdict, accuracy, reason),
                benched(name, backend, ratio, "" if ratio else "no GPU"),
            )
        )
    return paths


def unquantized(name: str, backend: str) -> Manifest:
    """A manifest whose race decided for the float model."""
    spec = subnet(8, 0, tuple(LAYERS)).model_copy(update={"activations": {}})
    entries = [
        Raced(name=FLOAT, milliseconds=2.0, to_float=1.0, interval=(1.0, 1.0)),
        Raced(name=ALL_FLOAT, milliseconds=2.01, to_float=1.005, interval=(0.99, 1.02)),
        Raced(name=DEFAULT, milliseconds=2.6, to_float=1.3, interval=(1.25, 1.36)),
    ]
    made = manifest(name, backend, spec)
    race = Race(chosen=ALL_FLOAT, entries=tuple(entries))
    return made.model_copy(update={"race": race, "subnet_origin": "race", "int8_layers": ()})


def located(report: VerifyReport) -> VerifyReport:
    """The report, with both runs' logits and one tensor beyond rounding."""
    outputs = [
        OutputComparison(
            run=run, against=against, source="bundled test", images=256, agreement=0.99, kl=0.01,
            error_mean=0.2, error_p99=1.5, error_max=3.0, labelled=256, top1=0.93, other_top1=0.94,
            accuracy_drop=1.0, accuracy_drop_interval=(-0.5, 2.5),
        )
        for run in RUNS
        for against in ("subnet", "float")
    ]  # fmt: skip
    tensors = [
        TensorError(
            depth=depth, tensor=f"{name}.out", layers=(name,), error=None if depth == 9 else depth,
            worst=2.0 * depth, added=float(depth == 5), added_share=0.1, beyond=depth == 5,
        )
        for depth, name in enumerate(LAYERS)
    ]  # fmt: skip
    location = Location(
        run="deployed", runtime=report.runtime, images=8, tensor=tensors[5].tensor,
        layer=LAYERS[5], cause="16-bit sums overflow", tensors=tuple(tensors),
    )  # fmt: skip
    return report.model_copy(update={"outputs": tuple(outputs), "location": location})


def evaluated(bits: int, form: Form) -> EvalReport:
    """What `eqnet eval` says of one uniform subnet."""
    accuracy = 0.9 + bits / 200
    return EvalReport(
        supernet="bundled",
        form=form,
        weight_bits=bits,
        activation_bits=bits,
        placement="paper",
        dataset="fashion-mnist",
        split="test",
        images=2000,
        accuracy=accuracy,
        interval=(accuracy - 0.01, accuracy + 0.01),
    )
