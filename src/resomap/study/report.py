"""The report of a study: verdict.json and everything else that is stored, as one page, a summary and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resomap import __version__
from resomap.errors import printable
from resomap.explainability.overlay import overlay
from resomap.profiling.latency import BATCH_1
from resomap.report.html import (
    data_uri,
    heat_map,
    line_trace,
    render,
    sides_axis,
)
from resomap.report.words import METHODS, REFERENCES
from resomap.serialize import write_text
from resomap.study.cost import timed_as
from resomap.study.explained import ExplainedImages
from resomap.study.load import Study
from resomap.study.maps import read_maps
from resomap.study.report_tables import (
    cascades_table,
    classes_table,
    comparisons_table,
    consistency_table,
    cost_table,
    detail_table,
    faithfulness_table,
    images_table,
    masks_table,
    memory_table,
    options_table,
    provenance_table,
)
from resomap.study.report_text import latex, summary
from resomap.study.verdict import metric_table

_PICTURE = 168


def write_report(
    study: Study, verdict: Mapping[str, Any], *, metric: str, explained: ExplainedImages | None, gallery: int
) -> None:
    """report/index.html, summary.txt and report/table.tex."""
    name = metric.replace("_", " ")
    means = metric_table(study, metric)
    plots = dict(_plots(study, means, name, verdict))
    matrix = [
        (id_, f"{id_.removeprefix('matrix-')}: rows trained at, columns tested at")
        for id_ in plots
        if id_.startswith("matrix-")
    ]
    answer = verdict["recommendation"]
    context: dict[str, Any] = {
        "title": study.about["name"],
        "version": __version__,
        "metric": name[0].upper() + name[1:],
        "verdict": answer,
        "knee": verdict["knee"],
        "options_table": options_table(answer, name),
        "matrix_plots": matrix,
        "detail_table": detail_table(verdict, name),
        "class_table": classes_table(verdict),
        "image_table": images_table(verdict),
        "comparison_table": comparisons_table(verdict, name),
        "cascade_table": cascades_table(verdict),
        "galleries": list(_galleries(study, explained, gallery)) if explained is not None and gallery else [],
        "consistency_table": consistency_table(study),
        "masks_table": masks_table(study),
        "faithfulness_table": faithfulness_table(study),
        "cost_table": cost_table(study),
        "memory_table": memory_table(study),
        "methods": METHODS,
        "references": REFERENCES,
        "provenance_table": provenance_table(study),
        "config": _config(study),
        "commands": _commands(study),
    }
    context["sections"] = list(_sections(context))
    write_text(study.layout.report_path, render(context, plots))
    write_text(study.layout.summary_text_path, summary(study, verdict, means, name))
    write_text(study.layout.report_path.with_name("table.tex"), latex(means, study, name))


def _sections(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    present = {
        "evidence": "Evidence",
        "curves": "Curves",
        "front": "Trade-off",
        "matrix": "Matrix" if context["matrix_plots"] else "",
        "detail": "Detail or size" if context["detail_table"] else "",
        "classes": "Classes",
        "comparisons": "Differences",
        "gallery": "Explanations" if context["galleries"] else "",
        "consistency": "Consistency" if context["consistency_table"] else "",
        "cost": "Cost",
        "methods": "Methods",
        "provenance": "Provenance",
    }
    yield from ((id_, name) for id_, name in present.items() if name)


def _plots(
    study: Study, means: Sequence[Mapping[str, Any]], name: str, verdict: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    models = list(dict.fromkeys(m["model"] for m in means))
    sides = sorted({m["resolution"] for m in means})
    traces = [
        line_trace(
            i, model, [m["resolution"] for m in means if m["model"] == model], [m for m in means if m["model"] == model]
        )
        for i, model in enumerate(models)
    ]
    yield "plot-metric", {"data": traces, "layout": {"xaxis": sides_axis(sides), "yaxis": {"title": {"text": name}}}}
    latency = {(p["model"], p["resolution"]): timed_as(p, BATCH_1) for p in study.profiles if p["latency"]}
    traces, front = [], []
    for i, model in enumerate(models):
        of_model = [(side, latency[model, side]) for side in sides if (model, side) in latency]
        found = [{"value": t["median_ms"], "low": t["median_low_ms"], "high": t["median_high_ms"]} for _, t in of_model]
        traces.append(line_trace(i, model, [side for side, _ in of_model], found))
        points = [m for m in means if m["model"] == model and (model, m["resolution"]) in latency]
        trace = line_trace(i, model, [latency[model, m["resolution"]]["median_ms"] for m in points], points)
        trace |= {"mode": "markers+text", "text": [str(m["resolution"]) for m in points], "textposition": "top center"}
        front.append(trace)
    axis = {"type": "log", "title": {"text": "latency of one image (ms)"}}
    yield "plot-latency", {"data": traces, "layout": {"xaxis": sides_axis(sides), "yaxis": axis}}
    on = {(row["model"], row["resolution"]) for row in verdict["front"] if row["on_front"]}
    best = sorted(
        (latency[m["model"], m["resolution"]]["median_ms"], m["value"])
        for m in means
        if (m["model"], m["resolution"]) in on
    )
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for x, _ in best],
        "y": [y for _, y in best],
        "line": {"shape": "hv", "color": "#7f7f7f", "width": 1},
        "hoverinfo": "skip",
    }
    yield "plot-front", {"data": [line, *front], "layout": {"xaxis": axis, "yaxis": {"title": {"text": name}}}}
    for model, table in verdict.get("matrix", {}).items():
        yield (
            f"matrix-{model}",
            heat_map(
                [str(s) for s in table["trained"]],
                [str(s) for s in table["tested"]],
                table["values"],
                x="tested at (px)",
                y="trained at (px)",
                label=name,
            ),
        )


def _galleries(study: Study, explained: ExplainedImages, count: int) -> Iterator[dict[str, Any]]:
    if study.explanations is None:
        return
    method = study.explanations["methods"][0]
    chosen = sorted(
        set(np.linspace(0, len(explained.records) - 1, min(count, len(explained.records))).astype(int).tolist())
    )
    squares = explained.squares(_PICTURE, kernel="bilinear")
    names = explained.class_names
    for model, (resolutions, seeds) in study.grid.items():
        stored = []
        for side in resolutions:
            record = next(
                r for r in study.runs if (r.cell.model, r.cell.resolution, r.cell.seed) == (model, side, seeds[0])
            )
            maps = read_maps(study.layout.maps_path(record.cell, method))
            if maps is not None and len(maps.maps) == len(squares):
                stored.append(maps)
        if not stored:
            continue
        yield {
            "model": model,
            "method": method.replace("_", " "),
            "sides": [maps.cell.resolution for maps in stored],
            "images": [
                {
                    "name": printable(explained.records[i].image_id),
                    "label": names[int(explained.labels[i])],
                    "original": data_uri(squares[i]),
                    "at": [
                        {
                            "side": maps.cell.resolution,
                            "src": data_uri(overlay(squares[i], maps.maps[i])),
                            "answer": names[int(maps.predicted[i])],
                            "confidence": float(maps.confidence[i]),
                            "right": bool(maps.correct[i]),
                        }
                        for maps in stored
                    ],
                }
                for i in chosen
            ],
        }


def _config(study: Study) -> str:
    path = study.layout.config_path
    return path.read_text("utf-8") if path.exists() else "not stored"


def _commands(study: Study) -> str:
    root = study.layout.root.name
    return (
        "resomap run --config study.yaml      # train, evaluate, profile, explain, report\n"
        f"resomap recommend {root} --max-latency-ms ... --delta 0.01\n"
        f"resomap explain {root}\nresomap report {root}\n"
    )
