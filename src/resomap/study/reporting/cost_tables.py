"""The tables of the report about cost: latency, file to answer, memory and time predicted beside measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resomap.config.load import differences
from resomap.printable import listed, precision_name
from resomap.profiling.report import AT_LEAST
from resomap.records import RunRecord
from resomap.report.html import Table, cell
from resomap.study.costs.circumstances import circumstances
from resomap.study.costs.cost import hardware
from resomap.study.load import Study


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
    """A percentile of latency; a dash where the calls are so few that it would be the slowest one."""
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
        told = listed(others, most=3, separator="; ")
        caption += f". Times planned for other settings are left out (planned -> run: {told})"
    return Table(caption, columns, rows)


def _steps(study: Study) -> str:
    """Which steps memory was measured of, and how; in words."""
    if not study.profiles:
        return ""
    steps = [p["training_memory"] for p in study.profiles]
    methods = " or ".join(dict.fromkeys(step["method"].removeprefix("measured ") for step in steps))
    precisions = " or ".join(dict.fromkeys(precision_name(step["precision"]) for step in steps))
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
