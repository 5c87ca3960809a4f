"""The tables of the report about maps, cost and provenance, from what a study stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resomap.config.load import differences
from resomap.errors import printable
from resomap.metrics.consistency import AS_RESEEDING, BETTER, LEAST_SEEDS, MORE, NOT_REPEATABLE, ONE_SEED
from resomap.profiling.report import AT_LEAST, PRECISIONS
from resomap.records import RunRecord
from resomap.report.html import Table, cell, interval_cell
from resomap.study.costs.circumstances import circumstances
from resomap.study.costs.cost import hardware
from resomap.study.load import Study
from resomap.study.reporting.captions import on, title

_SHORT = {
    AS_RESEEDING: "as a new seed",
    MORE: "more than a new seed",
    BETTER: "less than a new seed",
    NOT_REPEATABLE: "seeds disagree: no answer",
    ONE_SEED: "one seed: no ceiling",
}


def consistency_table(study: Study) -> Table | None:
    """Agreement of maps between floor and ceiling."""
    found = study.explanations
    if found is None:
        return None
    lead = [r for r in found["consistency"] if r["similarity"] == found["similarity"]]
    right = {_pair(r): r["consistency"] for r in lead if r["subset"] == "right at both"}
    rows = [
        [
            f"{r['model']}, {_words(r['method'])}: {r['low_resolution']} and {r['high_resolution']} px",
            interval_cell(r["floor"], digits=2),
            interval_cell(r["cross"], digits=2),
            interval_cell(r["ceiling"], digits=2),
            interval_cell(r["consistency"], digits=2),
            interval_cell(right.get(_pair(r)), digits=2),
            _SHORT.get(r["verdict"], r["verdict"]),
        ]
        for r in lead
        if r["subset"] == "all"
    ]
    if not rows:
        return None
    compared = [r for r in lead if r["subset"] == "all"]
    over = "images and seeds" if min(r["seeds"] for r in compared) >= LEAST_SEEDS else "images of these networks"
    caption = f"{title(_words(found['similarity']))} of maps {on(found['split'], compared)}, 95 % intervals over {over}"
    columns = ["maps", "floor", "across", "ceiling", "C", "C of images right at both", "resolution changes them"]
    return Table(caption, columns, rows)


def agreement_table(study: Study) -> Table | None:
    """Every measure of agreement across resolutions, beside its floor and ceiling."""
    found = study.explanations
    if found is None:
        return None
    rows = [r for r in found["consistency"] if r["subset"] == "all"]
    measures = {r["similarity"]: _measure(r) for r in rows}
    if len(measures) < 2:
        return None
    pairs: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        pairs.setdefault(_pair(row), {})[row["similarity"]] = row
    cells = [
        [f"{model}, {_words(method)}: {low} and {high} px", *(_between(of_pair.get(name)) for name in measures)]
        for (model, method, low, high), of_pair in pairs.items()
    ]
    caption = (
        f"Every measure of agreement {on(found['split'], rows)}: across resolutions (from its floor to its ceiling)"
    )
    return Table(caption, ["maps", *measures.values()], cells)


def _measure(row: Mapping[str, Any]) -> str:
    """'top k iou (chance 0.11)'"""
    chance = f" (chance {row['chance']:.2f})" if row.get("chance") is not None else ""
    return f"{_words(row['similarity'])}{chance}"


def _between(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """'0.42 (0.05 to 0.61)', sorted by the value across resolutions."""
    figures = {name: (row or {}).get(name) or {"value": None} for name in ("floor", "cross", "ceiling")}
    floor, across, ceiling = (figure["value"] for figure in figures.values())
    if across is None:  # no pair of runs, or no window of this measure in what maps show of wide images
        return cell("", None)
    ends = " to ".join("?" if value is None else f"{value:.2f}" for value in (floor, ceiling))
    return cell(f"{across:.2f} ({ends})", across)


def _pair(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["method"], row["low_resolution"], row["high_resolution"]


def _words(name: str) -> str:
    return name.replace("_", " ")


def masks_table(study: Study) -> Table | None:
    """Where the maps lie on known evidence."""
    found = study.explanations
    if found is None or not found["has_masks"]:
        return None
    random = {(r["model"], r["method"], r["resolution"]): r for r in found["faithfulness"]}
    rows = [
        [
            f"{r['model']}, {_words(r['method'])} at {r['resolution']} px",
            interval_cell(r["energy_in_mask"], digits=2),
            interval_cell(r.get("energy_in_other_masks"), digits=2),
            interval_cell(beside.get("random_weights_energy_in_mask"), digits=2),
            interval_cell(beside.get("energy_over_random_weights"), digits=2),
            interval_cell(r["pointing_game"], digits=2),
        ]
        for r in found["spread"]
        for beside in [random.get((r["model"], r["method"], r["resolution"]), {})]
    ]
    caption = (
        "Energy of the maps inside the evidence over its share of the area: 1 where maps ignore it. On other images' "
        "evidence: what these maps get because evidence tends to lie in the same places. Random weights: many "
        "initialisations pooled; what is above 1 is contrast, to which any filter responds. Intervals of energies hold "
        "for new images and, where several networks were pooled, new networks; those of the pointing game are over "
        "images of these networks"
    )
    columns = ["maps", "energy / area", "on other images'", "random weights", "trained / random", "pointing game"]
    return Table(caption, columns, rows)


def faithfulness_table(study: Study) -> Table | None:
    """Whether the maps show what the network uses."""
    found = study.explanations
    if found is None or not found["faithfulness"]:
        return None
    rows = [
        [
            f"{r['model']}, {_words(r['method'])} at {r['resolution']} px",
            interval_cell(r["insertion_auc"], digits=2),
            interval_cell(r["deletion_auc"], digits=2),
            interval_cell({"value": r["max_sensitivity"]}, digits=2),
            interval_cell(r.get("random_weights_spearman"), digits=2),
            "–"
            if r["receptive_field_px"] is None
            else cell(f"{r['receptive_field_px']:.0f} ({r['receptive_field_share']:.0%})", r["receptive_field_px"]),
        ]
        for r in found["faithfulness"]
    ]
    caption = (
        "Do the maps show what the network uses? Insertion high and deletion low speak for them; likeness to maps of "
        "random weights against them; intervals are over images, of the first seed's networks. Effective "
        "receptive field of the layer that Grad-CAM explains beside the input"
    )
    columns = ["maps", "insertion", "deletion", "max-sensitivity", "likeness to random weights", "field px"]
    return Table(caption, columns, rows)


def cost_table(study: Study) -> Table:
    """Latency and throughput; each row says where, unless all were measured in one place."""
    where, several = _hardware(study)
    rows = [
        [
            f"{p['model']} at {p['resolution']} px",
            t["mode"],
            t["protocol"],
            t["batch_size"],
            cell(f"{t['median_ms']:.2f} ({t['median_low_ms']:.2f} to {t['median_high_ms']:.2f})", t["median_ms"]),
            *(_tail(t, percentile) for percentile in (95, 99)),
            t["calls"],
            cell(f"{AT_LEAST[t.get('at_least', False)]}{t['images_per_s']:.1f}", t["images_per_s"]),
            *([hardware(p)] if several else ()),
        ]
        for p in study.profiles
        for t in p["latency"]
    ]
    columns = [
        "option",
        "mode",
        "protocol",
        "batch",
        "median ms a batch (95 % over rounds)",
        "p95 ms",
        "p99 ms",
        "calls",
        "images/s",
        *(["measured on"] if several else ()),
    ]
    note = ""
    if any(t.get("at_least") for p in study.profiles for t in p["latency"]):
        note = "; at least: throughput still grew at the largest batch that was tried"
    return Table(f"Latency on {where}{note}", columns, rows)


def _hardware(study: Study) -> tuple[str, bool]:
    """(where cost was measured, in words; whether those are several places)."""
    kinds = list(dict.fromkeys(hardware(p) for p in study.profiles))
    if len(kinds) > 1:
        return "several kinds of hardware: not to be compared", True
    return (kinds or ["no device: no profile"])[0], False


def _tail(timed: Mapping[str, Any], percentile: int) -> Any:
    """Of fewer calls than there are between two that exceed it, a percentile would be the slowest call."""
    if timed["calls"] * (100 - percentile) < 100:
        return "–"
    value = timed[f"p{percentile}_ms"]
    return cell(f"{value:.2f}", value)


def files_table(study: Study) -> Table | None:
    """From an image file to an answer; None where no files were timed."""
    where, several = _hardware(study)
    rows = [
        [
            f"{p['model']} at {p['resolution']} px",
            end.get("mode", "eager"),
            end["images"],
            *(cell(f"{end[f'{part}_ms']:.2f}", end[f"{part}_ms"]) for part in ("decode", "resize", "model", "total")),
            *([hardware(p)] if several else ()),
        ]
        for p in study.profiles
        if (end := p["end_to_end"])
    ]
    columns = [
        "option",
        "mode",
        "files",
        "decode ms",
        "resize and normalise ms",
        "model ms",
        "file to answer ms",
        *(["measured on"] if several else ()),
    ]
    caption = f"From an image file to its answer, one at a time, medians, on {where}"
    return Table(caption, columns, rows) if rows else None


def memory_table(study: Study) -> Table:
    """Operations, memory and, where the study was planned, time: predicted beside measured."""
    planned = {(c["model"], c["resolution"]): c for c in study.plan["cells"]} if study.plan else {}
    times = [_run_seconds(study, p, planned) for p in study.profiles]
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
            *(seconds if planned else ()),
        ]
        for p, (seconds, _) in zip(study.profiles, times, strict=True)
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
        *(("one run s predicted", "measured") if planned else ()),
    ]
    caption = f"Operations of one image, and memory: predicted beside measured{_steps(study)}"
    others = next((lines for _, lines in times if lines), None)
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        caption += f". Times planned for other settings are left out (planned -> run: {'; '.join(others[:3])}{more})"
    return Table(caption, columns, rows)


def _steps(study: Study) -> str:
    """Of what steps memory was measured, and how; in words."""
    if not study.profiles:
        return ""
    steps = [p["training_memory"] for p in study.profiles]
    methods = " or ".join(dict.fromkeys(step["method"].removeprefix("measured ") for step in steps))
    precisions = " or ".join(dict.fromkeys(PRECISIONS.get(step["precision"], step["precision"]) for step in steps))
    return (
        f" ({methods}). Inference: one image, in float32. Training: one update in {precisions}, of so many images as "
        "column training batch says: fewer than the study's updates have where a step takes long"
    )


def _run_seconds(
    study: Study, profile: Mapping[str, Any], planned: Mapping[tuple[str, int], Mapping[str, Any]]
) -> tuple[list[Any], list[str]]:
    """([seconds of one run as planned, mean over its seeds], what the runs were made with that was not planned)."""
    option = profile["model"], profile["resolution"]
    plan, runs = planned.get(option), [r for r in study.runs if (r.cell.model, r.cell.resolution) == option]
    took = [r.seconds for r in runs if r.seconds is not None]
    others = next((lines for r in runs if plan and (lines := _planned_otherwise(study, plan, r))), [])
    seconds = plan["seconds_per_run"] if plan and not others else None
    shown = [seconds, sum(took) / len(took) if took else None]
    return ["–" if value is None else cell(f"{value:.1f}", value) for value in shown], others


def _planned_otherwise(study: Study, plan: Mapping[str, Any], run: RunRecord) -> list[str]:
    """What the run was made with and its plan was not: 'training.epochs: 4 -> 30'."""
    if "circumstances" not in plan:
        return ["the plan does not say for which"]
    made = circumstances(run.determinants, images=study.about["images"], provenance=run.provenance)
    return differences(plan["circumstances"], made)


def provenance_table(study: Study) -> Table:
    """What was run, and where."""
    about = study.about
    rows = [
        ["data", about["data"]],
        ["images", ", ".join(f"{split} {count}" for split, count in about["images"].items())],
        ["classes", len(about["class_names"])],
        ["runs", len(study.runs)],
    ]
    stored = dict(study.runs[0].provenance) | {"precision": _precision(study)}
    rows += [[_words(k), printable(str(v))] for k, v in stored.items() if k not in ("metric_options", "tuned")]
    return Table("What was run, and where", ["", "value"], rows)


def _precision(study: Study) -> str:
    """Of training: tuned for each model, so named by model where they differ."""
    models: dict[str, list[str]] = {}
    for run in study.runs:
        name = str(run.provenance.get("precision", "not stored"))
        models.setdefault(PRECISIONS.get(name, name), []).append(run.cell.model)
    if len(models) == 1:
        return next(iter(models))
    return "; ".join(f"{precision}: {', '.join(dict.fromkeys(names))}" for precision, names in models.items())
