"""`eqnet export`: a subnet becomes an artifact folder that verifies on any machine."""

from __future__ import annotations

import math
import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import fx

from eqnet import __version__
from eqnet.backend.artifact import foreign_content, read_manifest
from eqnet.backend.decisions import classes_of, decide
from eqnet.backend.discovery import exporter_of
from eqnet.backend.files import new_folder, sha256_file, write_file
from eqnet.backend.judge import compare_with_float
from eqnet.backend.protocol import BuildReports, Exporter
from eqnet.backend.refusals import accepted_refusals, keeps_int8
from eqnet.export.reference import check_reference
from eqnet.spec.errors import ArtifactError, CheckpointError, OutputError
from eqnet.spec.manifest import (
    MANIFEST,
    MODEL,
    PARITY,
    REFERENCE,
    Manifest,
    ModelInfo,
    ParitySet,
)
from eqnet.spec.profile import HardwareProfile
from eqnet.spec.profiles import load_profile
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.subnet import REMAINDER, SubnetSpec, load_subnet
from eqnet.supernet.checkpoint import Header
from eqnet.supernet.extract import extract
from eqnet.supernet.info import NetworkInfo
from eqnet.supernet.measure import Batches, logits
from eqnet.supernet.membership import first_difference
from eqnet.supernet.qdq import to_onnx
from eqnet.supernet.session import Session, open_session
from eqnet.supernet.target import Target

PARITY_BYTES = 8 << 20
PARITY_IMAGES = 256
STAGES = 4
VERSIONED = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy")


Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class _Truth(NamedTuple):
    """What runtimes are held to. pixels: uint8 [N, C, H, W], labels: int64 [N] (-1: unknown).

    batches: the same images, preprocessed. float_logits: None where the float model is lost.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: Labels
    batches: Batches
    float_logits: Logits | None


class Subnet(NamedTuple):
    """A subnet and where it came from."""

    spec: SubnetSpec
    origin: str


def export(
    *,
    profile: str,
    supernet: Path | None = None,
    subnet: Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    allow_code: bool = False,
    searches: Path | None = Path("runs/search"),
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Export a subnet for a profile into the folder `out` (None: artifacts/<profile name>).

    subnet: a subnet file; None takes `searches`/<profile>/subnet.json where it was searched in
    this supernet under this profile, else the profile's default subnet, as where `searches` is
    None. force: replace an artifact in `out` even if it is of another supernet or profile.
    Raises ProfileError for what the target cannot execute well, CheckpointError for a subnet
    that is not of this supernet and profile, InfeasibleError where the default subnet cannot be
    within the profile's budgets, OutputError where `out` cannot be written or is kept.
    """
    rules = load_profile(profile)
    exporter = checked_exporter(rules)
    session = open_session(supernet, data, allow_code=allow_code)
    chosen = choose_subnet(session, rules, subnet, searches)
    folder = out or Path("artifacts") / rules.name
    if not force:
        _require_replaceable(folder, session, rules)
    return export_in(session, rules, exporter, chosen, folder, progress)


def _require_replaceable(folder: Path, session: Session, profile: HardwareProfile) -> None:
    """Refuse to replace what exporting again would not bring back: another net or profile."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        found = read_manifest(folder)
    except ArtifactError:
        return  # whoever makes the folder says what it holds
    if (found.subnet.supernet, found.profile.name) != (session.identity, profile.name):
        raise OutputError(
            f"{folder}: holds an artifact of {found.model.source}, supernet "
            f"{found.subnet.supernet[:12]}, for profile '{found.profile.name}' (allowed: another "
            f"path, or --force to replace it by supernet {session.identity[:12]}, profile "
            f"'{profile.name}')"
        )


def checked_exporter(profile: HardwareProfile) -> Exporter:
    """The exporter of a profile. Raises ProfileError for what it cannot execute well."""
    exporter = exporter_of(profile)
    accepted_refusals(exporter, profile)
    return exporter


def choose_subnet(
    session: Session, profile: HardwareProfile, path: Path | None, searches: Path | None
) -> Subnet:
    """The subnet to export, and where it came from.

    Raises CheckpointError for one of another supernet or profile, or that the profile's search
    could not have chosen, and what `Target.default` raises where there is none.
    """
    target = Target.of(session.supernet.info, profile)
    if path is not None:
        spec = load_subnet(path)
        _check_belongs(path, spec, session, profile)
        return Subnet(_checked(path, spec, target), str(path))
    found = None if searches is None else searches / profile.name / "subnet.json"
    if found is not None and found.is_file():
        spec = load_subnet(found)
        if spec.supernet == session.identity and spec.profile_sha256 == profile.sha256():
            return Subnet(_checked(found, spec, target), "search")
    return Subnet(target.default(session.identity), "default")


def _checked(path: Path, spec: SubnetSpec, target: Target) -> SubnetSpec:
    """The subnet, if the profile's search could have chosen it."""
    difference = first_difference(target, spec)
    if difference is not None:
        raise CheckpointError(
            f"{path}: {difference}; no such subnet is of profile '{target.profile.name}'"
        )
    return spec


