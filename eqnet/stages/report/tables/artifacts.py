"""Tables over all artifacts: accuracy by form, latencies, sizes, agreement by question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.manifest import MODEL
from eqnet.spec.reports import BenchReport, EvalReport, Latency
from eqnet.stages.report import wording
from eqnet.stages.report.load import Artifact
from eqnet.stages.report.tables.table import Cell, Row, Table, columns, number, plain, verdict


def forms_table(artifacts: Sequence[Artifact], evaluations: Sequence[EvalReport]) -> Table | None:
    """Accuracy of every quantization form that was measured, of an artifact or by `eqnet eval`."""
    rows = [_artifact_form(index, artifact) for index, artifact in enumerate(artifacts)]
    rows += [_evaluated_form(report) for report in evaluations]
    if not rows:
        return None
    titles = columns(
        "Subnet", "Form", "#Weight bits", "#Activation bits", "#Float", "#PyTorch", "#Runtime",
        "Images",
    )  # fmt: skip
    return Table("Accuracy per form", titles, rows)


def _artifact_form(index: int, artifact: Artifact) -> Row:
    manifest, verify = artifact.manifest, artifact.verify
    subnet = manifest.subnet
    runtime = None if verify is None else verify.accuracy
    cells = [
        Cell(manifest.profile.name),
        _form(subnet.form.label()),
        plain(subnet.avg_weight_bits, "%.1f"),
        plain(subnet.avg_activation_bits, "%.1f"),
        _percent(manifest.model.float_accuracy),
        _percent(manifest.parity.accuracy),
        _percent(runtime),
        Cell(f"{manifest.parity.images}, {manifest.parity.source}", look="wrap"),
    ]
    return Row(cells, index)


def _evaluated_form(report: EvalReport) -> Row:
    low, high = report.interval
    note = f"[{100 * low:.2f}, {100 * high:.2f}]"
    where = f"{report.images}, {report.dataset} {report.split}"
    if report.judge != "labels":
        where += f", by the {report.judge}"
    cells = [
        Cell(f"uniform, placement {report.placement}", look="wrap"),
        _form(report.label.partition(" ")[2]),
        plain(report.weight_bits, "%.1f"),
        plain(report.activation_bits, "%.1f"),
        Cell(),
        number(report.accuracy, wording.percent(report.accuracy), note),
        Cell(),
        Cell(where, look="wrap"),
    ]
    return Row(cells)


def _form(label: str) -> Cell:
    text = label.replace("_", " ").replace(":", " ").replace("/", " / ")
    return Cell(text, look="wrap")


def _percent(value: float | None) -> Cell:
    return number(value, wording.percent(value))


def latency_table(artifacts: Sequence[Artifact]) -> Table | None:
    """Quantiles of all timed runs at every batch size; None where nothing was timed.

    The artifact's, the float model's and those of the float model in other precisions.
    """
    rows = []
    for index, artifact in enumerate(artifacts):
        for bench in artifact.bench.batches if artifact.bench else ():
            for name, latency in _timed(bench):
                rows.append(Row(_latency_cells(bench, name, latency), index))
    if not rows:
        return None
    titles = columns(
        "Profile", "Model", "#Median", "#95% of the median", "#p90", "#p99", "#Minimum",
        "#Images a second", "#Runs", "Batch / threads",
    )  # fmt: skip
    return Table("Latency, milliseconds a batch", titles, rows)


def _timed(bench: BenchReport) -> Iterator[tuple[str, Latency]]:
    if bench.quantized is not None:
        yield "artifact", bench.quantized
    if bench.float32 is not None:
        yield bench.float_precision, bench.float32
    for twin in bench.other_floats:
        yield twin.precision, twin.latency


def _latency_cells(bench: BenchReport, name: str, latency: Latency) -> list[Cell]:
    interval = latency.median_interval
    return [
        Cell(bench.profile),
        Cell(name),
        plain(latency.median, "%.3f"),
        Cell() if interval is None else number(interval[1], "{:.3f} to {:.3f}".format(*interval)),
        *(plain(value, "%.3f") for value in (latency.p90, latency.p99, latency.minimum)),
        plain(latency.throughput, "%.0f"),
        number(len(latency.samples), str(len(latency.samples))),
        Cell(f"{bench.batch} / {bench.threads}"),
    ]


def sizes_table(artifacts: Sequence[Artifact]) -> Table | None:
    """What weights take at their bits, and what the files take on the disk."""
    if not artifacts:
        return None
    rows = []
    for index, artifact in enumerate(artifacts):
        manifest, sizes = artifact.manifest, artifact.sizes
        every = sum(sizes.values()) if sizes else None
        cells = [
            Cell(manifest.profile.name),
            _size(manifest.weight_bytes),
            plain(manifest.subnet.avg_weight_bits, "%.2f"),
            _size(sizes.get(MODEL)),
            _size(every),
            number(len(manifest.files), str(len(manifest.files))),
        ]
        rows.append(Row(cells, index))
    titles = columns("Profile", "#Weights", "#Bits a weight", f"#{MODEL}", "#All files", "#Files")
    return Table("Sizes", titles, rows)


def _size(value: int | None) -> Cell:
    return number(value, wording.kib(value))


def questions_table(artifacts: Sequence[Artifact]) -> Table | None:
    """The two questions of verification, each with what answers it over the whole network."""
    rows = []
    for index, artifact in enumerate(artifacts):
        manifest, verify = artifact.manifest, artifact.verify
        export = None if verify is None else verify.export_verdict
        images = None if verify is None else verify.images
        error = _check(artifact, "logit_error")
        against_float = manifest.parity.against_float if verify is None else verify.against_float
        cells = [
            Cell(manifest.profile.name),
            number(images, wording.NOTHING if images is None else str(images)),
            verdict(export),
            _percent(None if verify is None else verify.top1_agreement),
            plain(error, "%.3g"),
            verdict(None if verify is None else verify.quantization_verdict),
            *_float_cells(against_float),
        ]
        rows.append(Row(cells, index))
    if not rows:
        return None
    titles = columns(
        "Profile", "#Images", "Export", "#Agreement with PyTorch", "#Logit error, steps",
        "Quantization", "#Agreement with float", "#SNR of logits", "#Points lost",
    )  # fmt: skip
    return Table("Parity over the whole network", titles, rows)


def _float_cells(comparison: FloatComparison | None) -> list[Cell]:
    if comparison is None:
        return [Cell(), Cell(), Cell()]
    drop, interval = comparison.accuracy_drop, comparison.accuracy_drop_interval
    return [
        _percent(comparison.agreement),
        number(comparison.snr_db, wording.decibels(comparison.snr_db)),
        number(drop, *wording.drop_texts(drop, interval)),
    ]


def _check(artifact: Artifact, name: str) -> float | None:
    """The value of one check, where it was made."""
    checks = () if artifact.verify is None else artifact.verify.checks
    return next((check.value for check in checks if check.name == name), None)
