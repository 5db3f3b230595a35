"""Does `eqnet verify` find a planted fault and name its place? Random faults in random artifacts.

    python benchmarks/verify_faults.py --work DIR [--trials 100] [--seed 0] [--json FILE]
        [--kinds scale axis ...] [--quick]

A trial copies an artifact, plants one fault at a random layer or tensor (eqnet.testing.faults), as
an exporter that is wrong would have written it, and runs `verify` with `locate`. Networks: the
bundled ResNet-20 and a small MobileNetV2 with random weights after post-training (Fashion-MNIST,
ONNX Runtime and OpenVINO), and tiny ones of eqnet.testing (residual blocks, depthwise, grouped,
squeeze-and-excitation, concat, pooling; ONNX Runtime, OpenVINO and 4-bit QCDQ). Artifacts and
results are kept in --work, so that a run goes on where it was stopped.

- found: verify fails (checks and tensors together); `by logits`: without the look at tensors too
- named: the first wrong tensor is the planted one, or of the planted layer; of a quantizer that
  only the target's form has, the line that says why names it

A fault that moves no logit of the stored images by more than a step of their 8-bit grid, in
neither run, is none: another place is drawn, and the draw is counted under `no effect`.

Kinds: scale (weights' or a tensor's, times 1.3 to 8 or the inverse), axis (scales permuted or two
axes exchanged), batch_norm (gamma / sigma lost), bias (on another scale), wide (one layer's weights
in 8 bits on kernels that add in 16: real overflow, OpenVINO under ONEDNN_MAX_CPU_ISA=AVX2 and, on
a CPU without VNNI, ONNX Runtime in the session that users have by default), clipped (a saturating
sum, emulated by a Clip), bfloat16 (one layer in bfloat16, emulated by Casts).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")  # before OpenVINO is loaded

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from eqnet.backend.artifact import read_manifest, read_parity, write_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.files import new_folder, sha256_file
from eqnet.backend.graph.reading import layers_of
from eqnet.backend.machine.isa import this_cpu
from eqnet.backend.preprocess import preprocess
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import (
    MODEL,
    PARITY,
    REFERENCE,
    Manifest,
    ModelInfo,
    ParitySet,
    Preprocessing,
)
from eqnet.stages.verify import verify
from eqnet.stages.verify.execute import choose_target, open_graph, run_batches
from eqnet.testing.faults import KINDS, NoPlaceError, Planted, plant, seal
from eqnet.testing.nets import networks
from eqnet.testing.subnets import subnet_of

GOAL = 0.95
IMAGES = 64
PROFILES = ("onnxruntime_avx2", "openvino_avx2")
TINY = ("resnet20", "residual", "depthwise", "groups", "squeeze_excite", "concat", "pooling")
TINY_PROFILES = (*PROFILES, "custom_lowbit_w4a8")
DRAWS = 60


class Trial(NamedTuple):
    """One fault: where it was, what verify said, and how many draws had no effect before it."""

    kind: str
    artifact: str
    fault: str
    place: str
    found: bool
    by_logits: bool
    named: bool
    answer: str
    cause: str
    no_effect: int


def artifacts(work: Path) -> list[Path]:
    """Make every sound artifact that is not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    mobilenet = work / "mobilenet_small.supernet"
    if not mobilenet.is_dir():
        _eqnet("train", "--post-training", "--model", "eqnet:mobilenet_small", "--out", mobilenet)
    made = []
    for profile in PROFILES:
        for name, options in (("resnet20", ()), ("mobilenet", ("--supernet", mobilenet))):
            folder = work / f"{name}.{profile}"
            if not folder.is_dir():
                _eqnet("export", "-p", profile, "--no-race", "--out", folder, *options)
                _keep_few_images(folder)
            made.append(folder)
    for net in TINY:
        for profile in TINY_PROFILES:
            folder = work / f"tiny_{net}.{profile}"
            if not folder.is_dir():
                _tiny(folder, net, profile)
            made.append(folder)
    return made


