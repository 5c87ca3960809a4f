"""The tables of the report that show verdict.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resomap.analysis.per_class import LEAST_IMAGES
from resomap.analysis.records import option_name
from resomap.analysis.saturation import DOUBT
from resomap.analysis.wording import over_limit, the_best
from resomap.printable import apart, counted, printable
from resomap.report.html import Table, cell, interval_cell, metric_cell, says_nothing
from resomap.study.reporting.captions import intervals, on, title

_LARGEST_TABLE = 2000


def options_table(answer: Mapping[str, Any], name: str) -> Table:
    """Every option beside the best; its difference also on the reporting split, where that did not decide."""
    decides, reports = answer["select_split"], answer["report_split"]
    rows = []
    for o in answer["options"]:
        best = o["is_reference"]
        rows.append(
            [
                option_name(o["model"], o["resolution"]),
                metric_cell(o["metric"]),
                cell(f"{o['latency_ms']:.2f}", o["latency_ms"]),
                cell(f"{o['memory_mib']:.1f}", o["memory_mib"]),
                cell("best", 0.0) if best else interval_cell(o["difference"]),
                "–" if best else cell(apart(o["lower_bound"], -answer["delta"], digits=3, sign="+"), o["lower_bound"]),
                *([] if decides == reports else ["–" if best else interval_cell(o["reported_difference"])]),
                "yes" if o["not_inferior"] else "no",
                cell(f"{o['front_probability']:.2f}", o["front_probability"]),
            ]
        )
    columns = [
        "option",
        f"{name} on {reports}",
        "ms an image",
        "MiB",
        f"difference on {decides}",
        f"{100 * answer['bound_level']:.3g} % lower bound",
        *([] if decides == reports else [f"difference on {reports}"]),
        f"within {answer['delta']:g}",
        "P(on the front)",
    ]
    held = f"{counted(answer['images'], 'image')} in {reports}, {counted(answer['seeds'], 'seed')}"
    return Table(f"Every option beside {reference_words(answer)}; {held}", columns, rows)


def reference_words(answer: Mapping[str, Any]) -> str:
    """'the best', or 'the best within the budget'."""
    return the_best((o["within_budget"], o["difference"]["value"]) for o in answer["options"])


def over_limit_words(answer: Mapping[str, Any]) -> str:
    """The risk that what is shipped exceeds the limit of latency; '' where there is none."""
    chosen = (o for o in answer["options"] if (o["model"], o["resolution"]) == (answer["model"], answer["resolution"]))
    return next((over_limit(o["over_budget_probability"], answer["budget"]["max_latency_ms"]) for o in chosen), "")


def detail_table(verdict: Mapping[str, Any], name: str) -> Table | None:
    """The gain of each step and its two parts; None where nothing was evaluated so."""
    rows = [[_step(r), *_parts(r)] for r in verdict["detail"]]
    if not rows:
        return None
    columns = ["step", "whole gain", "larger maps", "more detail"]
    found = [r["total"] for r in verdict["detail"]]
    split = verdict["recommendation"]["report_split"]
    return Table(f"Gain of {name} {on(split, found)} and its two parts, {intervals(found)}", columns, rows)


def class_detail_table(verdict: Mapping[str, Any]) -> Table | None:
    """The gain of recall of each class and its two parts; the steps that gain or lose most."""
    ordered = sorted(verdict["detail_classes"], key=lambda r: (says_nothing(r["total"]), -abs(r["total"]["value"])))
    rows = [[r["name"], _step(r), r["images"], *_parts(r)] for r in ordered[:_LARGEST_TABLE]]
    if not rows:
        return None
    found = [r["total"] for r in ordered]
    seeds = on(verdict["recommendation"]["report_split"], found, of=("seeds",))
    caption = (
        f"Gain of recall of each class {seeds} and its two parts, {intervals(found)}; a gain that may be anything from "
        f"-1 to 1 is not shown{_of(ordered, 'change')}"
    )
    columns = ["class", "step", "images", "whole gain", "larger maps", "more detail"]
    return Table(caption, columns, rows)


def _step(row: Mapping[str, Any]) -> str:
    return f"{row['model']}: {row['low_resolution']} to {row['high_resolution']} px"


def _parts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [interval_cell(row[part]) for part in ("total", "size", "detail")]


def _assessed(verdict: Mapping[str, Any]) -> str:
    """'on test (240 images, 2 seeds)', of all models."""
    return on(verdict["recommendation"]["report_split"], verdict["metrics"])


def _of(rows: Sequence[Any], what: str) -> str:
    """Says so where a table is cut."""
    if len(rows) <= _LARGEST_TABLE:
        return ""
    return f"; the {_LARGEST_TABLE} of {len(rows)} with the largest {what} (all are in analysis/verdict.json)"


def classes_table(verdict: Mapping[str, Any]) -> Table:
    """Critical resolution of each class."""
    rows = [
        [
            c["name"],
            c["model"],
            c["images"],
            cell(_critical(c), c["critical_resolution"]),
            cell(f"{c['recall'][0]:.3f}", c["recall"][0]),
            cell(f"{max(c['recall']):.3f}", max(c["recall"])),
            cell(f"{c['gain']:+.3f}", c["gain"]),
        ]
        for c in verdict["classes"]
    ]
    shown = sorted(rows, key=lambda row: -row[6]["value"])[:_LARGEST_TABLE]
    alone = any(c["seeds"] == 1 for c in verdict["classes"])
    return Table(
        "Critical resolution of each class: from there on recall stays within 0.05 of its best, or, where it falls "
        "again by the largest size, up to the best (an interval needs "
        f"{LEAST_IMAGES} images{'; of one seed it is over images only' if alone else ''}){_of(rows, 'gain')}",
        ["class", "model", "images", "critical px (95 %)", "recall at smallest", "best recall", "gain up to critical"],
        shown,
    )


def _critical(need: Mapping[str, Any]) -> str:
    """'96 (64 to 128)', or '96' where there is no interval."""
    side = f"{need['critical_resolution']}"
    return side if need["low"] is None else f"{side} ({need['low']} to {need['high']})"


def images_table(verdict: Mapping[str, Any]) -> Table:
    """Images by the resolution that they need."""
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
        f"Images {_assessed(verdict)} by the smallest resolution from which on most seeds are right",
        ["model", "right from", "images", "for example"],
        rows,
    )


def comparisons_table(verdict: Mapping[str, Any], name: str) -> Table | None:
    """Pairs of resolutions; None where every model has one."""
    if not verdict["comparisons"]:
        return None
    compared = verdict["comparisons"]
    several = any(c["difference"]["seeds"] > 1 for c in compared)
    digits, only = int(several), "images only the larger / the smaller gets right"
    if several:
        only += ", mean over seeds"
    new = "new images and a new seed" if several else "new images"
    rows = [
        [
            f"{c['model']}: {c['high_resolution']} less {c['low_resolution']} px",
            interval_cell(c["difference"]),
            _p_cell(c["p_holm"]),
            cell(
                " / ".join(f"{c['mcnemar'][side]:.{digits}f}" for side in ("only_high", "only_low")),
                c["mcnemar"]["only_high"],
            ),
            _p_cell(c["mcnemar_p_holm"]),
        ]
        for c in compared
    ]
    caption = (
        f"Differences of {name} {_assessed(verdict)}, paired by image, {intervals(verdict['metrics'])}. Each p is "
        f"adjusted by Holm over all pairs of the model: the first is about {new}, McNemar's about right answers of "
        f"these networks to new images{_of(rows, 'order')}"
    )
    columns = ["pair", "difference", "p (Holm)", only, "McNemar p (Holm)"]
    return Table(caption, columns, rows[:_LARGEST_TABLE])


def _p_cell(p: float) -> dict[str, Any]:
    return cell("< 0.0001" if p < 1e-4 else f"{p:.2g}", p)


def omnibus_table(verdict: Mapping[str, Any]) -> Table | None:
    """Tests of whether resolution matters at all, by model."""
    rows = [
        [o["model"], cell(f"{o['q']:.1f}", o["q"]), o["df"], _p_cell(o["p"]), _p_cell(o["p_holm"])]
        for o in verdict["omnibus"]
    ]
    caption = (
        f"Are all resolutions right equally often {_assessed(verdict)}? Cochran's Q of each model, the median over "
        "seeds; p, joined over seeds, adjusted by Holm over the models"
    )
    return Table(caption, ["model", "Q", "degrees of freedom", "p", "p (Holm)"], rows) if rows else None


def front_table(verdict: Mapping[str, Any]) -> Table | None:
    """What each model's options dominate."""
    shares = verdict["hypervolumes"]
    rows = [[model, cell(f"{share:.3f}", share)] for model, share in shares.items()]
    rows.append(["all models together", cell(f"{verdict['hypervolume']:.3f}", verdict["hypervolume"])])
    caption = (
        f"Hypervolume: the share of the plane (metric on {verdict['recommendation']['report_split']} from 0 to 1, "
        "latency of one image from 0 to the dearest option's) in which an option is both better and cheaper; 1 would "
        "be perfect at no cost"
    )
    return Table(caption, ["options of", "hypervolume"], rows) if len(shares) > 1 else None


