"""Figures: both formats, no formulas in names, settings handed back."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from resomap.report.figures import Panel, agreement_figure, gallery_figure, performance_figure, spectral_figure
from resomap.report.saving import save_figure
from resomap.report.style import COLOURS, line_style


def _grey(colour: str) -> float:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * r + 0.587 * g + 0.114 * b


def test_lines_differ_without_colour() -> None:
    styles = [line_style(i) for i in range(13)]
    assert len({(s["marker"], s["linestyle"]) for s in styles}) == 13
    assert len({round(_grey(c)) for c in COLOURS}) == len(COLOURS)


def test_a_figure_is_written_as_png_and_pdf_and_settings_stay(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    results = pd.DataFrame(
        {"model": ["a_{x}$b$"] * 4, "resolution": [64, 64, 96, 96], "seed": [0, 1, 0, 1], "status": "finished",
         "split": "test", "macro_f1": [0.5, 0.6, 0.7, 0.8]}
    )  # fmt: skip
    figure = performance_figure(results, metric="macro_f1", split="test")
    line = figure.axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), [0.55, 0.75])
    assert figure.axes[0].get_xlabel() == "input resolution (px)"
    written = save_figure(figure, tmp_path / "performance")
    assert [path.name for path in written] == ["performance.png", "performance.pdf"]
    with Image.open(written[0]) as drawn:
        assert drawn.size[0] == 680  # 3.4 inches at 200 dots an inch
    assert written[1].read_bytes().startswith(b"%PDF")
    first = written[1].read_bytes()
    assert save_figure(figure, tmp_path / "performance")[1].read_bytes() == first
    assert dict(matplotlib.rcParams) == before


def test_agreement_shows_floor_ceiling_and_interval() -> None:
    def row(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
        return {"value": value, "low": low, "high": high}

    both = {"floor": row(0.1), "ceiling": row(0.8), "cross": row(0.5, 0.4, 0.6)}
    lone = {"floor": row(None), "ceiling": row(None), "cross": row(0.3)}
    rows = [{"low_resolution": 64, "high_resolution": 96} | both, {"low_resolution": 64, "high_resolution": 128} | lone]
    axes = agreement_figure(rows, similarity="spearman").axes[0]
    drawn = [list(line.get_xdata()) for line in axes.get_lines()]
    assert drawn == [[0.1, 0.8], [0.4, 0.6], [0.5], [0.3]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["64 / 96", "64 / 128"]


def test_spectral_figure_and_gallery_can_be_drawn(tmp_path: Path) -> None:
    rows = [
        {"model": "m", "resolution": side, "low_cycles": low, "accuracy_drop": drop}
        for side, low, drop in ((64, 2.0, 0.1), (64, 4.0, 0.2), (96, 2.0, 0.0), (96, 4.0, -0.1))
    ]
    assert save_figure(spectral_figure(rows), tmp_path / "s")[0].stat().st_size > 1000
    picture = np.zeros((8, 8, 3), np.uint8)
    gallery = gallery_figure([[Panel(picture, "<b>"), Panel(np.eye(4), "x")]], titles=["$a", "b"], note="n")
    assert gallery.axes[0].get_xlabel() == "<b>"
    assert save_figure(gallery, tmp_path / "g")[0].stat().st_size > 1000


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_heat_maps_can_be_drawn(tmp_path: Path, value: float) -> None:
    panel = Panel(np.full((4, 4), value), "flat")
    assert save_figure(gallery_figure([[panel]], titles=["t"], note="n"), tmp_path / "g")
