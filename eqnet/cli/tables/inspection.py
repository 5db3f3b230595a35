"""The tables of `eqnet inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from eqnet.cli.tables.wording import covered, form_text, named, percent, plain, scaled, size
from eqnet.spec.outside.inspection import BackendFinding, InspectReport, LayerForm, TensorInfo
from eqnet.stages.inspect import int8_coverage

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SHOWN = 3
OPERATORS = 8
STYLE = {"loaded": "green", "checked": "green", "refused": "bold red", "failed": "bold red"}


def print_report(report: InspectReport, *, each: bool) -> None:
    """Print a report; `each`: a row for every layer in place of groups that are alike."""
    from eqnet.cli.output import console, facts, say

    out, model = console(), report.model
    out.print(facts(_summary(report)))
    out.print(_backends_table(report))
    for finding in report.backends:
        for head, said in _findings(finding):
            out.print(plain(head), style="bold")
            out.print(facts(said))
    if model.layers:
        out.print(_layers_table(model.layers, report.backends, each=each))
    for note in model.notes:
        say(f"note: {note}")
    for finding in report.backends:
        for note in finding.notes:
            say(f"note: {finding.backend}: {note}")


def _summary(report: InspectReport) -> dict[str, str | None]:
    model = report.model
    beside = f", {len(model.external_files)} files beside it" if model.external_files else ""
    opsets = [
        str(version) if domain == "ai.onnx" else f"{domain} {version}"
        for domain, version in model.opsets.items()
    ]
    forms = [f"{count} {name}" for name, count in model.forms.items()]
    work = "" if model.macs is None else f"; {scaled(model.macs)} MACs for one image"
    return {
        "file": f"{model.path} ({size(model.bytes)}{beside})",
        "profile": report.profile,
        "made by": model.producer or None,
        "opset": ", ".join(opsets),
        "inputs": _tensors(model.inputs),
        "outputs": _tensors(model.outputs),
        "layers": f"{', '.join(forms) or 'none'}; {size(model.weight_bytes)} of weights{work}",
        "quantized": covered(model.quantized),
        "operators": _operators(model.operators),
    }


def _operators(counts: Mapping[str, int]) -> str | None:
    said = [f"{count} {op}" for op, count in list(counts.items())[:OPERATORS]]
    if len(counts) > OPERATORS:
        said.append(f"{len(counts) - OPERATORS} kinds more")
    return ", ".join(said) or None


def _tensors(values: Sequence[TensorInfo]) -> str:
    said = []
    for value in values[:SHOWN]:
        shape = "of any shape" if value.shape is None else f"[{', '.join(map(str, value.shape))}]"
        said.append(f"{value.name} {value.type} {shape}")
    if len(values) > SHOWN:
        said.append(f"{len(values) - SHOWN} more")
    return ", ".join(said) or "none"


def _backends_table(report: InspectReport) -> Table:
    from eqnet.cli.output import table

    columns = ("backend", "verdict", "in int8", "MACs", "weights", "Q/DQ left")
    rows = table("backends", columns, columns[2:])
    for finding in report.backends:
        left = "-" if finding.quantizers_left is None else str(finding.quantizers_left)
        name = plain(finding.runtime or finding.backend)
        rows.add_row(name, _verdict(finding.verdict), *_in_int8(finding, report), left)
    return rows


def _in_int8(finding: BackendFinding, report: InspectReport) -> tuple[str, str, str]:
    coverage = int8_coverage(finding, report.model.layers)
    if coverage is None:
        return "-", "-", "-"
    layers = f"{coverage.layers} of {coverage.of_layers}"
    return layers, percent(coverage.macs), percent(coverage.weight_bytes)


def _findings(finding: BackendFinding) -> Iterator[tuple[str, dict[str, str | None]]]:
    """What a backend has against the file, and then each reason with its layers and remedy."""
    if finding.reason:
        remedy = None if finding.layers else finding.remedy or None
        yield f"{finding.backend}: {finding.verdict}", {"why": finding.reason, "remedy": remedy}
    for (reason, remedy), names in _by_reason(finding).items():
        head = f"{finding.backend}: not in int8: {named(names)}"
        yield head, {"why": reason, "remedy": remedy or None}


def _by_reason(finding: BackendFinding) -> Mapping[tuple[str, str], list[str]]:
    """Layers by reason and remedy, those of most layers first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for layer in finding.layers:
        if layer.precision != "int8":
            groups.setdefault((layer.reason, layer.remedy), []).append(layer.name)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _layers_table(
    layers: Sequence[LayerForm], backends: Sequence[BackendFinding], *, each: bool
) -> Table:
    """Layers that are alike in everything shown share a row, unless each has its own."""
    from eqnet.cli.output import table

    asked = [one for one in backends if one.verdict in ("loaded", "checked")]
    columns = ["layers", "op", "weights", "input", "output", "bias"]
    rows = table("layers", [*columns, *(one.backend for one in asked)])
    precisions = [{layer.name: layer.precision for layer in one.layers} for one in asked]
    groups: dict[tuple[str, ...], list[str]] = {}
    for layer in layers:
        runs = (precision.get(layer.name, "-") for precision in precisions)
        cells = (*_form_cells(layer), *runs)
        groups.setdefault((*cells, layer.name) if each else cells, []).append(layer.name)
    alike = list(groups.items())
    if not each:
        alike.sort(key=lambda item: -len(item[1]))
    for cells, names in alike:
        shown = cells[:-1] if each else cells
        rows.add_row(plain(named(names, most=1)), *map(plain, shown))
    return rows


def _form_cells(layer: LayerForm) -> tuple[str, ...]:
    kind = f" {layer.kind}" if layer.kind in ("depthwise", "product") else ""
    weights = form_text(layer.weight) if layer.weight is not None else (layer.weight_type or "-")
    activations = (form_text(layer.input), form_text(layer.output))
    return (f"{layer.op}{kind}", weights, *activations, layer.bias or "-")


def _verdict(verdict: str) -> Text:
    from rich.text import Text

    shown = "checked by rules" if verdict == "checked" else verdict
    return Text(shown, style=STYLE.get(verdict, "yellow"))
