"""The report of a study: verdict.json and everything else that is stored, as one page, a summary and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resomap import __version__
from resomap.errors import printable
from resomap.explainability.overlay import overlay
from resomap.metrics.consistency import AS_RESEEDING, BETTER, MORE, NOT_REPEATABLE, ONE_SEED
from resomap.report.html import (
    Table,
    cell,
    data_uri,
    heat_map,
    interval_cell,
    line_trace,
    render,
    sides_axis,
)
from resomap.report.words import METHODS, REFERENCES
from resomap.serialize import read_json, write_text
from resomap.study.explained import ExplainedImages
from resomap.study.load import Study
from resomap.study.maps import read_maps
from resomap.study.verdict import metric_table

_PICTURE = 168
_LARGEST_TABLE = 2000
_SHORT = {
    AS_RESEEDING: "as a new seed",
    MORE: "more than a new seed",
    BETTER: "less than a new seed",
    NOT_REPEATABLE: "seeds disagree: no answer",
    ONE_SEED: "one seed: no ceiling",
}


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
        "options_table": _options(answer, name),
        "matrix_plots": matrix,
        "detail_table": _detail(verdict, name),
        "class_table": _classes(verdict),
        "image_table": _images(verdict),
        "comparison_table": _comparisons(verdict, name),
        "cascade_table": _cascades(verdict),
        "galleries": list(_galleries(study, explained, gallery)) if explained is not None and gallery else [],
        "consistency_table": _consistency(study),
        "masks_table": _masks(study),
        "faithfulness_table": _faithfulness(study),
        "cost_table": _cost(study),
        "memory_table": _memory(study),
        "methods": METHODS,
        "references": REFERENCES,
        "provenance_table": _provenance(study),
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
    latency = {(p["model"], p["resolution"]): p["latency"][0] for p in study.profiles if p["latency"]}
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


def _options(answer: Mapping[str, Any], name: str) -> Table:
    rows = []
    for o in answer["options"]:
        best = f"{o['model']} at {o['resolution']} px" == answer["reference"]
        rows.append(
            [
                f"{o['model']} at {o['resolution']} px",
                interval_cell(o["metric"]),
                cell(f"{o['latency_ms']:.2f}", o["latency_ms"]),
                cell(f"{o['memory_mib']:.1f}", o["memory_mib"]),
                cell("best", 0.0) if best else interval_cell(o["difference"]),
                "–" if best else cell(f"{o['lower_bound']:+.3f}", o["lower_bound"]),
                "yes" if o["not_inferior"] else "no",
                cell(f"{o['front_probability']:.2f}", o["front_probability"]),
            ]
        )
    columns = [
        "option",
        f"{name} on {answer['report_split']}",
        "ms an image",
        "MiB",
        f"difference on {answer['select_split']}",
        "one-sided bound",
        f"within {answer['delta']:g}",
        "P(on the front)",
    ]
    return Table(f"Every option beside the best; {answer['images']} images, {answer['seeds']} seeds", columns, rows)


def _detail(verdict: Mapping[str, Any], name: str) -> Table | None:
    rows = [
        [
            f"{r['model']}: {r['low_resolution']} to {r['high_resolution']} px",
            interval_cell(r["total"]),
            interval_cell(r["size"]),
            interval_cell(r["detail"]),
        ]
        for r in verdict.get("detail", [])
    ]
    columns = ["step", "whole gain", "larger maps", "more detail"]
    return Table(f"Gain of {name} and its two parts, with 95 % intervals", columns, rows) if rows else None


def _classes(verdict: Mapping[str, Any]) -> Table:
    rows = [
        [
            c["name"],
            c["model"],
            c["images"],
            cell(f"{c['critical_resolution']} ({c['low']} to {c['high']})", c["critical_resolution"]),
            cell(f"{c['recall'][0]:.3f}", c["recall"][0]),
            cell(f"{max(c['recall']):.3f}", max(c["recall"])),
            cell(f"{c['gain']:+.3f}", c["gain"]),
        ]
        for c in verdict["classes"]
    ]
    shown = sorted(rows, key=lambda row: -row[6]["value"])[:_LARGEST_TABLE]
    more = f"; the {_LARGEST_TABLE} of {len(rows)} with the largest gain" if len(rows) > len(shown) else ""
    return Table(
        f"Critical resolution of each class: from there on recall stays within 0.05 of its best{more}",
        ["class", "model", "images", "critical px (95 %)", "recall at smallest", "best recall", "gain"],
        shown,
    )


def _images(verdict: Mapping[str, Any]) -> Table:
    rows = [
        [
            r["model"],
            "at none" if r["resolution"] is None else cell(f"{r['resolution']} px", r["resolution"]),
            r["images"],
            ", ".join(printable(e) for e in r["examples"][:3]),
        ]
        for r in verdict["images"]
    ]
    return Table(
        "Images by the smallest resolution from which on most seeds are right",
        ["model", "right from", "images", "for example"],
        rows,
    )


def _comparisons(verdict: Mapping[str, Any], name: str) -> Table:
    rows = [
        [
            f"{c['model']}: {c['high_resolution']} less {c['low_resolution']} px",
            interval_cell(c["difference"]),
            cell(f"{c['p_holm']:.2g}", c["p_holm"]),
        ]
        for c in verdict["comparisons"]
    ]
    return Table(
        f"Differences of {name}, paired by image and seed, with 95 % intervals; p by Holm over a model's pairs",
        ["pair", "difference", "p (Holm)"],
        rows[:_LARGEST_TABLE],
    )


def _cascades(verdict: Mapping[str, Any]) -> Table | None:
    rows = [
        [
            f"{c['small']}, then {c['large']}",
            cell(f"{c['threshold']:.3f}", c["threshold"]),
            cell(f"{c['escalated']:.0%}", c["escalated"]),
            cell(f"{c['accuracy']:.3f}", c["accuracy"]),
            cell(f"{c['mean_latency_ms']:.2f}", c["mean_latency_ms"]),
            cell(f"{c['large_accuracy']:.3f} at {c['large_latency_ms']:.2f} ms", c["large_accuracy"]),
        ]
        for c in verdict["cascades"]
    ]
    columns = ["cascade", "margin", "escalated", "accuracy", "mean ms", "large one alone"]
    return Table("Answer small, escalate where the margin is below the threshold", columns, rows) if rows else None


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


def _consistency(study: Study) -> Table | None:
    found = study.explanations
    if found is None:
        return None
    rows = [
        [
            f"{r['model']}, {_words(r['method'])}: {r['low_resolution']} and {r['high_resolution']} px",
            interval_cell(r["floor"], digits=2),
            interval_cell(r["cross"], digits=2),
            interval_cell(r["ceiling"], digits=2),
            interval_cell(r["consistency"], digits=2),
            _SHORT.get(r["verdict"], r["verdict"]),
        ]
        for r in found["consistency"]
        if r["similarity"] == found["similarity"] and r["subset"] == "all"
    ]
    caption = f"{found['similarity'].capitalize()} of maps on {found['images']} {found['split']} images"
    return (
        Table(caption, ["maps", "floor", "across", "ceiling", "C", "resolution changes them"], rows) if rows else None
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _masks(study: Study) -> Table | None:
    found = study.explanations
    if found is None or not found["has_masks"]:
        return None
    rows = [
        [
            f"{r['model']}, {r['method']} at {r['resolution']} px",
            interval_cell(r["energy_in_mask"], digits=2),
            interval_cell(r["pointing_game"], digits=2),
            interval_cell(r["entropy"], digits=2),
        ]
        for r in found["spread"]
    ]
    return Table(
        "Energy of the maps inside the evidence over its share of the area (1 is chance)",
        ["maps", "energy / area", "pointing game", "entropy"],
        rows,
    )


def _faithfulness(study: Study) -> Table | None:
    found = study.explanations
    if found is None or not found["faithfulness"]:
        return None
    rows = [
        [
            f"{r['model']}, {_words(r['method'])} at {r['resolution']} px",
            interval_cell(r["insertion_auc"], digits=2),
            interval_cell(r["deletion_auc"], digits=2),
            cell(f"{r['max_sensitivity']:.2f}", r["max_sensitivity"]),
            interval_cell(r.get("random_weights_spearman"), digits=2),
            "–"
            if r["receptive_field_px"] is None
            else cell(f"{r['receptive_field_px']:.0f} ({r['receptive_field_share']:.0%})", r["receptive_field_px"]),
        ]
        for r in found["faithfulness"]
    ]
    caption = (
        "Do the maps show what the network uses? Insertion high and deletion low speak for them; likeness to maps of "
        "random weights against them. Effective receptive field of the last feature map beside the input"
    )
    columns = ["maps", "insertion", "deletion", "max-sensitivity", "likeness to random weights", "field px"]
    return Table(caption, columns, rows)


def _cost(study: Study) -> Table:
    rows = [
        [
            f"{p['model']} at {p['resolution']} px",
            t["mode"],
            t["protocol"],
            t["batch_size"],
            cell(f"{t['median_ms']:.2f} ({t['median_low_ms']:.2f} to {t['median_high_ms']:.2f})", t["median_ms"]),
            cell(f"{t['p95_ms']:.2f}", t["p95_ms"]),
            cell(f"{t['p99_ms']:.2f}", t["p99_ms"]),
            cell(f"{t['images_per_s']:.1f}", t["images_per_s"]),
            cell(f"{p['end_to_end']['total_ms']:.2f}", p["end_to_end"]["total_ms"]) if p["end_to_end"] else "–",
        ]
        for p in study.profiles
        for t in p["latency"]
    ]
    device = study.profiles[0] if study.profiles else {"device_name": "no profile", "threads": 0}
    columns = [
        "option",
        "mode",
        "protocol",
        "batch",
        "median ms (95 %)",
        "p95 ms",
        "p99 ms",
        "images/s",
        "file to answer ms",
    ]
    return Table(f"Latency on {device['device_name']}, {device['threads']} threads", columns, rows)


def _memory(study: Study) -> Table:
    rows = [
        [
            f"{p['model']} at {p['resolution']} px",
            *(cell(f"{v:.4g}", v) for v in (p["complexity"]["macs"] / 1e9, p["complexity"]["parameters"] / 1e6)),
            *(
                cell(f"{v:.1f}", v)
                for v in (
                    p["predicted_inference_mib"],
                    p["inference_memory"]["peak_mib"],
                    p["predicted_training_mib"],
                    p["training_memory"]["peak_mib"],
                )
            ),
            p["training_memory"]["batch"],
        ]
        for p in study.profiles
    ]
    columns = [
        "option",
        "GMACs",
        "M parameters",
        "inference MiB predicted",
        "measured",
        "training MiB predicted",
        "measured",
        "training batch",
    ]
    return Table("Operations of one image, and memory (live tensors): predicted beside measured", columns, rows)


def _provenance(study: Study) -> Table:
    about = study.about
    rows = [
        ["data", about["data"]],
        ["images", ", ".join(f"{split} {count}" for split, count in about["images"].items())],
        ["classes", len(about["class_names"])],
        ["runs", len(study.runs)],
    ]
    stored = study.runs[0].provenance.items()
    rows += [[_words(k), printable(str(v))] for k, v in stored if k != "metric_options"]
    return Table("What was run, and where", ["", "value"], rows)


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


def summary(study: Study, verdict: Mapping[str, Any], means: Sequence[Mapping[str, Any]], name: str) -> str:
    """summary.txt: the verdict and its table for a terminal."""
    answer = verdict["recommendation"]
    latency = {(o["model"], o["resolution"]): o["latency_ms"] for o in answer["options"]}
    lines = [answer["sentence"], "", f"{name} on {answer['report_split']}, 95 % interval; latency of one image"]
    for m in means:
        ms = latency.get((m["model"], m["resolution"]))
        timed = f"{ms:9.2f} ms" if ms is not None else ""
        lines.append(
            f"{m['model']:24s} {m['resolution']:5d} px  {m['value']:.3f} ({m['low']:.3f}-{m['high']:.3f}) {timed}"
        )
    lines += ["", *(f"warning: {line}" for line in answer["warnings"])]
    return "\n".join(lines) + "\n"


def latex(means: Sequence[Mapping[str, Any]], study: Study, name: str) -> str:
    """A table for a paper (booktabs)."""
    sides = sorted({m["resolution"] for m in means})
    rows = []
    for model in dict.fromkeys(m["model"] for m in means):
        values = {m["resolution"]: m for m in means if m["model"] == model}
        cells = [
            f"{values[s]['value']:.3f} [{values[s]['low']:.3f}, {values[s]['high']:.3f}]" if s in values else "--"
            for s in sides
        ]
        rows.append(" & ".join([_tex(model), *cells]) + r" \\")
    head = " & ".join(["model", *(f"{s} px" for s in sides)]) + r" \\"
    caption = (
        f"{name.capitalize()} on {_tex(study.about['data'])} by input resolution, "
        "with 95\\,\\% intervals over images and seeds."
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'c' * len(sides)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    escaped = {
        "\\": r"\textbackslash{}",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(escaped.get(c, c) for c in text)


def stored_verdict(study: Study) -> dict[str, Any] | None:
    """verdict.json; None where the study has none."""
    if not study.layout.verdict_path.exists():
        return None
    found: dict[str, Any] = read_json(study.layout.verdict_path)
    return found
