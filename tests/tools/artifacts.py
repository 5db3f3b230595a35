"""Artifact folders made by hand, as `eqnet export` writes them, for tests without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from safetensors.numpy import save_file

from eqnet.backend.artifact import write_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.files import sha256_file
from eqnet.backend.graph.reading import layers_of
from eqnet.backend.judge import compare_with_float
from eqnet.backend.preprocess import preprocess
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import (
    MANIFEST,
    MODEL,
    PARITY,
    REFERENCE,
    Manifest,
    ModelInfo,
    ParitySet,
    Preprocessing,
)
from eqnet.spec.seal import sealed
from eqnet.spec.subnet import SubnetSpec

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.6), std=(0.25, 0.3, 0.2))


def profile(backend: str = "onnxruntime", **changes: object) -> HardwareProfile:
    """A valid profile for CPUs; `changes` replace top-level keys."""
    content = {
        "schema_version": 1,
        "name": "by_hand",
        "backend": backend,
        "weights": {"granularity": "per_channel", "symmetry": "symmetric"},
        "activations": {"symmetry": "asymmetric"},
        "placement": {"add": "both", "carriers": ["add", "pool"]},
        "cost": {"model": "size"},
        **changes,
    }
    return HardwareProfile.model_validate(content)


def run_plain(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """Logits of a graph in ONNX Runtime without optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    logits: np.ndarray = session.run(None, {"input": inputs})[0]
    return logits


def pixels(images: int = 64, seed: int = 3) -> np.ndarray:
    """Random uint8 images of shape [images, 3, 8, 8], each with its own brightness."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (images, 3, 1, 1))
    made: np.ndarray = np.clip(base + rng.integers(-60, 61, (images, 3, 8, 8)), 0, 255)
    return made.astype(np.uint8)


def write_artifact(
    folder: Path,
    reference: onnx.ModelProto,
    target: HardwareProfile,
    *,
    labels: np.ndarray | None = None,
    shift: float = 0.0,
    dataset: str | None = None,
    promised: tuple[str, ...] | None = None,
    float_logits: np.ndarray | None = None,
) -> Manifest:
    """Lower `reference` for `target` and write the whole folder; its own logits are the truth.

    shift is added to the stored logits of class 0, labels default to the stored top-1. Without
    float_logits it is an artifact from before they were stored.
    """
    folder.mkdir(parents=True)
    neutral = ir.from_proto(reference)
    ir.save(neutral, folder / REFERENCE)
    exporter = find_exporter(target.backend)
    ir.save(exporter.lower(neutral, target), folder / MODEL)
    images = pixels()
    logits = run_plain(reference, preprocess(images, PREPROCESSING))
    logits[:, 0] += np.float32(shift)
    known = logits.argmax(axis=1) if labels is None else labels
    tensors = {"pixels": images, "logits": logits, "labels": known.astype(np.int64)}
    against_float = None
    if float_logits is not None:
        tensors["float_logits"] = float_logits
        against_float = compare_with_float(logits, float_logits, tensors["labels"])
    save_file(tensors, folder / PARITY)
    names = tuple(layers_of(neutral))
    manifest = Manifest(
        backend=target.backend,
        profile=target,
        subnet=SubnetSpec(
            supernet="0" * 64,
            form=target.form(),
            weights=dict.fromkeys(names, 8),
            activations={},
            carriers={},
            avg_weight_bits=8,
            avg_activation_bits=8,
        ),
        subnet_origin="default",
        model=ModelInfo(source="hand", input_shape=(3, 8, 8), classes=10, dataset=dataset),
        preprocessing=PREPROCESSING,
        parity=ParitySet(
            images=len(images),
            source="random",
            logit_step=float(np.ptp(logits) / 255),
            against_float=against_float,
        ),
        layers=names,
        int8_layers=names if promised is None else promised,
        weight_bytes=1,
        versions={},
        files={name: sha256_file(folder / name) for name in (MODEL, REFERENCE, PARITY)},
    )
    return write_manifest(folder, manifest)


def rewrite(folder: Path, **changes: object) -> None:
    """Change top-level keys of the manifest and its digest, as a careful forger would."""
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(sealed({**content, **changes})))


def replace_file(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    """Replace a file and record its new hash, as a careful forger would."""
    write(folder / name)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    rewrite(folder, files={**files, name: sha256_file(folder / name)})
