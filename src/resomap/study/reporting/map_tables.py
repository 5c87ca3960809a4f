"""The tables of the report about what the models look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resomap.explainability.agreement import LEAST_SEEDS, verdict_cell
from resomap.report.html import Table, cell, interval_cell
from resomap.study.load import Study
from resomap.study.reporting.captions import on, title


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
            verdict_cell(r["verdict"]),
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
    ends = " to ".join("?" if value is None else f"{value:z.2f}" for value in (floor, ceiling))
    return cell(f"{across:z.2f} ({ends})", across)


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
            else cell(
                f"{r['receptive_field_px']:.0f} ({100 * r['receptive_field_share']:.0f} %)", r["receptive_field_px"]
            ),
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
