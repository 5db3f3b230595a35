"""`eqnet export`: a subnet becomes an artifact folder that verifies on any machine."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import onnx_ir as ir
import torch

from eqnet.backend.artifact import foreign_content, read_manifest, write_manifest
from eqnet.backend.discovery import exporter_of
from eqnet.backend.files import new_folder, sha256_file
from eqnet.backend.protocol import BuildReports, Exporter
from eqnet.backend.refusals import accepted_refusals, keeps_int8
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.errors import ArtifactError, OutputError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import (
    MANIFEST,
    MODEL,
    PARITY,
    REFERENCE,
    Manifest,
    ModelInfo,
    ParitySet,
)
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.version import __version__
from eqnet.stages.export.choose_subnet import DEFAULT, RACED, ChosenSubnet, choose_subnet
from eqnet.stages.export.parity_set import truth_of, write_parity
from eqnet.stages.export.race import can_race
from eqnet.stages.export.race import race as run_race
from eqnet.stages.export.reference import check_reference
from eqnet.subnets.budgets import weight_bytes
from eqnet.supernet.checkpoint import Header
from eqnet.supernet.extract import extract
from eqnet.supernet.session import Session, open_session

STAGES = 4
VERSIONED = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy")


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
    race: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """Export a subnet for a profile into the folder `out` (None: artifacts/<profile name>).

    subnet: a subnet file; None takes `searches`/<profile>/subnet.json where it was searched in
    this supernet under this profile, else the profile's default subnet, as where `searches` is
    None. force: replace an artifact in `out` even if it is of another supernet or profile.
    race: where the default subnet is due and the profile's cost is time on this machine, time it
    against the float model first, and leave in float what makes it no faster (`Manifest.race`).
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
    if race and chosen.origin == DEFAULT and can_race(exporter, rules):
        chosen = _raced(session, rules, exporter, chosen, progress or Silent())
    return export_in(session, rules, exporter, chosen, folder, progress)


def _raced(
    session: Session,
    profile: HardwareProfile,
    exporter: Exporter,
    default: ChosenSubnet,
    progress: Progress,
) -> ChosenSubnet:
    """The subnet that won a race which the default one began."""
    winner = run_race(session, profile, exporter, default.spec, progress)
    origin = DEFAULT if winner.spec == default.spec else RACED
    return ChosenSubnet(winner.spec, origin, winner.race)


def _require_replaceable(folder: Path, session: Session, profile: HardwareProfile) -> None:
    """Refuse to replace what exporting again would not bring back: another net or profile."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return  # whoever makes the folder says what it holds
    supernet, name = manifest.subnet.supernet, manifest.profile.name
    if (supernet, name) != (session.identity, profile.name):
        raise OutputError(
            f"{folder}: holds an artifact of {manifest.model.source}, supernet {supernet[:12]}, "
            f"for profile '{name}' (allowed: another path, or --force to replace it by supernet "
            f"{session.identity[:12]}, profile '{profile.name}')"
        )


def checked_exporter(profile: HardwareProfile) -> Exporter:
    """The exporter of a profile. Raises ProfileError for what it cannot execute well."""
    exporter = exporter_of(profile)
    accepted_refusals(exporter, profile)
    return exporter


def export_in(
    session: Session,
    profile: HardwareProfile,
    exporter: Exporter,
    chosen: ChosenSubnet,
    out: Path,
    progress: Progress | None = None,
) -> Manifest:
    """As `export`, in a session that is open."""
    progress = progress or Silent()
    progress.start(f"export {profile.name}", STAGES)
    truth = truth_of(session)
    session.settle(chosen.spec, session.calibration())
    net = extract(session.supernet, chosen.spec)
    progress.advance(stage="graph")
    reference = to_onnx(net, session.header.input_shape)
    progress.advance(stage="parity")
    with new_folder(out, foreign=foreign_content) as folder:
        ir.save(reference, folder / REFERENCE)
        check_reference(folder / REFERENCE, net, truth.batches.images)
        parity = write_parity(session, net, truth, folder / PARITY)
        progress.advance(stage="backend")
        ir.save(exporter.lower(reference, profile), folder / MODEL)
        exporter.finish(folder, profile)
        manifest = _manifest(session, profile, exporter, chosen, parity, folder)
        manifest = write_manifest(folder, manifest)
    progress.advance()
    progress.finish()
    return manifest


def _manifest(
    session: Session,
    profile: HardwareProfile,
    exporter: Exporter,
    chosen: ChosenSubnet,
    parity: ParitySet,
    folder: Path,
) -> Manifest:
    info, header = session.supernet.info, session.header
    slow = accepted_refusals(exporter, profile)
    model = ModelInfo(
        source=header.model,
        input_shape=header.input_shape,
        classes=header.classes,
        float_accuracy=_float_accuracy(header, parity),
        dataset=header.dataset,
        random_weights=header.random_weights,
    )
    int8_layers: tuple[str, ...] = ()
    if keeps_int8(slow):
        int8_layers = tuple(chosen.spec.quantized_layers())
    build = None
    if isinstance(exporter, BuildReports):
        build = exporter.build_report(folder)
    return Manifest(
        backend=exporter.name,
        profile=profile,
        subnet=chosen.spec,
        subnet_origin=chosen.origin,
        race=chosen.race,
        model=model,
        preprocessing=session.dataset.preprocessing,
        parity=parity,
        layers=tuple(info.layer_names()),
        int8_layers=int8_layers,
        slow=tuple(str(refusal) for refusal in slow),
        weight_bytes=weight_bytes(info, chosen.spec, profile),
        build=build,
        versions=_versions(),
        files=_hashes(folder),
    )


def _float_accuracy(header: Header, parity: ParitySet) -> float | None:
    """On the stored images where the float model ran on them, else as the supernet says."""
    stored = parity.against_float
    if stored is None or stored.float_accuracy is None:
        return header.float_parity_accuracy
    return stored.float_accuracy


def _versions() -> dict[str, str]:
    versions = {"eqnet": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        versions[name] = torch.__version__ if name == "torch" else metadata.version(name)
    return versions


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
