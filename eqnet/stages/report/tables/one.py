"""Tables of one artifact or one search: checks, layers, files, race, front."""

from __future__ import annotations

from eqnet.spec.reports import SearchReport, VerifyReport
from eqnet.stages.report import wording
from eqnet.stages.report.load import Artifact
from eqnet.stages.report.tables.table import Cell, Row, Table, columns, number, plain, verdict


def checks_table(verify: VerifyReport) -> Table:
    """Every demand of a verification."""
    rows = []
    for check in sorted(verify.checks, key=lambda check: check.group):
        cells = [
            Cell(check.name, look="code"),
            Cell(check.group),
            verdict(check.verdict),
            plain(check.value, unit=check.unit),
            plain(check.limit, unit=check.unit),
            Cell(check.reason, look="wrap"),
        ]
        rows.append(Row(cells))
    titles = columns("Check", "Question", "Verdict", "#Value", "#Limit", "Reason")
    return Table(f"Checks of {verify.profile}", titles, rows)


def layers_table(artifact: Artifact) -> Table:
    """Every layer: its weights' bits, and what the runtime promises of it."""
    manifest = artifact.manifest
    promised = set(manifest.int8_layers)
    rows = []
    for place, (name, bits) in enumerate(manifest.subnet.weights.items(), 1):
        runs = "integers" if name in promised else manifest.profile.remainder
        cells = [Cell(name, look="code"), number(place, str(place)), _bits(bits), Cell(runs)]
        rows.append(Row(cells))
    titles = columns("Layer", "#Place", "#Weight bits", "Runs in")
    return Table(f"Layers of {manifest.profile.name}", titles, rows, stacks="never")


def tensors_table(artifact: Artifact) -> Table:
    """Every quantized tensor, as layers read it and as all others do."""
    subnet = artifact.manifest.subnet
    rows = []
    for name in dict.fromkeys((*subnet.activations, *subnet.carriers)):
        reads, carries = subnet.activations.get(name), subnet.carriers.get(name)
        rows.append(Row([Cell(name, look="code"), plain(reads), plain(carries)]))
    titles = columns("Tensor", "#Bits for layers", "#Bits for others")
    label = f"Tensors of {artifact.manifest.profile.name}"
    return Table(label, titles, rows, stacks="never")


def _bits(bits: int | str) -> Cell:
    return number(bits, str(bits)) if isinstance(bits, int) else Cell("float", 32.0)


def files_table(artifact: Artifact) -> Table:
    """Every file that the manifest lists, with its size on the disk and its hash."""
    rows = []
    for name, sha256 in artifact.manifest.files.items():
        size = artifact.sizes.get(name)
        cells = [
            Cell(name, look="code"),
            number(size, wording.kib(size)),
            Cell(sha256, look="code wrap"),
        ]
        rows.append(Row(cells))
    titles = columns("File", "#Size", "sha256")
    return Table(f"Files of {artifact.manifest.profile.name}", titles, rows)


def race_table(artifact: Artifact) -> Table | None:
    """The models that were timed before the export; None where none were."""
    race = artifact.manifest.race
    if race is None:
        return None
    rows = []
    for entry in race.entries:
        low, high = entry.interval
        cells = [
            Cell(entry.name, look="wrap"),
            plain(entry.milliseconds, "%.3f", "ms"),
            number(entry.to_float, f"{entry.to_float:.2f}", f"[{low:.2f}, {high:.2f}]"),
            Cell("chosen" if entry.name == race.chosen else ""),
        ]
        rows.append(Row(cells))
    titles = columns("Subnet", "#Median", "#Of the float model's time", "Taken")
    label = f"Race before the export of {artifact.manifest.profile.name}"
    return Table(label, titles, rows, stacks="never")


def front_table(search: SearchReport) -> Table:
    """The Pareto front, cheapest first, numbered as ``--pick`` counts."""
    best = search.best.sha256()
    rows = []
    for place, point in enumerate(search.front):
        measured = None if point.measured is None else point.measured.accuracy
        cells = [
            number(place, str(place)),
            number(point.accuracy_predicted, wording.percent(point.accuracy_predicted)),
            number(measured, wording.percent(measured)),
            plain(point.cost),
            plain(point.size_kib, "%.1f"),
            plain(point.bitops, "%.4g"),
            number(
                point.avg_weight_bits,
                wording.bits_text(point.avg_weight_bits, point.avg_activation_bits),
            ),
            Cell("chosen" if point.sha256 == best else ""),
        ]
        rows.append(Row(cells))
    titles = columns(
        "#Pick", "#Predicted", "#Measured", f"#Cost, {search.unit}", "#KiB", "#G bitops",
        "#Average bits", "Choice",
    )  # fmt: skip
    return Table(f"Front of {search.profile}", titles, rows)