def saturation_table(verdict: Mapping[str, Any], name: str) -> Table | None:
    """The law through each model's points, and where it levels off within the range."""
    rows = []
    for s in verdict["saturation"]:
        low, high = s["resolutions"][0], s["resolutions"][-1]
        enough = s["sufficient_px"]
        rows.append(
            [
                s["model"],
                cell(f"{s['top']:.3f} - {s['drop']:.3f} (r / {low})^-{s['rate']:.2f}", s["top"]),
                cell(f"{s['rate']:.2f} ({s['rate_low']:.2f} to {s['rate_high']:.2f})", s["rate"]),
                cell(f"{s['worst_residual']:.3f}", s["worst_residual"]),
                "yes" if s["holds"] else _broken(s),
                "–"
                if enough is None
                else cell(
                    f"{enough:.0f} ({s['sufficient_low_px']:.0f} to {s['sufficient_high_px']:.0f})",
                    enough,
                ),
                f"{low} to {high}",
            ]
        )
    delta = verdict["recommendation"]["delta"]
    columns = [
        "model",
        f"{name} at r px",
        "rate (95 %)",
        "worst residual",
        "law holds",
        f"within {delta:g} of the largest from px (95 %)",
        "valid for px",
    ]
    caption = (
        f"{title(name)} {_assessed(verdict)} as a saturating power law of resolution. It says where between the "
        f"measured resolutions one more is worth a run; outside them nothing is claimed. Residuals are in {name}"
    )
    return Table(caption, columns, rows) if rows else None


