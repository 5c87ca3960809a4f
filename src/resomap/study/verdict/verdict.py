"""The verdict of a study: which option to ship, with everything that the answer rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resomap.analysis.recommend import recommend
from resomap.analysis.records import Budget, Option, Recommendation, StoppedOption
from resomap.analysis.tradeoff import hypervolume, knee, pareto_front
from resomap.errors import StudyError
from resomap.profiling.latency import BATCH_1
from resomap.records import AS_TRAINED, WEIGHTS
from resomap.serialize import plain, write_json, write_text
from resomap.study.costs.cost import (
    check_same_hardware,
    common_mode,
    hardware,
    modes_at,
    profile_command,
    timed_as,
)
from resomap.study.load import Study
from resomap.study.verdict import evidence
from resomap.study.verdict.gain import class_detail_rows, detail_rows, matrix_tables
from resomap.study.verdict.result_warnings import warnings_of


def study_options(study: Study, *, metric: str, mode: str | None = None, device: str | None = None) -> list[Option]:
    """Every model and resolution that is compared (study.load) with its metric, latency and memory.

    Args:
        mode, device: as judge's.
    Raises:
        StudyError: profiles are missing or not of one kind of hardware, or the models share no seeds.
    """
    profiles = {(p["model"], p["resolution"]): p for p in study.profiles}
    models, seeds = study.compared
    decide, report = study.splits
    chosen = [(model, side) for model in models for side in study.grid[model][0]]
    for model, side in chosen:
        if (model, side) not in profiles:
            raise StudyError(f"{model} @{side} has no profile; run `{profile_command(study.layout, chosen)}`")
    used = [profiles[option] for option in chosen]
    check_same_hardware(used, study.layout, device=device)
    mode = common_mode(used, study.layout, BATCH_1, mode)
    options = []
    for model in models:
        values = {split: study.values(model, split, metric, seeds=seeds) for split in {decide, report}}
        heaviest = study.heaviest(model, decide, metric), study.heaviest(model, report, metric)
        for position, side in enumerate(study.grid[model][0]):
            profile = profiles[model, side]
            timed = timed_as(profile, BATCH_1, mode)
            options.append(
                Option(
                    model=model,
                    resolution=side,
                    select_SN=values[decide][position],
                    report_SN=values[report][position],
                    latency_ms=timed["median_ms"],
                    latency_blocks_ms=tuple(timed["block_medians_ms"]),
                    memory_mib=profile["inference_memory"]["peak_mib"],
                    heaviest=heaviest,
                )
            )
    return options


def _stopped_options(study: Study, options: Sequence[Option], mode: str | None) -> list[StoppedOption]:
    """Those that are not assessed, since a run of them was stopped, with what they cost where the others were timed."""
    profiles = {(p["model"], p["resolution"]): p for p in study.profiles}
    used = [profiles[o.model, o.resolution] for o in options]
    mode = common_mode(used, study.layout, BATCH_1, mode)
    found = []
    for model, side in study.stopped:
        latency = memory = None
        profile = profiles.get((model, side))
        if profile is not None and hardware(profile) == hardware(used[0]):
            memory = profile["inference_memory"]["peak_mib"]
            latency = timed_as(profile, BATCH_1, mode)["median_ms"] if mode in modes_at(profile, BATCH_1) else None
        found.append(StoppedOption(model, side, latency, memory))
    return found


def judge(
    study: Study,
    *,
    metric: str,
    delta: float = 0.01,
    budget: Budget | None = None,
    mode: str | None = None,
    device: str | None = None,
    options: Sequence[Option] | None = None,
    stopped_margin: float | None = None,
) -> Recommendation:
    """The recommendation for a study.

    Args:
        mode: way to deploy whose latency counts; None: the first in which every option was timed.
        device: that the cost must be of; None: whichever was profiled.
        options: of study_options, where they are at hand; then `mode` and `device` do not matter.
        stopped_margin: the loss that the study accepts, by which its runs were stopped; None: delta.
    """
    options = study_options(study, metric=metric, mode=mode, device=device) if options is None else options
    decide, report = study.splits
    labels, _ = study.stack(options[0].model, report, seeds=[study.grid[options[0].model][1][0]])
    chance = evidence.chance(study, metric, decide)
    return recommend(
        options,
        budget=budget,
        delta=delta,
        metric=metric,
        splits=(decide, report),
        labels_N=labels,
        chance=(chance["value"], chance["how"]),
        stopped=_stopped_options(study, options, mode) if study.stopped else (),
        stopped_margin=stopped_margin,
        warnings=tuple(warnings_of(study, options, metric, delta)),
    )


def analyse_study(study: Study, *, metric: str, delta: float) -> dict[str, Any]:
    """Everything that verdict.json holds: the recommendation, comparisons, trade-off, classes, images, cascades."""
    options = study_options(study, metric=metric)
    result = judge(study, metric=metric, delta=delta, options=options)
    return {
        "recommendation": plain(result),
        "chance": evidence.chance(study, metric),
        "metrics": evidence.metric_table(study, metric),
        "saturation": list(evidence.saturation(study, metric, delta)),
        "stopped": [{"model": m, "resolution": side, "runs": runs} for (m, side), runs in study.stopped.items()],
        "omnibus": list(evidence.omnibus_tests(study)),
        "comparisons": list(evidence.comparisons(study, metric)),
        **_tradeoff(options),
        "classes": list(evidence.classes(study)),
        "images": list(evidence.images(study)),
        "flips": list(evidence.flips(study)),
        "cascades": list(evidence.cascades(study, options, metric, delta)),
        "matrix": matrix_tables(study, metric=metric),
        "matrix_repaired": {
            kind: tables
            for kind in WEIGHTS
            if kind != AS_TRAINED and (tables := matrix_tables(study, metric=metric, weights=kind))
        },
        "detail": detail_rows(study, metric=metric),
        "detail_classes": class_detail_rows(study),
    }


def _tradeoff(options: Sequence[Option]) -> dict[str, Any]:
    """The front, its knee, and the share of the plane (metric 0..1, latency 0..the dearest) that options dominate."""
    quality = np.array([o.report_SN.mean() for o in options])
    cost = np.array([o.latency_ms for o in options])
    best = knee(quality, cost)
    dearest = float(cost.max())

    def share(chosen: np.ndarray) -> float:
        return hypervolume(quality[chosen], cost[chosen], worst_quality=0.0, worst_cost=dearest) / dearest

    models = np.array([o.model for o in options])
    return {
        "front": [
            {"model": o.model, "resolution": o.resolution, "on_front": bool(on)}
            for o, on in zip(options, pareto_front(quality, cost), strict=True)
        ],
        "knee": options[best].name if best is not None else None,
        "hypervolume": share(np.ones(len(options), bool)),
        "hypervolumes": {model: share(models == model) for model in dict.fromkeys(models.tolist())},
    }


def store_verdict(study: Study, *, metric: str, delta: float) -> dict[str, Any]:
    """analyse_study, written to analysis/verdict.json, and what each image needs to analysis/images.csv."""
    analysed = analyse_study(study, metric=metric, delta=delta)
    write_json(study.layout.verdict_path, analysed)
    needs = evidence.needs_table(study)
    write_text(study.layout.image_needs_path, needs.to_csv(index=False, lineterminator="\n"))
    return analysed
