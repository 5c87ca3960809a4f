"""The verdict of a study: which option to ship, with everything that the answer rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from resomap.analysis.cascade import best_cascade
from resomap.analysis.intervals import cochran_q, difference_estimate, holm, mean_estimate, seed_prior, two_sided_p
from resomap.analysis.per_class import critical_resolutions, image_needs
from resomap.analysis.power import detectable
from resomap.analysis.pseudo import pseudo_values
from resomap.analysis.recommend import Budget, Option, Recommendation, recommend
from resomap.analysis.tradeoff import hypervolume, knee, pareto_front
from resomap.errors import StudyError
from resomap.profiling.latency import BATCH_1
from resomap.records import Cell
from resomap.serialize import plain, write_json
from resomap.study.conditions import detail_rows, matrix_tables
from resomap.study.cost import timed_as
from resomap.study.load import Study


def study_options(study: Study, *, metric: str, mode: str | None = None) -> list[Option]:
    """Every model and resolution of the study with its metric, latency and memory.

    Raises:
        StudyError: it has no profiles, or its models share no seeds.
    """
    profiles = {(p["model"], p["resolution"]): p for p in study.profiles if p["latency"]}
    if not study.grid:
        raise StudyError("no model has a seed that is finished at all of its resolutions; run the study to its end")
    seeds = set.intersection(*(set(shared) for _, shared in study.grid.values()))
    if not seeds:
        raise StudyError("the models share no seed, so they cannot be compared; run them with the same seeds")
    decide, report = study.splits
    options = []
    for model, (resolutions, _) in study.grid.items():
        values = {split: _values(study, model, split, metric, sorted(seeds)) for split in {decide, report}}
        for position, side in enumerate(resolutions):
            if (model, side) not in profiles:
                raise StudyError(
                    f"{model} @{side} has no profile; run `resomap profile --config {study.layout.config_path}`"
                )
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
                )
            )
    return options


def _values(study: Study, model: str, split: str, metric: str, seeds: list[int]) -> np.ndarray:
    """(R, S, N) pseudo-values."""
    labels, predicted = study.stack(model, split, seeds=seeds)
    classes = len(study.class_names)
    return np.array(
        [[pseudo_values(labels, p, metric=metric, num_classes=classes) for p in of_side] for of_side in predicted]
    )


def judge(
    study: Study,
    *,
    metric: str,
    delta: float = 0.01,
    budget: Budget | None = None,
    mode: str | None = None,
    options: Sequence[Option] | None = None,
) -> Recommendation:
    """The recommendation for a study.

    Args:
        mode: way to deploy whose latency counts; None: the first that was measured.
        options: of study_options, where they are at hand; then `mode` does not matter.
    """
    options = study_options(study, metric=metric, mode=mode) if options is None else options
    decide, report = study.splits
    labels, _ = study.stack(options[0].model, report, seeds=[study.grid[options[0].model][1][0]])
    return recommend(
        options,
        budget=budget,
        delta=delta,
        metric=metric,
        splits=(decide, report),
        labels_N=labels,
        warnings=tuple(_warnings(study, options, delta)),
    )


def _warnings(study: Study, options: Sequence[Option], delta: float) -> Iterator[str]:
    yield from study.about["notes"]
    improving = [str(record.cell) for record in study.runs if record.still_improving]
    if improving:
        yield (
            f"{len(improving)} of {len(study.runs)} runs were best in their last epochs ({', '.join(improving[:3])}"
            f"{' ...' if len(improving) > 3 else ''}): longer training may change the order"
        )
    seeds, images = options[0].select_SN.shape
    least = detectable(images, discordant=_discordant(study))
    if seeds == 1:
        yield "one seed: how much another seed would change is not known, and intervals do not contain it"
    if least > 2 * delta:
        yield (
            f"{images} images in {study.splits[0]} tell differences of about {least:.3f} apart (80 % power, one seed), "
            f"not {delta:g}"
        )


def _discordant(study: Study) -> float:
    """Share of deciding images on which just one of two neighbouring resolutions is right, at least 2 %."""
    shares = []
    for model in study.grid:
        labels, predicted = study.stack(model, study.splits[0])
        right_RSN = predicted == labels
        shares += (right_RSN[1:] != right_RSN[:-1]).mean(axis=(1, 2)).tolist()
    return max(0.02, float(np.median(shares))) if shares else 0.1


def analyse_study(study: Study, *, metric: str, delta: float) -> dict[str, Any]:
    """Everything that verdict.json holds: the recommendation, comparisons, trade-off, classes, images, cascades."""
    options = study_options(study, metric=metric)
    result = judge(study, metric=metric, delta=delta, options=options)
    quality = np.array([o.report_SN.mean() for o in options])
    cost = np.array([o.latency_ms for o in options])
    best = knee(quality, cost)
    return {
        "recommendation": plain(result),
        "comparisons": list(_comparisons(study, metric)),
        "front": [
            {"model": o.model, "resolution": o.resolution, "on_front": bool(on)}
            for o, on in zip(options, pareto_front(quality, cost), strict=True)
        ],
        "knee": options[best].name if best is not None else None,
        "hypervolume": hypervolume(quality, cost, worst_quality=0.0, worst_cost=float(cost.max())),
        "classes": list(_classes(study)),
        "images": list(_images(study)),
        "cascades": list(_cascades(study, options)),
        "matrix": matrix_tables(study, metric=metric),
        "detail": detail_rows(study, metric=metric),
    }


def store_verdict(study: Study, *, metric: str, delta: float) -> dict[str, Any]:
    """analyse_study, written to analysis/verdict.json."""
    analysed = analyse_study(study, metric=metric, delta=delta)
    write_json(study.layout.verdict_path, analysed)
    return analysed


def _comparisons(study: Study, metric: str) -> Iterator[dict[str, Any]]:
    """Each model's pairs of resolutions on the reporting split; p adjusted by Holm over the model's pairs."""
    _, report = study.splits
    for model, (resolutions, seeds) in study.grid.items():
        values = _values(study, model, report, metric, list(seeds))
        prior = seed_prior(list(values))
        pairs = [(i, j) for j in range(len(resolutions)) for i in range(j)]
        found = [difference_estimate(values[j], values[i], prior=prior) for i, j in pairs]
        labels, predicted = study.stack(model, report, seeds=seeds[:1])
        q, p_all = cochran_q((predicted[:, 0] == labels).T)
        for (i, j), one, p in zip(pairs, found, holm([two_sided_p(f) for f in found]), strict=True):
            yield {
                "model": model,
                "low_resolution": resolutions[i],
                "high_resolution": resolutions[j],
                "difference": plain(one),
                "p_holm": p,
                "cochran_q": q,
                "cochran_p": p_all,
            }


def metric_table(study: Study, metric: str) -> list[dict[str, Any]]:
    """Mean and interval of every option on the reporting split."""
    _, report = study.splits
    rows = []
    for model, (resolutions, seeds) in study.grid.items():
        values = _values(study, model, report, metric, list(seeds))
        prior = seed_prior(list(values))
        for side, of_side in zip(resolutions, values, strict=True):
            rows.append({"model": model, "resolution": side} | plain(mean_estimate(of_side, prior=prior)))
    return rows


def _classes(study: Study) -> Iterator[dict[str, Any]]:
    _, report = study.splits
    for model, (resolutions, _) in study.grid.items():
        labels, predicted = study.stack(model, report)
        for need in critical_resolutions(predicted == labels, labels, resolutions, study.class_names):
            yield {"model": model, "resolutions": list(resolutions)} | plain(need)


def _images(study: Study) -> Iterator[dict[str, Any]]:
    """How many images need which resolution."""
    _, report = study.splits
    for model, (resolutions, seeds) in study.grid.items():
        labels, predicted = study.stack(model, report)
        needs = image_needs(predicted == labels)
        ids = study.read(Cell(model, resolutions[0], seeds[0]), report).image_ids
        for position, side in enumerate([*resolutions, None]):
            of_side = np.flatnonzero(needs == position)
            yield {
                "model": model,
                "resolution": side,
                "images": len(of_side),
                "examples": [str(ids[i]) for i in of_side[:5]],
            }


def _cascades(study: Study, options: list[Option]) -> Iterator[dict[str, Any]]:
    """Each model's smaller resolutions before its largest, first seed."""
    decide, report = study.splits
    latency = {(o.model, o.resolution): o.latency_ms for o in options}
    for model, (resolutions, seeds) in study.grid.items():
        large = resolutions[-1]
        for small in resolutions[:-1]:
            answers = [
                (study.read(Cell(model, small, seeds[0]), split), study.read(Cell(model, large, seeds[0]), split))
                for split in (decide, report)
            ]
            val, test = ((a.labels, a.probabilities, b.probabilities) for a, b in answers)
            found = best_cascade(
                val,
                test,
                latency_ms=(latency[model, small], latency[model, large]),
                names=(f"{model} at {small} px", f"{model} at {large} px"),
            )
            alone = {
                "small_accuracy": float((answers[1][0].predicted == answers[1][0].labels).mean()),
                "large_accuracy": float((answers[1][1].predicted == answers[1][1].labels).mean()),
                "large_latency_ms": latency[model, large],
            }
            yield {"model": model} | plain(found) | alone
