"""Parity: the logits of both runs against subnet and float model, and tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence

from eqnet.spec.judging.comparison import Location, OutputComparison, TensorError
from eqnet.stages.report import wording
from eqnet.stages.report.load import Artifact
from eqnet.stages.report.tables.table import Cell, Row, Table, columns, number, plain

AGAINST = {"subnet": "PyTorch's subnet", "float": "float model"}


def outputs_table(artifacts: Sequence[Artifact]) -> Table | None:
    """The logits of every run that verification made; None where none was compared."""
    rows = []
    for index, artifact in enumerate(artifacts):
        for one in () if artifact.verify is None else artifact.verify.outputs:
            rows.append(Row(_output(artifact.manifest.profile.name, one), index))
    if not rows:
        return None
    titles = columns(
        "Profile", "Run", "Against", "#Agreement", "#KL, nats", "#Mean error", "#p99", "#Largest",
        "#Top-1", "#Top-5", "#Points lost", "Images",
    )  # fmt: skip
    return Table("Logits, errors in 8-bit steps", titles, rows)


def _output(profile: str, one: OutputComparison) -> list[Cell]:
    return [
        Cell(profile),
        Cell(one.run),
        Cell(AGAINST[one.against]),
        number(one.agreement, wording.percent(one.agreement)),
        plain(one.kl, "%.3g"),
        plain(one.error_mean, "%.3g"),
        plain(one.error_p99, "%.3g"),
        plain(one.error_max, "%.3g"),
        number(one.top1, wording.percent(one.top1)),
        number(one.top5, wording.percent(one.top5)),
        number(
            one.accuracy_drop, *wording.drop_texts(one.accuracy_drop, one.accuracy_drop_interval)
        ),
        Cell(f"{one.images}, {one.source}", look="wrap"),
    ]


def tensors_table(profile: str, location: Location) -> Table:
    """Every quantized tensor in the order of computation, in steps of its own grid."""
    rows = [Row(_tensor(one)) for one in location.tensors]
    titles = columns(
        "Tensor", "#Place", "Layers", "#Error", "#Largest", "#Added here", "#Values changed here",
        "Beyond rounding",
    )  # fmt: skip
    return Table(f"Tensors of {profile}, {location.run} run", titles, rows)


def _tensor(one: TensorError) -> list[Cell]:
    return [
        Cell(one.tensor, look="code"),
        number(one.depth, str(one.depth)),
        Cell(", ".join(one.layers), look="code"),
        plain(one.error, "%.3g"),
        plain(one.worst, "%.3g"),
        plain(one.added, "%.3g"),
        number(one.added_share, wording.percent(one.added_share)),
        Cell("yes" if one.beyond else ""),
    ]
