"""Numbers and forms in few words, for tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqnet.spec.outside.inspection import Coverage, TensorForm

if TYPE_CHECKING:
    from rich.text import Text

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def covered(coverage: Coverage) -> str:
    """Layers, and the shares of work and weights that are known."""
    said = f"{coverage.layers} of {coverage.of_layers} layers"
    if coverage.macs is not None:
        said += f", {percent(coverage.macs)} of MACs"
    if coverage.weight_bytes is not None:
        said += f", {percent(coverage.weight_bytes)} of the weights' bytes"
    return said


def percent(share: float | None) -> str:
    """A share in [0, 1], ``-`` where it is not known."""
    return "-" if share is None else f"{100 * share:.1f} %"


def size(count: int) -> str:
    """Bytes in a unit that fits, such as ``3.6 MiB``."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def scaled(count: int) -> str:
    """A count in thousands, millions or milliards: ``300.8 M``."""
    for factor, unit in UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return str(count)


def form_text(form: TensorForm | None) -> str:
    """A quantized tensor, such as ``int8 sym by channel 0``; ``float`` where it is none.

    asym: its zero-point is not in the middle of the range.
    """
    if form is None:
        return "float"
    said = [form.type]
    if form.type in ("int8", "uint8") and form.bits < 8:
        said.append(f"of {form.bits} bits")
    if form.dynamic:
        said.append("dynamic")
    elif form.symmetric is not None:
        said.append("sym" if form.symmetric else "asym")
    if form.granularity == "per_channel":
        said.append(f"by channel {form.axis}")
    if form.granularity == "per_block":
        said.append("by block")
    return " ".join(said)


def named(names: Sequence[str], most: int = 2) -> str:
    """How many, and the first few names; a single one alone."""
    if len(names) == 1:
        return names[0]
    return f"{len(names)}: {', '.join(names[:most])}{', ...' if len(names) > most else ''}"


def plain(text: str) -> Text:
    """Text as it is, without markup."""
    from rich.text import Text

    return Text(text)