def _check_belongs(
    path: Path, spec: SubnetSpec, session: Session, profile: HardwareProfile
) -> None:
    if spec.supernet != session.identity:
        raise CheckpointError(
            f"{path}: searched in supernet {spec.supernet[:12]} (allowed: this one, "
            f"{session.identity[:12]})"
        )
    if spec.profile_sha256 != profile.sha256():
        raise CheckpointError(
            f"{path}: searched under profile '{spec.profile}' in another form "
            f"(allowed: '{profile.name}' as it is now)"
        )


def export_in(
    session: Session,
    profile: HardwareProfile,
    exporter: Exporter,
    chosen: Subnet,
    out: Path,
    progress: Progress | None = None,
) -> Manifest:
    """As `export`, in a session that is open."""
    progress = progress or Silent()
    progress.start(f"export {profile.name}", STAGES)
    truth = _truth(session)
    session.settle(chosen.spec, session.calibration())
    net = extract(session.supernet, chosen.spec)
    progress.advance(stage="graph")
    reference = to_onnx(net, session.header.input_shape)
    progress.advance(stage="parity")
    with new_folder(out, foreign=foreign_content) as folder:
        ir.save(reference, folder / REFERENCE)
        check_reference(folder / REFERENCE, net, truth.batches.images)
        parity = _write_parity(session, net, truth, folder / PARITY)
        progress.advance(stage="backend")
        ir.save(exporter.lower(reference, profile), folder / MODEL)
        exporter.finish(folder, profile)
        manifest = _manifest(session, profile, exporter, chosen, parity, folder)
        write_file(folder / MANIFEST, manifest.model_dump_json(indent=2))
    progress.advance()
    progress.finish()
    return manifest


def parity_count(input_shape: tuple[int, int, int], available: int) -> int:
    """Images in the parity set: 256, or all that fit into 8 MiB where images are small."""
    return min(available, max(PARITY_IMAGES, PARITY_BYTES // math.prod(input_shape)))


def _truth(session: Session) -> _Truth:
    """The parity images with their labels, and what the float model makes of them."""
    images = session.dataset.parity()
    count = parity_count(session.header.input_shape, len(images))
    pixels, labels = images.take(count)
    if len(session.dataset.classes) != classes_of(session.header.classes):
        labels = np.full_like(labels, -1)  # a folder of other classes has no labels for this net
    batches = session.batches(images, count)
    return _Truth(images.name, pixels, labels, batches, session.float_logits(batches))


def _write_parity(session: Session, net: fx.GraphModule, truth: _Truth, path: Path) -> ParitySet:
    """Store the parity images with the logits of PyTorch's subnet and of the float model."""
    computed = logits(net, truth.batches).cpu().numpy()
    tensors = {"pixels": truth.pixels, "logits": computed, "labels": truth.labels}
    if truth.float_logits is not None:
        tensors["float_logits"] = truth.float_logits
    write_file(path, save(tensors))
    known = truth.labels >= 0
    right = (decide(computed) == truth.labels)[known]
    return ParitySet(
        images=len(computed),
        source=truth.name,
        logit_step=float(computed.max() - computed.min()) / 255.0,
        accuracy=float(right.mean()) if known.any() else None,
        against_float=compare_with_float(
            computed, truth.float_logits, truth.labels, session.header.float_parity_accuracy
        ),
    )


def _manifest(
    session: Session,
    profile: HardwareProfile,
    exporter: Exporter,
    chosen: Subnet,
    parity: ParitySet,
    folder: Path,
) -> Manifest:
    info, header = session.supernet.info, session.header
    slow = accepted_refusals(exporter, profile)
    return Manifest(
        backend=exporter.name,
        profile=profile,
        subnet=chosen.spec,
        subnet_origin=chosen.origin,
        model=ModelInfo(
            source=header.model, input_shape=header.input_shape, classes=header.classes,
            float_accuracy=_float_accuracy(header, parity), dataset=header.dataset,
            random_weights=header.random_weights,
        ),
        preprocessing=session.dataset.preprocessing,
        parity=parity,
        layers=tuple(layer.name for layer in info.layers),
        int8_layers=tuple(chosen.spec.quantized_layers()) if keeps_int8(slow) else (),
        slow=tuple(str(one) for one in slow),
        weight_bytes=weight_bytes(info, chosen.spec, profile),
        build=exporter.build_report(folder) if isinstance(exporter, BuildReports) else None,
        versions=_versions(),
        files={
            path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()
        },
    )  # fmt: skip


def _float_accuracy(header: Header, parity: ParitySet) -> float | None:
    """On the stored images where the float model ran on them, else as the supernet says."""
    stored = None if parity.against_float is None else parity.against_float.float_accuracy
    return header.float_parity_accuracy if stored is None else stored


def weight_bytes(info: NetworkInfo, spec: SubnetSpec, profile: HardwareProfile) -> int:
    """Bits of all weights and of one 32-bit bias for each channel, in bytes."""
    wide = 32 if profile.remainder == "float32" else 16
    bits = 0
    for layer in info.layers:
        choice = spec.weights[layer.name]
        bits += layer.weights * (wide if choice == REMAINDER else int(choice))
        bits += layer.out_channels * 32
    return math.ceil(bits / 8)


def _versions() -> dict[str, str]:
    found = {"eqnet": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        found[name] = torch.__version__ if name == "torch" else metadata.version(name)
    return found
