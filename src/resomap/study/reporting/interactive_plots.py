"""The interactive plots of the report, as plotly takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resomap.profiling.latency import BATCH_1
from resomap.records import BATCH_NORM, HEAD
from resomap.report.html import curve_trace, heat_map, level_line, line_trace, sides_axis
from resomap.study.costs.cost import common_mode, timed_as
from resomap.study.load import Study
from resomap.study.reporting.captions import on, with_seeds

Plot = dict[str, Any]
_TICKS = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 1.5, 2, 3, 5, 7)]
_LATENCY = {
    "type": "log",
    "title": {"text": "latency of one image (ms)"},
    "tickvals": _TICKS,
    "ticktext": [f"{ms:.7g}" for ms in _TICKS],
}
"""Whole numbers at the ticks: plotly's own are bare digits between powers of ten."""


def report_plots(study: Study, verdict: Mapping[str, Any], name: str) -> Iterator[tuple[str, Plot]]:
    """(element id, plot) of every plot.

    Args:
        name: the metric, for people.
    """
    means: Sequence[Mapping[str, Any]] = verdict["metrics"]
    latency = _compared(study, verdict["recommendation"]["options"])
    yield "plot-metric", _metric(means, verdict, name)
    yield "plot-latency", _latency(means, latency)
    yield "plot-front", _front(latency, verdict, name)
    axes = {"x": "tested at (px)", "y": "trained at (px)", "label": name}
    for kind, tables in ({"": verdict["matrix"]} | verdict["matrix_repaired"]).items():
        for model, table in tables.items():
            sides = {key: [str(s) for s in table[key]] for key in ("trained", "tested")}
            yield (
                f"matrix-{model}{kind and f'-{kind}'}",
                heat_map(sides["trained"], sides["tested"], table["values"], **axes),
            )


def _compared(study: Study, options: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """(model, resolution) -> latency of the options that the verdict ranks, all in one mode."""
    ranked = {(o["model"], o["resolution"]) for o in options}
    profiles = [p for p in study.profiles if (p["model"], p["resolution"]) in ranked]
    mode = common_mode(profiles, study.layout, BATCH_1)
    return {(p["model"], p["resolution"]): timed_as(p, BATCH_1, mode) for p in profiles}


REPAIRED = {
    BATCH_NORM: "BatchNorm statistics estimated anew at the test size",
    HEAD: "head and BatchNorm trained on at the test size",
}
"""How networks were adapted, for people."""


def matrix_label(element_id: str, verdict: Mapping[str, Any], metric: str) -> str:
    """What a heat map shows.

    Args:
        metric: for people.
    """
    name, _, kind = element_id.removeprefix("matrix-").rpartition("-")
    model, how = (name, f", {REPAIRED[kind]}") if kind in REPAIRED else (element_id.removeprefix("matrix-"), "")
    own = [row for row in verdict["metrics"] if row["model"] == model]
    what = f"mean {metric} {on(verdict['recommendation']['report_split'], own)}"
    return f"{model}{how}: {what}, rows trained at, columns tested at"


def _by_model(means: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in means:
        found.setdefault(row["model"], []).append(row)
    return found


def _sides(means: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["resolution"] for row in means})


def _metric(means: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], name: str) -> Plot:
    """Points with intervals, the fitted law where it holds, and chance where the metric comes near it."""
    laws = {row["model"]: row["curve"] for row in verdict["saturation"] if row["holds"]}
    names = with_seeds(means, verdict["recommendation"]["seeds"])
    traces = []
    for position, (model, rows) in enumerate(_by_model(means).items()):
        points = line_trace(position, names[model], [row["resolution"] for row in rows], rows)
        if model in laws:
            traces.append(curve_trace(position, names[model], laws[model]))
            points["mode"] = "markers"
        traces.append(points)
    sides, chance = _sides(means), float(verdict["chance"]["value"])
    layout: Plot = {"xaxis": sides_axis(sides), "yaxis": {"title": {"text": name}}}
    if chance > min(row["low"] for row in means) - 0.1:
        layout |= level_line(chance, f"chance {chance:.3f}")
    return {"data": traces, "layout": layout}


def _latency(means: Sequence[Mapping[str, Any]], latency: Mapping[tuple[str, int], Mapping[str, Any]]) -> Plot:
    traces = []
    for position, (model, rows) in enumerate(_by_model(means).items()):
        timed = [latency[model, row["resolution"]] for row in rows if (model, row["resolution"]) in latency]
        sides = [row["resolution"] for row in rows if (model, row["resolution"]) in latency]
        found = [{"value": t["median_ms"], "low": t["median_low_ms"], "high": t["median_high_ms"]} for t in timed]
        traces.append(line_trace(position, model, sides, found))
    return {"data": traces, "layout": {"xaxis": sides_axis(_sides(means)), "yaxis": _LATENCY}}


def _front(latency: Mapping[tuple[str, int], Mapping[str, Any]], verdict: Mapping[str, Any], name: str) -> Plot:
    """Options by cost and metric, labelled by their side; a step line joins those that none beats in both."""
    timed = {key: float(found["median_ms"]) for key, found in latency.items()}
    options = [o | o["metric"] for o in verdict["recommendation"]["options"]]
    colours = list(_by_model(verdict["metrics"]))
    traces = []
    for model, rows in _by_model(options).items():
        trace = line_trace(colours.index(model), model, [timed[model, row["resolution"]] for row in rows], rows)
        sides = [str(row["resolution"]) for row in rows]
        traces.append(trace | {"mode": "markers+text", "text": sides, "textposition": "top center"})
    on_front = {(row["model"], row["resolution"]) for row in verdict["front"] if row["on_front"]}
    chosen = [(row["model"], row["resolution"], row["value"]) for row in options]
    best = sorted((timed[m, r], value) for m, r, value in chosen if (m, r) in on_front)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for x, _ in best],
        "y": [y for _, y in best],
        "line": {"shape": "hv", "color": "#7f7f7f", "width": 1},
        "hoverinfo": "skip",
    }
    return {"data": [line, *traces], "layout": {"xaxis": _LATENCY, "yaxis": {"title": {"text": name}}}}
