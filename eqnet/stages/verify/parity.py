"""``verify``: does an artifact compute, in its real runtime, what PyTorch's subnet computed,
and does that still do what the float model did?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eqnet.backend.artifact import Parity, check_files, read_manifest, read_parity
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.graph.reading import layers_of, load_graph
from eqnet.backend.judge import clear_agreement, compare_with_float, float_checks
from eqnet.backend.machine import host
from eqnet.backend.protocol import Array, ExtraChecks
from eqnet.spec.errors import EqnetError
from eqnet.spec.judging.comparison import FloatComparison, OutputComparison, Run
from eqnet.spec.manifest import MANIFEST, MODEL, Manifest
from eqnet.spec.reports import Check, VerifyReport
from eqnet.stages.verify import checks
from eqnet.stages.verify.dataset import check_data
from eqnet.stages.verify.execute import (
    BatchProgress,
    Deployment,
    choose_target,
    open_graph,
    run_batches,
)
from eqnet.stages.verify.outputs import compare_outputs
from eqnet.stages.verify.tensors.locate import locate as locate_first

REPORT = "verify.json"
# Checks that say that the runtime gives other logits than it should.
OF_LOGITS = frozenset({"semantics_agreement", "top1_agreement", "finite_logits", "logit_error"})
OF_LOGITS |= {"accuracy_drop", "test_agreement", "test_accuracy_drop"}
STORED = "stored images"


@dataclass(frozen=True)
class _Parity:
    """What the comparison with the stored logits found. deployed: the runtime's, [N, K]."""

    deployed: Array
    checks: list[Check]
    outputs: list[OutputComparison]
    agreement: float
    accuracy: float | None
    against_float: FloatComparison | None


def verify(
    artifact: Path,
    *,
    data: Path | None = None,
    threads: int | None = None,
    expect: str | None = None,
    locate: bool | None = None,
    progress: BatchProgress | None = None,
) -> VerifyReport:
    """Check an artifact folder against its own manifest, on this machine.

    Every file is compared with its sha256; then the graph runs on the stored images twice, with
    the runtime's optimizations off (semantics) and on (what is deployed), and is compared with
    the logits of PyTorch's subnet; then the runtime is asked which layers ran in int8. That is
    the report's `export_verdict`. Its `quantization_verdict` compares the same run with the
    float model: top-1 agreement, and accuracy where labels are known. `outputs` are the numbers
    of both runs against both networks. `data` is a folder with images, a dataset's or any other:
    its test set is classified too, and compared with ``reference.onnx``. `expect` is the digest
    that the artifact must have: the manifest's own tells damage, this one also what was changed on
    purpose. `locate`: whether to look for the first wrong tensor (`location`); None: where a check
    of the logits failed.

    A backend that cannot execute here is stood in for by ONNX Runtime on the same graph; the
    verdict is then at best "skipped". Raises ArtifactError (missing, changed or corrupt file,
    another digest), UsageError or DataError; a demand that is not met is a failed check, not an
    exception. Writes nothing. Where another process replaces the artifact meanwhile, the new one
    is checked from the beginning.
    """
    check = partial(_verify, artifact, data, threads, expect, locate, progress)
    return read_as_one(artifact / MANIFEST, check)


def _verify(
    artifact: Path,
    data: Path | None,
    threads: int | None,
    expect: str | None,
    locate: bool | None,
    progress: BatchProgress | None,
) -> VerifyReport:
    manifest = read_manifest(artifact, expect=expect)
    checked = check_files(artifact, manifest)
    parity = read_parity(artifact, manifest)
    target = choose_target(manifest)
    compared = _compare(artifact, manifest, parity, target, threads, progress)
    int8_check, int8_count = _prove_int8(artifact, manifest, target)
    results = [
        checks.at_least("files", checked, len(manifest.files), "files"),
        _execution(target),
        *compared.checks,
        int8_check,
        checks.isa(manifest, target.exporter, target.reason is None, compared.checks),
        *_extra(artifact, target, parity),
    ]
    outputs, test_accuracy, test_images = list(compared.outputs), None, None
    if data is not None:
        on_data = check_data(artifact, manifest, target, data, threads, progress)
        results += on_data.checks
        outputs += on_data.outputs
        test_accuracy, test_images = on_data.accuracy, on_data.images
    wrong = {check.name for check in results if check.verdict == "failed"} & OF_LOGITS
    location = None
    if locate or (locate is None and wrong):
        location = locate_first(artifact, manifest, parity, target, compared.deployed, threads)
        results.append(checks.tensors(location))
    return VerifyReport(
        artifact=artifact.name or artifact.resolve().name,
        digest=manifest.digest,
        profile=manifest.profile.name,
        backend=manifest.backend,
        runtime=target.runtime,
        verdict=checks.verdict_of(results, executed=target.reason is None),
        export_verdict=checks.export_verdict(results, executed=target.reason is None),
        quantization_verdict=checks.quantization_verdict(results),
        checks=tuple(results),
        images=len(parity.pixels),
        accuracy=compared.accuracy,
        test_images=test_images,
        test_accuracy=test_accuracy,
        top1_agreement=compared.agreement,
        against_float=compared.against_float,
        outputs=tuple(outputs),
        location=location,
        int8_layers=int8_count,
        layers=len(manifest.layers),
        host=host.describe_host(),
    )


