"""What other post-training tools make of a network, one tool a process.

    python benchmarks/pretrained_peers.py NAME FOLDER [--bits 4,8] [--iterations N] [--seed 0]

Called by `benchmarks/pretrained.py` with the interpreter that has the tools (`--peers-python`).
FOLDER holds `float.onnx` (input `input`, float32), `network.txt` (a name of `real_weights.NETS`),
`calibration.npy` and `evaluation.npy` (uint8 crops). A tool leaves a model that a runtime can run
or, where it only simulates, the evaluation's logits, and `NAME.json` with seconds and versions.

Low bits: per-channel symmetric weights, per-tensor activations, 8 bits in the first and the last
layer, as in eqnet's uniform subnets.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FLOAT, NETWORK = "float.onnx", "network.txt"
EDGE_BITS = 8
BATCH = 8
MOST_AT_ONCE = 11  # images, of which every tensor is in memory


@dataclass(frozen=True)
class Job:
    """What is asked of a tool: bits as (weights, activations), iterations for each layer."""

    name: str
    folder: Path
    bits: tuple[int, int]
    iterations: int
    seed: int

    def batches(self, split: str, size: int) -> Iterator[Floats]:
        """Crops of a split as the network takes them."""
        pixels = np.load(self.folder / f"{split}.npy", mmap_mode="r")
        for start in range(0, len(pixels), size):
            yield (np.asarray(pixels[start : start + size], np.float32) - 127) / np.float32(128)

    @property
    def images(self) -> int:
        """How many calibration images there are."""
        return len(np.load(self.folder / "calibration.npy", mmap_mode="r"))

    def logits(self, call: Callable[[Floats], Floats]) -> str:
        """Run the evaluation crops through a simulation and save what it gives."""
        file = f"{self.name}.npy"
        np.save(self.folder / file, np.concatenate([*map(call, self.batches("evaluation", BATCH))]))
        return file


def nncf(job: Job, preset: str, overflow_fix: bool = True, fast_bias: bool = True) -> str:
    """NNCF's post-training quantization for OpenVINO."""
    import nncf
    import openvino as ov

    fix = nncf.OverflowFix
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=fix.FIRST_LAYER if overflow_fix else fix.DISABLE
    )
    quantized = nncf.quantize(
        ov.Core().read_model(job.folder / FLOAT),
        nncf.Dataset(list(job.batches("calibration", 1))),
        preset=nncf.QuantizationPreset(preset),
        subset_size=job.images,
        fast_bias_correction=fast_bias,
        advanced_parameters=advanced,
    )
    file = f"{job.name}.xml"
    ov.save_model(quantized, str(job.folder / file), compress_to_fp16=False)
    return file


def quantize_static(job: Job, method: str, reduce_range: bool = False) -> str:
    """ONNX Runtime's quantizer after its recommended preprocessing: U8S8 QDQ, per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
    )
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
        """Image by image, in parts: the histograms' tensors are held for one part at a time."""

        def __init__(self) -> None:
            self.set_range(0, len(self))

        def __len__(self) -> int:
            return job.images

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = itertools.islice(job.batches("calibration", 1), start_index, end_index)

        def get_next(self) -> dict[str, Floats] | None:
            batch = next(self._left, None)
            return None if batch is None else {"input": batch}

    part = next(size for size in range(MOST_AT_ONCE, 0, -1) if job.images % size == 0)
    prepared, file = job.folder / f"{job.name}.prepared.onnx", f"{job.name}.onnx"
    quant_pre_process(str(job.folder / FLOAT), str(prepared))
    quantize(
        str(prepared),
        str(job.folder / file),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options={"CalibStridedMinMax": part},  # its name; it is for every method
    )
    prepared.unlink()
    return file


def adaround(job: Job) -> str:
    """AIMET's AdaRound on ONNX, with its default scheme for what CPUs run."""
    import onnx
    from aimet_onnx import QuantizationSimModel, apply_adaround
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    np.random.seed(job.seed)
    _seed_torch(job.seed)
    model = onnx.load(job.folder / FLOAT)
    fold_all_batch_norms_to_weight(model)
    weights, activations = job.bits
    sim = QuantizationSimModel(
        model,
        param_type=f"int{weights}",
        activation_type=f"int{activations}",
        quant_scheme="tf_enhanced",
        providers=["CPUExecutionProvider"],
        config_file=_aimet_config(),
    )
    _widen_edges(sim)
    inputs = [{"input": batch} for batch in job.batches("calibration", BATCH)]
    apply_adaround(sim, inputs, num_iterations=job.iterations)
    sim.compute_encodings(inputs)
    return job.logits(lambda batch: sim.session.run(None, {"input": batch})[0])


def _aimet_config() -> str:
    """AIMET's configuration with a scale for each channel of the weights."""
    from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config

    return str(get_path_for_per_channel_config())


def _widen_edges(sim: Any) -> None:
    """8 bits for the first and last layer's weights and for the activations that they read."""
    nodes = sim.model.model.graph.node
    producers = {name: node for node in nodes for name in node.output}
    layers = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    for layer in (layers[0], layers[-1]):
        for name in layer.input[:2]:
            while name.removesuffix("_qdq").removesuffix("_updated") not in sim.qc_quantize_op_dict:
                name = producers[name].input[0]  # what only moves data has no quantizer
            name = name.removesuffix("_qdq").removesuffix("_updated")
            sim.qc_quantize_op_dict[name].set_bitwidth(EDGE_BITS)


