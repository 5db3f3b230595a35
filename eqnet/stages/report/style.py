"""Colours of plots. On the page they follow the reader's light or dark theme.

Plots are drawn in placeholder colours that stand for CSS variables; `themed_svg` puts the
variables in. Cells of a heat map have fixed colours, as they carry their own background.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES_LIGHT = ("#2563eb", "#c2570c", "#047857", "#a21caf", "#dc2626", "#0e7490", "#6d28d9")
SERIES_DARK = ("#60a5fa", "#fb923c", "#34d399", "#e879f9", "#f87171", "#22d3ee", "#a78bfa")
WIDE, NARROW = 9.0, 3.8
"""Widths of plots in inches: for a window, and for a phone's, in which they stand taller."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
BIT_COLOURS = {
    2: ("#4c1d95", "#ffffff"),
    3: ("#4338ca", "#ffffff"),
    4: ("#2563eb", "#ffffff"),
    5: ("#5b9bf8", "#0b1220"),
    6: ("#93c5fd", "#0b1220"),
    7: ("#bfdbfe", "#0b1220"),
    8: ("#dbeafe", "#0b1220"),
}
FLOAT_COLOUR = ("#e7d3a8", "#0b1220")


@dataclass(frozen=True)
class Palette:
    """Colours of one drawing."""

    ink: str
    muted: str
    grid: str
    surface: str
    good: str
    bad: str
    warn: str
    series: tuple[str, ...]

    def of(self, index: int) -> str:
        """Colour of the series with this index; they repeat."""
        return self.series[index % len(self.series)]


LIGHT = Palette(
    "#111827", "#5b6472", "#d8dde5", "#ffffff", "#047857", "#b91c1c", "#a15c07", SERIES_LIGHT
)
DARK = Palette(
    "#e6eaf0", "#9aa4b2", "#323a48", "#171c26", "#34d399", "#f87171", "#fbbf24", SERIES_DARK
)
PAGE = Palette(
    "#0a0b01",
    "#0a0b02",
    "#0a0b03",
    "#0a0b04",
    "#0a0b05",
    "#0a0b06",
    "#0a0b07",
    tuple(f"#0a0c{index:02x}" for index in range(len(SERIES_LIGHT))),
)


def css_variables(palette: Palette) -> str:
    """The palette as CSS declarations, under the names that `themed_svg` uses."""
    return "".join(f"{name}:{value};" for name, value in _named(palette))


def _named(palette: Palette) -> Iterator[tuple[str, str]]:
    for name in ("ink", "muted", "grid", "surface", "good", "bad", "warn"):
        yield f"--{name}", getattr(palette, name)
    for index, colour in enumerate(palette.series):
        yield f"--series-{index}", colour


def is_narrow(width: float) -> bool:
    """Whether a plot of this width in inches is for a phone, with its parts below each other."""
    return width < (WIDE + NARROW) / 2


def fits_a_phone(width: float) -> bool:
    """Whether a plot of this width in inches can be read there as it is."""
    return width <= 1.15 * NARROW


@contextmanager
def drawing(palette: Palette) -> Iterator[None]:
    """Matplotlib in the house style, whatever the user's own configuration says."""
    import matplotlib as mpl

    look: dict[Any, Any] = {  # matplotlib types its keys one by one
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "eqnet",
        "text.color": palette.ink,
        "axes.labelcolor": palette.muted,
        "axes.edgecolor": palette.grid,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "grid.color": palette.grid,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "hatch.color": palette.muted,
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(look)
        yield


def themed_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an inline SVG element in CSS variables, titled for screen readers."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_DATE)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id|href)="(#?)', rf'\1="\2{name}-', svg)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace("url(#", f"url(#{name}-")
    for variable, colour in _named(PAGE):
        svg = svg.replace(colour, f"var({variable})")
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    style = f'style="max-width:{float(size[1]) * PIXELS:.0f}px"' if size else ""
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', style, svg, count=1)
    label = f"<title>{_escape(title)}</title><desc>{_escape(description)}</desc>"
    return re.sub(r"(<svg[^>]*)>", lambda m: f'{m[1]} role="img">{label}', svg, count=1)


def png(figure: Figure) -> bytes:
    """The figure as a PNG, 2 pixels a point."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor=LIGHT.surface)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file of its own, on the light surface; the same bytes every time."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="svg", facecolor=LIGHT.surface, metadata=_NO_DATE)
    return buffer.getvalue()


PIXELS = 1.4
"""Of the page for a point of a plot, at most."""
_NO_DATE = {"Date": None, "Creator": None}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
