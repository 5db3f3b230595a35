"""The table of `eqnet compare`, for terminals and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from eqnet.cli.tables.wording import percent, plain, size
from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.outside.side_by_side import ComparedModel, CompareReport

COLUMNS = ("model", "runs in", "size", "int8", "ms", "vs first", "agree", "dB", "accuracy")
UNKNOWN = "-"


def print_report(report: CompareReport) -> None:
    """One row for each model, and what is not known about which."""
    from eqnet.cli.output import console, say, table

    title = f"batch {report.batch}, threads {report.threads}, {report.repeats} rounds in turns"
    rows = table(title, COLUMNS, COLUMNS[2:])
    for model in report.models:
        rows.add_row(*map(plain, _cells(model)))
    console().print(rows)
    for line in _lines(report):
        say(line)


def to_markdown(report: CompareReport) -> str:
    """The same as a Markdown table, with its lines below."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * 2}{'---:|' * (len(COLUMNS) - 2)}",
    ]
    for model in report.models:
        cells = [_escaped(cell).replace("\n", "<br>") for cell in _cells(model)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {_escaped(line)}" for line in _lines(report))])


def _escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    for mark in ("\\", "|", "`", "*", "_", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _cells(model: ComparedModel) -> tuple[str, ...]:
    int8 = milliseconds = against = agreement = decibels = accuracy = UNKNOWN
    if model.int8 is not None:
        int8 = f"{model.int8.layers}/{model.int8.of_layers}\n{percent(model.int8.macs)} MACs"
    if model.latency is not None:
        milliseconds = f"{model.latency.median:.3f}"
    if model.ratio is not None and model.ratio_interval is not None:
        low, high = model.ratio_interval
        against = f"{model.ratio:.2f}\n[{low:.2f}, {high:.2f}]"
    compared = model.against_reference
    if compared is not None and compared.agreement is not None:
        agreement = percent(compared.agreement)
        if model.agreement_interval is not None:
            low, high = (100 * end for end in model.agreement_interval)
            agreement += f"\n[{low:.1f}, {high:.1f}]"
    if compared is not None and compared.snr_db is not None:
        decibels = f"{compared.snr_db:.1f}"
    if model.accuracy is not None:
        accuracy = percent(model.accuracy)
    where = f"{model.runtime}\n{model.profile}" if model.profile else model.runtime
    numbers = (int8, milliseconds, against, agreement, decibels, accuracy)
    return (model.name, where, size(model.bytes), *numbers)


def _accuracy_line(name: str, compared: FloatComparison) -> Iterator[str]:
    drop, interval = compared.accuracy_drop, compared.accuracy_drop_interval
    if drop is not None and interval is not None:
        low, high = (-end for end in reversed(interval))
        gained = f"{-drop:+.2f} points [{low:+.2f}, {high:+.2f}]"
        yield f"{name}: accuracy {gained} against the reference, on {compared.labelled} images"


def _lines(report: CompareReport) -> Iterator[str]:
    if report.reference is not None:
        yield (
            f"agree: images with the top-1 class of {report.reference}, on {report.images} "
            f"images ({report.source})"
        )
    else:
        yield "agree, accuracy: no images (an artifact among the models, or --data)"
    for model in report.models:
        compared = model.against_reference
        if compared is not None and model.name != report.reference:
            yield from _accuracy_line(model.name, compared)
        for reason in model.reasons:
            yield f"{model.name}: {reason}"
