"""Builds what `export_latency.py` races: our artifacts, and what the vendors' tools make.

All start from one float graph (`float.onnx`: the captured net, batch norm folded, PyTorch's
exporter), with random weights: latency does not depend on them. Every net gets a folder with
its models and `contestants.json`, which lists them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from eqnet.backend.discovery import find_exporter
from eqnet.models.loader import load_model
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.subnet import REMAINDER
from eqnet.stages.search.space import Space
from eqnet.subnets.build import PAPER_STYLE, build_spec
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 224, 224)
CLASSES = 1000
CALIBRATION_IMAGES = 4
LISTING, FLOAT = "contestants.json", "float.onnx"


@dataclass(frozen=True)
class Contestant:
    """One model file and how to run it.

    role: "ours", "int8" (a peer's) or "float". precision: of what is not quantized, OpenVINO
    only. profile: of our artifacts.
    """

    name: str
    runtime: str
    role: str
    file: str
    precision: str = "f32"
    profile: str = ""

    def open(self, folder: Path, threads: int) -> Callable[[np.ndarray], object]:
        """A function from float32 [N, C, H, W] to logits, with the model loaded."""
        path = folder / self.file
        if self.profile:
            rules = load_profile(self.profile)
            exporter = find_exporter(rules.backend)
            return exporter.open(path, threads=threads, profile=rules)
        if self.role == "ours":  # another target's, run with the settings that its integers need
            return find_exporter(self.runtime).open(path, threads=threads)
        return OPENERS[self.runtime](path, threads, self.precision)


def _open_onnxruntime(path: Path, threads: int, precision: str) -> Callable[[Any], object]:
    """A session with ONNX Runtime's defaults; as for ours, its threads rest between runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})


def _open_openvino(path: Path, threads: int, precision: str) -> Callable[[Any], object]:
    import openvino as ov

    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = ov.Core().compile_model(str(path), "CPU", config).create_infer_request()
    return lambda inputs: np.array(
        request.infer({0: inputs}, share_inputs=True, share_outputs=True)[0]
    )


OPENERS = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}


def build(net: str, folder: Path, profiles: Sequence[str], *, whole_space: bool) -> None:
    """Make every contestant of a torchvision net in `folder`; peers that are there stay.

    whole_space: all subnets of each profile's search space, from which the fastest is then
    measured out as `eqnet search` does, or else the default subnet alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    supernet = supernet_of(net)
    kept = [one for one in read(folder) if one.profile not in profiles]
    ours = list(_ours(supernet, folder, profiles, whole_space))
    plain = folder / FLOAT
    if not plain.is_file():
        ir.save(_float_graph(supernet), plain)
    for runtime in {one.runtime for one in ours} - {one.runtime for one in kept if not one.profile}:
        kept += PEERS[runtime](plain, folder)
    listing = json.dumps([dataclasses.asdict(one) for one in (*ours, *kept)], indent=2)
    (folder / LISTING).write_text(listing)


def read(folder: Path) -> list[Contestant]:
    """The contestants that `build` made in a folder; none if it was not built."""
    path = folder / LISTING
    return [Contestant(**one) for one in json.loads(path.read_text())] if path.is_file() else []


def images(batch: int) -> np.ndarray:
    """Random images, float32 [batch, 3, 224, 224]."""
    return np.random.default_rng(0).standard_normal((batch, *SHAPE)).astype(np.float32)


def supernet_of(net: str) -> Supernet:
    """A calibrated supernet; statistics are collected, or deep nets would overflow."""
    torch.manual_seed(0)
    supernet = Supernet(load_model(f"torchvision:{net}", classes=CLASSES, in_channels=3), SHAPE)
    batch = torch.from_numpy(images(CALIBRATION_IMAGES))
    supernet.apply_float()
    supernet.recalibrate([batch])
    calibrate(supernet, [batch])
    return supernet


def _float_graph(supernet: Supernet) -> ir.Model:
    info = supernet.info
    form = load_profile("onnxruntime_x86").form()
    weights = {layer.name: REMAINDER for layer in info.layers}
    return to_onnx(extract(supernet, build_spec(info, PAPER_STYLE, form, weights, {})), SHAPE)


def _ours(
    supernet: Supernet, folder: Path, profiles: Sequence[str], whole_space: bool
) -> Iterator[Contestant]:
    """Our artifacts' `model.onnx`; subnets that give one and the same graph count once."""
    for profile in profiles:
        rules, known = load_profile(profile), set[str]()
        exporter = find_exporter(rules.backend)
        target = Target.of(supernet.info, rules)
        space = Space.of(target, "benchmark")
        specs = {"default": target.default("benchmark")}
        if whole_space:
            specs |= {space.label(genome): space.subnet(genome) for genome in space.all_genomes()}
        for label, spec in specs.items():
            choices = json.dumps([spec.weights, spec.activations, spec.carriers], sort_keys=True)
            key = hashlib.sha256(choices.encode()).hexdigest()
            if key in known:
                continue
            known.add(key)
            file = f"{profile}.{key[:8]}.onnx"
            ir.save(exporter.lower(to_onnx(extract(supernet, spec), SHAPE), rules), folder / file)
            yield Contestant(f"{profile}: {label}", rules.backend, "ours", file, profile=profile)


def _onnxruntime_peers(plain: Path, folder: Path) -> Iterator[Contestant]:
    """`quantize_static` after its recommended preprocessing, per-channel weights, QDQ."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "ort_prepared.onnx"
    quant_pre_process(str(plain), str(prepared))
    for name, kind in (("U8S8", QuantType.QUInt8), ("S8S8", QuantType.QInt8)):
        file = f"ort_{name.lower()}.onnx"
        quantize_static(
            str(prepared),
            str(folder / file),
            _Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=kind,
            weight_type=QuantType.QInt8,
        )
        yield Contestant(f"quantize_static {name}", "onnxruntime", "int8", file)
    yield Contestant("float32", "onnxruntime", "float", plain.name)


class _Reader:
    """Calibration images, one at a time, as ONNX Runtime's quantizer asks for them."""

    def __init__(self) -> None:
        self._left = iter(np.split(images(CALIBRATION_IMAGES), CALIBRATION_IMAGES))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image [1, 3, 224, 224] by input name, or None when all were given."""
        image = next(self._left, None)
        return None if image is None else {"input": image}


def _openvino_peers(plain: Path, folder: Path) -> Iterator[Contestant]:
    """NNCF's presets and the float net, with float32 and with bfloat16 (the runtime's default)."""
    import nncf
    import openvino as ov

    batches = np.split(images(CALIBRATION_IMAGES), CALIBRATION_IMAGES)
    # Bias correction moves constants only, so it costs time here and changes no latency.
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    make = partial(
        nncf.quantize,
        subset_size=CALIBRATION_IMAGES,
        advanced_parameters=advanced,
        calibration_dataset=nncf.Dataset(batches),
    )
    for preset in ("performance", "mixed"):
        file = f"nncf_{preset}.xml"
        quantized = make(ov.Core().read_model(plain), preset=nncf.QuantizationPreset(preset))
        ov.save_model(quantized, str(folder / file), compress_to_fp16=False)
        for precision in ("f32", "bf16"):
            yield Contestant(f"NNCF {preset} {precision}", "openvino", "int8", file, precision)
    for precision in ("f32", "bf16"):
        yield Contestant(f"float {precision}", "openvino", "float", plain.name, precision)


PEERS = {"onnxruntime": _onnxruntime_peers, "openvino": _openvino_peers}
