"""How figures look: a style for paper, readable without colour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

# Okabe and Ito 2008, "Color Universal Design": told apart by all common kinds of colour vision. Yellow is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("-", "--", "-.", ":")
SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    # File and class names are shown as they are, not read as formulas.
    "text.parse_math": False,
    "text.usetex": False,
}


def line_style(position: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th line: any two differ without colour too."""
    return {
        "color": COLOURS[position % len(COLOURS)],
        "marker": MARKERS[position % len(MARKERS)],
        "linestyle": DASHES[(position // len(COLOURS)) % len(DASHES)],
    }


@contextmanager
def paper_style() -> Iterator[None]:
    """matplotlib with these settings, and without a display; the caller's settings come back afterwards."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):  # type: ignore[arg-type]
        yield
