"""Figures that a paper would print, from plain tables and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from resomap.explainability.overlay import COLOUR_MAP, top_value
from resomap.metrics.classification import metric_name
from resomap.report.style import line_style, paper_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 3.4
_PAGE = 7.1
_PANELS = 3
"""Beside each other on a page."""


def _axes(columns: int = 1, *, height: float = 2.5, lines: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(_WIDTH if columns == 1 else _PAGE, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no global state
    found = figure.subplots(lines, columns, squeeze=False)
    return figure, list(found.ravel())


def _sides(axes: Axes, resolutions: Sequence[int]) -> None:
    """A logarithmic axis that names the resolutions themselves."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(resolutions), labels=[str(r) for r in resolutions])
    axes.minorticks_off()
    axes.set_xlabel("input resolution (px)")


def performance_figure(results: pd.DataFrame, *, metric: str, split: str) -> Figure:
    """Metric against resolution: mean over seeds, every seed as a dot.

    Args:
        results: rows of results.csv.
    """
    with paper_style():
        figure, (axes,) = _axes()
        chosen = results[(results["split"] == split) & (results["status"] == "finished")]
        for position, (model, rows) in enumerate(chosen.groupby("model", sort=False)):
            style = line_style(position)
            means = rows.groupby("resolution")[metric].mean()
            axes.plot(means.index, means.to_numpy(), label=str(model), **style)
            axes.plot(rows["resolution"], rows[metric], ".", color=style["color"], alpha=0.35, markersize=3)
        _sides(axes, sorted(chosen["resolution"].unique()))
        axes.set_ylabel(f"{metric_name(metric)} ({split})")
        _legend(axes, chosen["model"].nunique(), note="dots: single seeds")
        return figure


def _legend(axes: Axes, entries: int, *, note: str = "") -> None:
    axes.legend(title=note or None, title_fontsize=6, ncols=1 if entries <= 6 else 2)


def cost_figure(costs: Sequence[Mapping[str, Any]]) -> Figure:
    """Latency at batch 1, throughput and memory against resolution.

    Args:
        costs: a row for each model and resolution: 'model', 'resolution', 'batch1' and 'saturated' (latency records as
            stored), 'memory_mib'.
    """
    with paper_style():
        figure, axes = _axes(3, height=2.4)
        models = list(dict.fromkeys(p["model"] for p in costs))
        for position, model in enumerate(models):
            rows = sorted((p for p in costs if p["model"] == model), key=lambda p: p["resolution"])
            sides = [p["resolution"] for p in rows]
            style = line_style(position)
            single = [p["batch1"] for p in rows]
            axes[0].plot(sides, [t["median_ms"] for t in single], label=model, **style)
            axes[0].fill_between(
                sides, [t["median_low_ms"] for t in single], [t["median_high_ms"] for t in single],
                color=style["color"], alpha=0.2, linewidth=0,
            )  # fmt: skip
            axes[1].plot(sides, [p["saturated"]["images_per_s"] for p in rows], **style)
            axes[2].plot(sides, [p["memory_mib"] for p in rows], **style)
        labels = ("latency, batch 1 (ms)", "throughput (images/s)", "live tensors, peak (MiB)")
        for panel, label in zip(axes, labels, strict=True):
            _sides(panel, sorted({p["resolution"] for p in costs}))
            _plain_log(panel)
            panel.set_ylabel(label)
        lines, names = axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside upper center", ncols=min(len(models), 5))
        return figure