def _eqnet(*arguments: object) -> None:
    command = [sys.executable, "-m", "eqnet", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _keep_few_images(folder: Path) -> None:
    manifest, tensors = read_manifest(folder), load_file(folder / PARITY)
    save_file({name: array[:IMAGES].copy() for name, array in tensors.items()}, folder / PARITY)
    parity = manifest.parity.model_copy(update={"images": IMAGES})
    seal(folder, manifest.model_copy(update={"parity": parity}))


def _tiny(folder: Path, net: str, profile_name: str) -> None:
    """An artifact of a tiny network of the contract suite, with PyTorch's logits."""
    profile = load_profile(profile_name)
    exporter, subnet, shape = (
        find_exporter(profile.backend),
        subnet_of(net, profile),
        networks.RECIPES[net].shape,
    )
    rules = Preprocessing(mean=(0.5,) * 3, std=(0.2,) * 3)
    images = networks.images(IMAGES, shape, 5).numpy()
    pixels = np.clip(np.rint(255 * (0.5 + 0.2 * images)), 0, 255).astype(np.uint8)
    with torch.no_grad():
        logits = subnet.net(torch.from_numpy(preprocess(pixels, rules))).numpy()
    with new_folder(folder) as made:
        import onnx_ir as ir

        ir.save(subnet.reference, made / REFERENCE)
        ir.save(exporter.lower(subnet.reference, profile), made / MODEL)
        labels = np.full(IMAGES, -1, np.int64)
        save_file({"pixels": pixels, "logits": logits, "labels": labels}, made / PARITY)
        names = exporter.finish(made, profile)
        files = {name: sha256_file(made / name) for name in (MODEL, REFERENCE, PARITY, *names)}
        manifest = Manifest(
            backend=profile.backend,
            profile=profile,
            subnet=subnet.spec,
            subnet_origin="default",
            model=ModelInfo(
                source=f"eqnet.testing:{net}", input_shape=shape, classes=logits.shape[1]
            ),
            preprocessing=rules,
            parity=ParitySet(
                images=IMAGES, source="random", logit_step=float(np.ptp(logits) / 255)
            ),
            layers=tuple(layers_of(subnet.reference)),
            int8_layers=(),
            weight_bytes=1,
            versions={},
            files=files,
        )
        write_manifest(made, manifest)


class Answer(NamedTuple):
    """What verify says. by_logits: whether a check fails that does not look at tensors."""

    failed: bool
    by_logits: bool
    layer: str | None
    tensor: str | None
    cause: str


def ask(folder: Path) -> Answer:
    """Verify an artifact, tensors included."""
    report = verify(folder, threads=1, locate=True)
    failed = {check.name for check in report.checks if check.verdict == "failed"}
    location = report.location
    assert location is not None
    by_logits = bool(failed - {"tensors"})
    return Answer(bool(failed), by_logits, location.layer, location.tensor, location.cause)


def largest_error(folder: Path) -> float:
    """Of the logits of the stored images in either run, in steps; infinite for no number."""
    manifest = read_manifest(folder)
    parity, executor = read_parity(folder, manifest), choose_target(manifest).executor
    worst = 0.0
    for optimize in (True, False):
        graph = open_graph(executor, folder / MODEL, manifest, optimize=optimize, threads=1)
        logits = run_batches(graph, parity.pixels, "", None)
        error = float(np.abs(logits - parity.logits).max()) / manifest.parity.logit_step
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


@contextlib.contextmanager
def runtimes(kind: str) -> Iterator[None]:
    """For real overflow, ONNX Runtime as its users open it; else as eqnet does."""
    if kind != "wide":
        yield
        return
    with mock.patch("eqnet_exporters.ort.session.on_x86", return_value=False):
        yield


def suited(folders: Sequence[Path], kind: str) -> list[Path]:
    """The artifacts that a kind of fault can be planted in."""
    if kind != "wide":
        return list(folders)
    overflows = this_cpu().adds_in_16_bits()
    names = ("openvino_avx2", *(("onnxruntime_avx2",) if overflows else ()))
    return [folder for folder in folders if folder.suffix[1:] in names]


def trial(
    folders: Sequence[Path], sound: dict[Path, float], kind: str, seed: tuple[int, ...], work: Path
) -> Trial:
    """Draw faults until one has an effect, and say what verify makes of it."""
    scratch, places = work / "trial", suited(folders, kind)
    for draw in range(DRAWS):
        rng = np.random.default_rng((*seed, draw))
        base = places[int(rng.integers(len(places)))]
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(base, scratch)
        try:
            planted = plant(scratch, kind, rng)
        except NoPlaceError:
            continue
        with runtimes(kind):
            if largest_error(scratch) > sound[base] + 1:
                return _judged(kind, base, planted, ask(scratch), draw)
    raise SystemExit(f"{kind}: {DRAWS} faults without effect")


def _judged(kind: str, base: Path, planted: Planted, answer: Answer, draws: int) -> Trial:
    if planted.tensor is not None:
        named = planted.tensor == answer.tensor or f"'{planted.tensor}'" in answer.cause
    else:
        named = answer.layer == planted.layer
    return Trial(
        kind,
        base.name,
        planted.text,
        planted.layer or planted.tensor or "",
        answer.failed,
        answer.by_logits,
        named,
        f"{answer.layer} / {answer.tensor}",
        answer.cause,
        draws,
    )


def table(found: Sequence[Trial]) -> str:
    """One row for each kind."""
    lines = ["| fault | trials | found | by logits alone | named | draws without effect |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in KINDS:
        some = [one for one in found if one.kind == kind]
        if some:
            counts = [
                len(some),
                sum(one.found for one in some),
                sum(one.by_logits for one in some),
                sum(one.named for one in some),
                sum(one.no_effect for one in some),
            ]
            lines.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing of the trials, and say how many were found and named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--quick", action="store_true", help="5 trials of each kind")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count = 5 if options.quick else options.trials
    torch.set_num_threads(1)
    folders = artifacts(options.work)
    log = options.work / f"trials.{options.seed}.jsonl"
    done = _done(log)
    sound = {folder: largest_error(folder) for folder in folders}
    wrong = [folder.name for folder in folders if ask(folder).failed]
    print(f"sound artifacts: {len(folders)}, of which verify calls wrong: {len(wrong)} {wrong}")
    start = time.process_time()
    for index, (number, kind) in product(range(count), enumerate(KINDS)):
        if kind not in options.kinds or (kind, index) in done:
            continue
        one = trial(folders, sound, kind, (options.seed, number, index), options.work)
        done[kind, index] = one
        with log.open("a") as file:
            file.write(json.dumps({"index": index, **one._asdict()}) + "\n")
    found = [one for (_, index), one in sorted(done.items()) if index < count]
    print(table(found))
    for one in found:
        if not one.named:
            print(f"  {one.kind} in {one.artifact}, {one.place} ({one.fault}): {one.answer}")
    if options.json:
        options.json.write_text(json.dumps([one._asdict() for one in found], indent=1) + "\n")
    share = min(_share(found, kind) for kind in {one.kind for one in found})
    seconds = time.process_time() - start
    print(
        f"named: {100 * share:.0f} % of the worst kind (goal: {100 * GOAL:.0f} %), {seconds:.0f} s"
    )


def _share(found: Sequence[Trial], kind: str) -> float:
    some = [one.named for one in found if one.kind == kind]
    return sum(some) / len(some)


def _done(log: Path) -> dict[tuple[str, int], Trial]:
    found = {}
    for line in log.read_text().splitlines() if log.is_file() else ():
        row = json.loads(line)
        index = row.pop("index")
        found[row["kind"], index] = Trial(**row)
    return found


if __name__ == "__main__":
    main()
