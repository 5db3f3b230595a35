"""The summary: a row for each profile, and what the float model does better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eqnet.stages.report import wording
from eqnet.stages.report.summary import Row as Result
from eqnet.stages.report.tables.table import Cell, Mark, Row, Table, columns, number, verdict


def summary_table(results: Sequence[Result]) -> Table:
    """Verdict, bits, size, accuracy, agreement and time of each profile."""
    accuracy, time = _Accuracies(results), _Times(results)
    largest = max((result.weight_bytes or 0 for result in results), default=0)
    rows = []
    for index, result in enumerate(results):
        cells = [
            Cell(result.profile, notes=[result.runtime or result.backend]),
            verdict(result.verdict, *_questions(result)),
            _bits(result),
            _int8(result),
            _size(result, largest),
            accuracy.cell(result),
            _agreement(result),
            time.cell(result),
        ]
        rows.append(Row(cells, index))
    titles = columns(
        "Profile",
        "Verdict",
        "Average bits",
        "#In int8",
        "#Size",
        "#Top-1 accuracy",
        "#Agreement",
        "#Time against float",
    )
    return Table("Summary", titles, rows, stacks="early")


def _questions(result: Result) -> Iterator[str]:
    named = (("export", result.export_verdict), ("quantization", result.quantization_verdict))
    for name, answer in named:
        if answer is not None:
            yield f"{name} {answer}"


def _bits(result: Result) -> Cell:
    form = result.form.replace("_", " ").replace(":", " ").replace("/", " / ")
    text = wording.bits_text(result.avg_weight_bits, result.avg_activation_bits)
    return number(result.avg_weight_bits, text, form)


def _int8(result: Result) -> Cell:
    share = result.int8_share
    text = wording.layers_text(result.int8_layers, result.int8_promised, result.layers)
    return number(share, text, "" if share is None else wording.percent(share, 0))


def _size(result: Result, largest: int) -> Cell:
    gauge = []
    if result.weight_bytes is not None and largest:
        gauge = [Mark("bar", 0, result.weight_bytes / largest)]
    return number(result.weight_bytes, wording.kib(result.weight_bytes), gauge=gauge)


def _agreement(result: Result) -> Cell:
    text, share = wording.percent(result.top1_agreement), result.float_agreement
    note = "" if share is None else f"{wording.percent(share)} with float"
    return number(result.top1_agreement, text, note)


class _Accuracies:
    """Gauges of accuracy on one scale for all rows."""

    def __init__(self, results: Sequence[Result]) -> None:
        values = [value for result in results for value in _known(result)]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = max(0.15 * (high - low), 0.002)
        self.low, self.width = low - margin, high - low + 2 * margin

    def cell(self, result: Result) -> Cell:
        """The runtime's accuracy; below it the float model's and that of PyTorch's subnet."""
        notes = []
        named = (("float", result.accuracy_float), ("PyTorch", result.accuracy_pytorch))
        for name, value in named:
            if value is not None:
                notes.append(f"{name} {wording.percent(value)}")
        text = wording.percent(result.accuracy_runtime)
        return number(result.accuracy_runtime, text, *notes, gauge=self._marks(result))

    def _marks(self, result: Result) -> list[Mark]:
        marks = []
        if result.accuracy_float is not None:
            marks.append(Mark("line", self._place(result.accuracy_float)))
        if result.accuracy_pytorch is not None:
            marks.append(Mark("ring", self._place(result.accuracy_pytorch)))
        if result.accuracy_runtime is not None:
            marks.append(Mark("dot", self._place(result.accuracy_runtime)))
        return marks

    def _place(self, value: float) -> float:
        return (value - self.low) / self.width


def _known(result: Result) -> list[float]:
    values = (result.accuracy_float, result.accuracy_pytorch, result.accuracy_runtime)
    return [value for value in values if value is not None]


class _Times:
    """Gauges of time on one scale for all rows, on which the float model's has a line."""

    def __init__(self, results: Sequence[Result]) -> None:
        ratios = [result.ratio for result in results if result.ratio is not None]
        self.most = max([1.0, *ratios]) * 1.03

    def cell(self, result: Result) -> Cell:
        """Faster or slower than the float model, with the interval."""
        if result.ratio is None:
            return number(None, wording.NOTHING, "not measured")
        marks, note = [Mark("bar", 0, result.ratio / self.most)], ""
        if result.ratio_interval is not None:
            low, high = result.ratio_interval
            marks.append(Mark("span", low / self.most, min(1.0, high / self.most)))
            note = wording.interval_text(result.ratio, result.ratio_interval)
        marks.append(Mark("line", 1 / self.most))
        return number(result.ratio, wording.ratio_text(result.ratio), note, gauge=marks)
