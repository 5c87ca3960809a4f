"""What other input sizes and less information did to the answers: tables from stored predictions alone.

The gain of a step up in resolution has two parts that add up exactly, where A(input, information) is the metric:

    A(high, high) - A(low, low) = [A(high, low) - A(low, low)] + [A(high, high) - A(high, low)]

The first is what larger feature maps bring, the second what the detail does.

Legend: S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from resomap.analysis.statistics.intervals import difference_estimate, seed_prior
from resomap.analysis.statistics.pseudo import heaviest_image, pseudo_values
from resomap.analysis.statistics.seed_variance import SeedPrior
from resomap.metrics.classification import metric_value
from resomap.records import AS_TRAINED, WEIGHTS, Cell, Condition
from resomap.serialize import plain
from resomap.study.load import Study


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """What a model's seeds answered under one condition."""

    labels_N: np.ndarray
    predicted_SN: np.ndarray


def matrix_tables(study: Study, *, metric: str, weights: str = AS_TRAINED) -> dict[str, dict[str, Any]]:
    """model -> rows trained at, columns tested at, mean metric over seeds; models never evaluated so are left out."""
    tables = {}
    for model, (resolutions, seeds) in study.grid.items():
        values = [
            [_mean(study, model, trained, tested, seeds, metric, weights) for tested in resolutions]
            for trained in resolutions
        ]
        own = sum(v is not None for row in values for v in row)
        if own > len(resolutions):  # more than every run at its own size
            tables[model] = {"trained": list(resolutions), "tested": list(resolutions), "values": values}
    return tables


def condition_rows(study: Study) -> Iterator[dict[str, Any]]:
    """One row for each run of the verdict's grid and condition other than its own that it was evaluated under."""
    _, split = study.splits
    metrics = "accuracy", "balanced_accuracy", "macro_f1"
    for model, (resolutions, seeds) in study.grid.items():
        shown = [(side, study.information(side), weights) for weights in WEIGHTS for side in resolutions]
        for trained in resolutions:
            less = [(trained, study.information(side), AS_TRAINED) for side in resolutions if side < trained]
            for cell in (Cell(model, trained, seed) for seed in seeds):
                own = study.own_condition(cell, split)
                for condition in dict.fromkeys(Condition(split, *one) for one in (*shown, *less)):
                    found = None if condition == own else study.answers(cell, condition)
                    if found is not None:
                        about: dict[str, Any] = {"num_classes": len(study.class_names)}
                        values = {name: metric_value(*found, metric=name, **about) for name in metrics}
                        yield asdict(cell) | asdict(condition) | values


def _mean(
    study: Study, model: str, trained: int, tested: int, seeds: Sequence[int], metric: str, weights: str
) -> float | None:
    found = _answers(study, model, trained, (tested, tested), seeds, weights=weights)
    return None if found is None else float(_values(study, found, metric).mean())


def _answers(
    study: Study,
    model: str,
    trained: int,
    sides: tuple[int, int],
    seeds: Sequence[int],
    *,
    weights: str = AS_TRAINED,
) -> _Answers | None:
    """What all seeds answered at (input, information resolution); None where one was not evaluated so."""
    side, information = sides
    condition = Condition(study.splits[1], side, study.information(information), weights)
    found = []
    for seed in seeds:
        stored = study.answers(Cell(model, trained, seed), condition)
        if stored is None:
            return None
        found.append(stored)
    return _Answers(found[0][0], np.array([predicted for _, predicted in found]))


def _values(study: Study, found: _Answers, metric: str) -> np.ndarray:
    """(S, N) values of a metric."""
    classes = len(study.class_names)
    return np.array([pseudo_values(found.labels_N, row, metric=metric, num_classes=classes)
                     for row in found.predicted_SN])  # fmt: skip


def detail_rows(study: Study, *, metric: str) -> list[dict[str, Any]]:
    """The gain of each step up in resolution and its two parts, all with intervals."""
    rows = []
    for about, parts in _steps(study):
        # The whole gain is a difference of the model's own resolutions, and has the interval that it has among those.
        whole = seed_prior(list(study.values(about["model"], study.splits[1], metric)))
        heaviest = heaviest_image(parts[0].labels_N, metric=metric, num_classes=len(study.class_names))
        values = (_values(study, part, metric) for part in parts)
        rows.append(about | _split(*values, prior_of_total=whole, heaviest=heaviest))
    return rows


def class_detail_rows(study: Study) -> list[dict[str, Any]]:
    """The gain of recall and its two parts for each class that has images."""
    rows = []
    for about, parts in _steps(study):
        labels = parts[0].labels_N
        right = [(part.predicted_SN == labels).astype(np.float64) for part in parts]
        for k in np.unique(labels):
            own = labels == k
            rows.append(
                about | {"name": study.class_names[k], "images": int(own.sum())} | _split(*(r[:, own] for r in right))
            )
    return rows


def _steps(study: Study) -> Iterator[tuple[dict[str, Any], tuple[_Answers, _Answers, _Answers]]]:
    """(which step, answers to the small, the blurred and the sharp images); the last is from smallest to largest."""
    for model, (resolutions, seeds) in study.grid.items():
        steps = list(pairwise(resolutions))
        if len(resolutions) > 2:
            steps.append((resolutions[0], resolutions[-1]))
        for low, high in steps:
            small = _answers(study, model, low, (low, low), seeds)
            blurred = _answers(study, model, high, (high, low), seeds)
            sharp = _answers(study, model, high, (high, high), seeds)
            if small is not None and blurred is not None and sharp is not None:
                yield {"model": model, "low_resolution": low, "high_resolution": high}, (small, blurred, sharp)


def _split(
    small_SN: np.ndarray,
    blurred_SN: np.ndarray,
    sharp_SN: np.ndarray,
    *,
    prior_of_total: SeedPrior | None = None,
    heaviest: float = 1.0,
) -> dict[str, Any]:
    prior = seed_prior([small_SN, blurred_SN, sharp_SN, sharp_SN - blurred_SN])
    known: dict[str, Any] = {"prior": prior, "heaviest": heaviest}
    return {
        "total": plain(difference_estimate(sharp_SN, small_SN, **known | {"prior": prior_of_total or prior})),
        "size": plain(difference_estimate(blurred_SN, small_SN, **known)),
        "detail": plain(difference_estimate(sharp_SN, blurred_SN, same_runs=True, **known)),
    }