def _execution(target: Deployment) -> Check:
    if target.reason is None:
        return Check(name="execution", verdict="passed")
    return checks.skipped(
        "execution", f"{target.reason}; the same graph was checked in {target.runtime}"
    )


def _extra(artifact: Path, target: Deployment, parity: Parity) -> list[Check]:
    """The checks that the backend's exporter has of its own."""
    if isinstance(target.exporter, ExtraChecks):
        return target.exporter.extra_checks(artifact, parity)
    return []


def _compare(
    artifact: Path,
    manifest: Manifest,
    parity: Parity,
    target: Deployment,
    threads: int | None,
    progress: BatchProgress | None,
) -> _Parity:
    def logits_of(optimize: bool, stage: str) -> Array:
        graph = open_graph(
            target.executor, artifact / MODEL, manifest, optimize=optimize, threads=threads
        )
        return run_batches(graph, parity.pixels, stage, progress)

    rules = manifest.profile.parity
    images, step = len(parity.pixels), manifest.parity.logit_step
    unoptimized, deployed = logits_of(False, "semantics"), logits_of(True, "parity")
    semantics = clear_agreement(unoptimized, parity.logits, step)
    agreement = checks.agreement(deployed, parity.logits)
    clear = clear_agreement(deployed, parity.logits, step)
    results = [
        checks.agreement_of("semantics_agreement", semantics, images, rules.semantics_agreement),
        checks.agreement_of("top1_agreement", clear, images, rules.top1_agreement),
        checks.finite(deployed),
        checks.logit_error(deployed, parity, manifest),
    ]
    accuracy = checks.accuracy(deployed, parity.labels)
    expected = checks.accuracy(parity.logits, parity.labels)
    if accuracy is None or expected is None:
        results.append(checks.skipped("accuracy_drop", "the stored images have no labels"))
    else:
        labelled = int((parity.labels >= 0).sum())
        results.append(
            checks.accuracy_drop("accuracy_drop", expected, accuracy, labelled, rules.accuracy_drop)
        )
    against_float = _against_float(deployed, parity, manifest)
    results += float_checks(against_float, rules)
    outputs = _outputs(unoptimized, deployed, parity, step)
    return _Parity(deployed, results, outputs, agreement, accuracy, against_float)


def _outputs(
    semantics: Array, deployed: Array, parity: Parity, step: float
) -> list[OutputComparison]:
    """Both runs against PyTorch's subnet, and against the float model where it is stored."""
    runs: tuple[tuple[Run, Array], ...] = (("semantics", semantics), ("deployed", deployed))
    rows = []
    for run, logits in runs:
        rows.append(
            compare_outputs(run, "subnet", STORED, logits, parity.logits, parity.labels, step)
        )
    if parity.float_logits is not None:
        for run, logits in runs:
            rows.append(
                compare_outputs(run, "float", STORED, logits, parity.float_logits, parity.labels)
            )
    return rows


def _against_float(deployed: Array, parity: Parity, manifest: Manifest) -> FloatComparison | None:
    """The runtime against the float model; None for an artifact from before it was stored."""
    stored = manifest.parity.against_float
    if stored is None and parity.float_logits is None:
        return None
    accuracy = manifest.model.float_accuracy
    return compare_with_float(deployed, parity.float_logits, parity.labels, accuracy)


def _prove_int8(artifact: Path, manifest: Manifest, target: Deployment) -> tuple[Check, int | None]:
    """Ask the backend which layers ran in int8; None where it cannot tell on this machine."""
    operators = layers_of(load_graph(artifact / MODEL))
    layers = {name: operators[name] for name in manifest.layers if name in operators}
    try:
        proved = target.exporter.int8_layers(artifact, layers, manifest.profile)
    except EqnetError as error:
        if target.reason is None:
            raise
        return checks.skipped("int8_layers", f"{target.reason}: {error}"), None
    if proved is None:
        return checks.skipped("int8_layers", f"{target.runtime} cannot tell what ran in int8"), None
    if target.reason is not None and not proved and manifest.int8_layers:
        return checks.skipped("int8_layers", target.reason), None
    if manifest.slow and not manifest.int8_layers:
        return checks.int8_unpromised(proved, manifest), len(proved)
    return checks.int8_check(proved, manifest.int8_layers), len(proved)