def _broken(law: Mapping[str, Any]) -> str:
    """Why a law does not hold: its misses together are too unlikely, or one is too large by itself."""
    if law["fit_p"] < DOUBT:
        return f"no (p {apart(law['fit_p'], DOUBT, digits=3)})"
    return f"no (misses a point by {law['worst_residual']:.3f})"


def flips_table(verdict: Mapping[str, Any]) -> Table | None:
    """Images that turn right and wrong with each step."""
    rows = [
        [
            _step(f),
            f["gained"],
            f["lost"],
            cell(f"{net:+d}" if net else "0", net),
        ]
        for f in verdict["flips"]
        for net in [f["gained"] - f["lost"]]
    ]
    columns = ["step", "turn right", "turn wrong", "net"]
    return Table(f"Images {_assessed(verdict)} whose answer turns, by most seeds", columns, rows) if rows else None


def cascades_table(verdict: Mapping[str, Any], name: str) -> Table | None:
    """Answer small, escalate where unsure: what is faster than the large size alone."""
    rows = [
        [
            f"{c['model']}: {c['small_resolution']}, then {c['large_resolution']} px",
            _thresholds(list(c["thresholds"].values())),
            cell(f"{100 * c['escalated']:.0f} %", c["escalated"]),
            metric_cell(c["metric"]),
            cell(f"{c['mean_latency_ms']:.2f}", c["mean_latency_ms"]),
            metric_cell(c["large_metric"]),
            cell(f"{c['large_latency_ms']:.2f}", c["large_latency_ms"]),
        ]
        for c in verdict["cascades"]
        if c["escalated"] > 0 and c["mean_latency_ms"] < c["large_latency_ms"]
    ]
    if not rows:
        return None
    answer, found = verdict["recommendation"], [c["metric"] for c in verdict["cascades"]]
    caption = (
        "Answer at a small size, and ask the largest where the margin between the two highest probabilities is below a "
        f"threshold. Each seed's is the lowest that loses at most {answer['delta']:g} of {name} on "
        f"{answer['select_split']} against the best one there. {title(name)}, share and latency "
        f"{on(answer['report_split'], found)}, {intervals(found)}; cascades that never ask, or are slower than "
        "the largest size alone, are left out"
    )
    columns = ["cascade", "margin below", "escalated", name, "mean ms an image", f"{name} of the largest", "its ms"]
    return Table(caption, columns, rows)


def _thresholds(found: Sequence[float]) -> dict[str, Any]:
    """'0.210' or, over seeds, '0.210 to 0.343'."""
    low, high = min(found), max(found)
    return cell(f"{low:.3f}" if len(found) == 1 else f"{low:.3f} to {high:.3f}", low)