def _plain_log(axes: Axes) -> None:
    """A logarithmic axis whose ticks are plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def agreement_figure(rows: Sequence[Mapping[str, Any]], *, similarity: str) -> Figure:
    """Similarity of maps across two resolutions between its floor and its ceiling, by pair.

    Args:
        rows: 'consistency' of explanations.json, of one model and method, all images.
    """
    with paper_style():
        figure, (axes,) = _axes(height=0.9 + 0.24 * max(3, len(rows)))
        for height, row in enumerate(rows):
            low, high = row["floor"]["value"], row["ceiling"]["value"]
            if low is not None and high is not None:
                axes.plot([low, high], [height, height], color="0.75", linewidth=5, solid_capstyle="butt")
            cross = row["cross"]
            if cross["value"] is None:
                continue
            if cross["low"] is not None:
                axes.plot([cross["low"], cross["high"]], [height, height], color=line_style(0)["color"])
            axes.plot(cross["value"], height, "o", color=line_style(0)["color"])
        axes.set_yticks(range(len(rows)), labels=[f"{r['low_resolution']} / {r['high_resolution']}" for r in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.invert_yaxis()
        axes.set_ylabel("resolutions (px)")
        axes.set_xlabel(f"{similarity} of maps; grey: floor to ceiling")
        return figure


def spectral_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Drop of accuracy for each resolution and octave band, one panel a model."""
    with paper_style():
        models = list(dict.fromkeys(r["model"] for r in rows))
        lines = -(-len(models) // _PANELS)
        figure, panels = _axes(max(2, min(_PANELS, len(models))), height=2.3 * lines, lines=lines)
        limit = max(0.05, *(abs(r["accuracy_drop"]) for r in rows))
        image = None
        for axes, model in zip(panels, models, strict=False):
            table = pd.DataFrame([r for r in rows if r["model"] == model])
            table["band"] = table["low_cycles"]
            grid = table.pivot_table(index="resolution", columns="band", values="accuracy_drop")
            image = axes.imshow(grid, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
            axes.set_xticks(range(grid.shape[1]), labels=[f"{band:g}" for band in grid.columns])
            axes.set_yticks(range(grid.shape[0]), labels=[str(side) for side in grid.index])
            axes.set_xlabel("octave removed, from (cycles/image)")
            axes.set_ylabel("input resolution (px)")
            axes.set_title(model)
            axes.grid(False)
            for (i, j), drop in np.ndenumerate(grid.to_numpy()):
                light = abs(drop) > 0.6 * limit
                axes.text(j, i, f"{drop:.2f}", ha="center", va="center", fontsize=5, color="w" if light else "k")
        for spare in panels[len(models) :]:
            spare.set_visible(False)
        if image is not None:
            figure.colorbar(image, ax=panels[: len(models)], label="drop of accuracy")
        return figure


def spread_figure(rows: Sequence[Mapping[str, Any]], *, figure_of: str, label: str, chance: float | None) -> Figure:
    """A figure of the maps (energy in mask, entropy) against resolution, with intervals; lines by model and method."""
    with paper_style():
        figure, (axes,) = _axes()
        names = list(dict.fromkeys((r["model"], r["method"]) for r in rows))
        for position, (model, method) in enumerate(names):
            of_line = [
                r for r in rows if (r["model"], r["method"]) == (model, method) and r[figure_of]["value"] is not None
            ]
            points = [(r["resolution"], r[figure_of]) for r in sorted(of_line, key=lambda r: r["resolution"])]
            sides = [side for side, _ in points]
            style = line_style(position)
            axes.plot(sides, [p["value"] for _, p in points], label=f"{model}, {method}", **style)
            axes.fill_between(sides, [p["low"] for _, p in points], [p["high"] for _, p in points],
                              color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
        if chance is not None:
            axes.axhline(chance, color="0.4", linewidth=0.8, linestyle=":")
        _sides(axes, sorted({r["resolution"] for r in rows}))
        axes.set_ylabel(label)
        _legend(axes, len(names))
        return figure


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture of a gallery."""

    picture: np.ndarray
    """(H, W, 3) uint8, or (h, w) float: a heat map from 0 to its own 99th percentile."""
    caption: str


def gallery_figure(rows: Sequence[Sequence[Panel]], *, titles: Sequence[str], note: str) -> Figure:
    """Pictures in rows; one row an image.

    Args:
        titles: of the columns.
        note: what the colours mean; a colour bar stands beside it.
    """
    from matplotlib.cm import ScalarMappable

    with paper_style():
        columns = len(titles)
        side = min(1.3, 14.0 / columns)
        figure, _ = _axes(1)
        figure.clear()
        figure.set_size_inches(side * columns + 0.3, (side + 0.35) * len(rows) + 0.6)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for row_axes, row in zip(grid, rows, strict=True):
            for axes, panel in zip(row_axes, row, strict=True):
                heat = {"cmap": COLOUR_MAP, "vmin": 0.0, "vmax": top_value(panel.picture) or 1.0}
                axes.imshow(panel.picture, interpolation="nearest", **({} if panel.picture.ndim == 3 else heat))
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                axes.set_xlabel(panel.caption, fontsize=6)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=7)
        bar = figure.colorbar(
            ScalarMappable(cmap=COLOUR_MAP),
            ax=grid.ravel().tolist(),
            orientation="horizontal",
            fraction=0.02,
            pad=0.01,
            aspect=60,
        )
        bar.set_ticks([0, 1], labels=["0", "99th percentile"])
        bar.set_label(note, fontsize=6)
        return figure