def brevitas(job: Job, method: str) -> str:
    """Brevitas: rounding by GPTQ, GPFQ or learned (AdaRound), and bias correction."""
    import torch
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common as ptq
    from real_weights import NETS

    if method == "learned_round":
        import accelerate  # noqa: F401  # said now if it is missing, and not after calibration
    _seed_torch(job.seed)
    model = _plain(NETS[(job.folder / NETWORK).read_text()]())
    model = preprocess_for_quantize(model, relu6_to_relu=False, equalize_iters=0)
    weights, activations = job.bits
    quantized = ptq.quantize_model(
        model,
        backend="layerwise",
        weight_bit_width=weights,
        act_bit_width=activations,
        bias_bit_width=32,
        weight_quant_granularity="per_channel",
        act_quant_percentile=99.99,
        act_quant_type="asym",
        scale_factor_type="float_scale",
        quant_format="int",
        layerwise_first_last_bit_width=EDGE_BITS,
        weight_param_method="mse",
        act_param_method="mse",
        weight_quant_type="sym",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    quantized.to(device).eval()
    inputs = [torch.from_numpy(batch).to(device) for batch in job.batches("calibration", 2 * BATCH)]
    loader = [(batch, torch.zeros(len(batch))) for batch in inputs]
    with torch.no_grad():
        quantized(loader[0][0])
    ptq.calibrate(loader, quantized)
    if method == "gptq":
        ptq.apply_gptq(loader, quantized, act_order=True)
    elif method == "gpfq":
        ptq.apply_gpfq(loader, quantized, act_order=True)
    elif method == "learned_round":
        _learned_round(quantized, loader, job.iterations)
    ptq.apply_bias_correction(loader, quantized)
    with torch.no_grad():
        return job.logits(lambda batch: quantized(torch.from_numpy(batch).to(device)).cpu().numpy())


def _plain(model: Any) -> Any:
    """Convolutions with padding of their own as two modules, which Brevitas knows by class."""
    from torch import nn

    for name, child in model.named_children():
        padding = getattr(child, "static_padding", None)
        if padding is None:
            _plain(child)
            continue
        conv = nn.Conv2d(
            child.in_channels,
            child.out_channels,
            child.kernel_size,
            child.stride,
            dilation=child.dilation,
            groups=child.groups,
            bias=child.bias is not None,
        )
        conv.weight, conv.bias = child.weight, child.bias
        setattr(model, name, nn.Sequential(padding, conv))
    return model.eval()


def _learned_round(model: Any, loader: list[Any], iterations: int) -> None:
    """AdaRound, layer by layer, with the defaults of Brevitas' example but its batch of 1."""
    from brevitas_examples.imagenet_classification.ptq.learned_round_utils import (
        apply_learned_round,
    )

    options = argparse.Namespace(
        learned_round="hard_sigmoid",
        learned_round_mode="layerwise",
        learned_round_iters=iterations,
        learned_round_lr=1e-3,
        learned_round_lr_scheduler=None,
        learned_round_batch_size=BATCH,
        learned_round_loss="regularised_mse",
    )
    apply_learned_round(model, loader, options)


def _seed_torch(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


TOOLS: dict[str, Callable[[Job], str]] = {
    "nncf_performance": partial(nncf, preset="performance"),
    "nncf_mixed": partial(nncf, preset="mixed"),
    "nncf_performance_no_fix": partial(nncf, preset="performance", overflow_fix=False),
    "nncf_mixed_no_fix": partial(nncf, preset="mixed", overflow_fix=False),
    "nncf_performance_full_bias": partial(nncf, preset="performance", fast_bias=False),
    "quantize_static_minmax": partial(quantize_static, method="MinMax"),
    "quantize_static_percentile": partial(quantize_static, method="Percentile"),
    "quantize_static_minmax_7bit": partial(quantize_static, method="MinMax", reduce_range=True),
    "aimet_adaround": adaround,
    "brevitas_rtn": partial(brevitas, method="rtn"),
    "brevitas_gptq": partial(brevitas, method="gptq"),
    "brevitas_gpfq": partial(brevitas, method="gpfq"),
    "brevitas_learned_round": partial(brevitas, method="learned_round"),
}
PACKAGES = ("nncf", "openvino", "onnxruntime", "aimet-onnx", "brevitas", "torch")


def versions() -> dict[str, str]:
    """Of the packages that take part and are there."""
    known = {}
    for package in PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return known


def main() -> None:
    """Run one tool; what is not installed is said in the result file, not raised."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", choices=list(TOOLS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True, help="of the files that are written")
    parser.add_argument("--bits", default="8,8", help="weights,activations")
    parser.add_argument("--iterations", type=int, default=1000, help="for each layer")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    weights, activations = map(int, arguments.bits.split(","))
    job = Job(
        arguments.name,
        arguments.folder,
        (weights, activations),
        arguments.iterations,
        arguments.seed,
    )
    start = time.perf_counter()
    try:
        result: dict[str, Any] = {"file": TOOLS[arguments.tool](job)}
    except ModuleNotFoundError as error:
        result = {"skipped": f"{error.name or error} is not installed"}
    result |= {"seconds": time.perf_counter() - start, "versions": versions()}
    (job.folder / f"{job.name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
