"""How numbers are worded, in the terminal, the page and the picture alike."""

from __future__ import annotations

from eqnet.spec.reports import Verdict

MARKS: dict[Verdict, str] = {"passed": "\u2713", "failed": "\u2717", "skipped": "~"}
NOTHING = "-"


def percent(value: float | None, digits: int = 2) -> str:
    """A share in [0, 1] as per cent."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def kib(size: int | None) -> str:
    """Bytes in the unit that reads best."""
    if size is None:
        return NOTHING
    if size < 1 << 20:
        return f"{size / 1024:.1f} KiB"
    return f"{size / (1 << 20):.2f} MiB"


def ratio_text(ratio: float | None, interval: tuple[float, float] | None = None) -> str:
    """A time ratio against float as words: `3.1x faster [2.9, 3.3]`.

    The interval is turned with the ratio, so that it is in the same words.
    """
    if ratio is None:
        return NOTHING
    side = "faster" if ratio <= 1 else "slower"
    text = f"{_factor(ratio, ratio):.2f}x {side}"
    if interval is None:
        return text
    return f"{text} {interval_text(ratio, interval)}"


def interval_text(ratio: float, interval: tuple[float, float]) -> str:
    """The interval of a ratio, turned as the ratio is."""
    low, high = sorted(_factor(edge, ratio) for edge in interval)
    return f"[{low:.2f}, {high:.2f}]"


def _factor(value: float, ratio: float) -> float:
    """A ratio as a factor, seen from the side, faster or slower, on which `ratio` lies."""
    return 1 / value if ratio <= 1 else value


def bits_text(weights: float | None, activations: float | None) -> str:
    """Average bits as `w4.0 a6.2`."""
    if weights is None or activations is None:
        return NOTHING
    return f"w{weights:.1f} a{activations:.1f}"


def layers_text(proved: int | None, promised: int, total: int) -> str:
    """Layers in int8: `20 of 22`, with a note where the runtime gave no proof."""
    if not total:
        return NOTHING
    if proved is None:
        return f"{promised} of {total} promised"
    return f"{proved} of {total}"


def unmet(export: Verdict | None, quantization: Verdict | None) -> list[str]:
    """The questions of verification that were not answered with yes: `✗ quant.`."""
    named = (("export", export), ("quant.", quantization))
    return [f"{MARKS[answer]} {name}" for name, answer in named if answer not in (None, "passed")]


def decibels(value: float | None) -> str:
    """A signal-to-noise ratio."""
    return NOTHING if value is None else f"{value:.1f} dB"


def drop_texts(drop: float | None, interval: tuple[float, float] | None) -> tuple[str, str]:
    """A loss of accuracy in points, and its interval; a gain is below 0."""
    if drop is None or interval is None:
        return NOTHING, ""
    return f"{drop:.2f}", f"[{interval[0]:.2f}, {interval[1]:.2f}]"
