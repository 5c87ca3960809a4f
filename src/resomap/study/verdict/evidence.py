"""What a verdict rests on, from the stored predictions: one table each.

Legend: R resolutions, S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from resomap.analysis.cascade import best_cascade
from resomap.analysis.per_class import critical_resolutions, flipped_images, image_needs
from resomap.analysis.records import Option
from resomap.analysis.saturation import fit_saturation
from resomap.analysis.statistics.intervals import difference_estimate, mean_estimate, seed_prior, two_sided_p
from resomap.analysis.statistics.paired import discordance, holm, omnibus
from resomap.analysis.statistics.pseudo import pseudo_values
from resomap.records import Cell
from resomap.serialize import plain
from resomap.study.load import Study

_EXAMPLES = 24
"""Images named of each kind: more than any gallery shows."""


def chance(study: Study, metric: str, split: str | None = None) -> dict[str, Any]:
    """chance_of the labels of a split; None: the one that is reported."""
    labels_N, _ = study.stack(next(iter(study.grid)), split or study.splits[1])
    return chance_of(labels_N, study.class_names, metric)


def chance_of(labels_N: np.ndarray, class_names: Sequence[str], metric: str) -> dict[str, Any]:
    """The best that answers without a look at the image can expect: its value, and how.

    For macro F1: answering class k with probability q gives 2 p q / (p + q), whose mean over K classes is largest where
    q is the class's share p, and then 1 / K.
    """
    counts = np.bincount(labels_N, minlength=len(class_names))
    if metric == "accuracy":
        most = int(counts.argmax())
        return {"value": float(counts[most] / len(labels_N)), "how": f"always answering {class_names[most]}"}
    return {"value": 1 / int((counts > 0).sum()), "how": "answering each class as often as it occurs"}


def metric_table(study: Study, metric: str) -> list[dict[str, Any]]:
    """Mean and interval of every option on the reporting split."""
    _, report = study.splits
    rows = []
    for model, (resolutions, _) in study.grid.items():
        values = study.values(model, report, metric)
        known: dict[str, Any] = {
            "prior": seed_prior(list(values)),
            "heaviest": study.heaviest(model, report, metric),
        }
        for side, of_side in zip(resolutions, values, strict=True):
            rows.append({"model": model, "resolution": side} | plain(mean_estimate(of_side, **known)))
    return rows


def saturation(study: Study, metric: str, delta: float) -> Iterator[dict[str, Any]]:
    """The saturating law through each model's means; models with fewer than four resolutions have none."""
    for model, (resolutions, _) in study.grid.items():
        if len(resolutions) < 2:
            continue
        values_RSN = study.values(model, study.splits[1], metric)
        known: dict[str, Any] = {
            "prior": seed_prior(list(values_RSN)),
            "heaviest": study.heaviest(model, study.splits[1], metric),
        }
        # a - mean of all R = (1 - 1 / R) (a - mean of the others), and these two vary independently.
        others = [np.delete(values_RSN, r, axis=0).mean(axis=0) for r in range(len(resolutions))]
        own = [difference_estimate(a, b, **known) for a, b in zip(values_RSN, others, strict=True)]
        curve = fit_saturation(
            resolutions,
            values_RSN.mean(axis=(1, 2)),
            se_R=np.array([one.se for one in own]) * (1 - 1 / len(resolutions)),
            df=float(np.mean([one.df for one in own])),
            delta=delta,
        )
        if curve is not None:
            sides = np.geomspace(resolutions[0], resolutions[-1], 25)
            sides[0], sides[-1] = resolutions[0], resolutions[-1]
            drawn = [[float(side), curve.at(side)] for side in sides]
            yield {"model": model, "delta": delta, "curve": drawn} | plain(curve)


def omnibus_tests(study: Study) -> Iterator[dict[str, Any]]:
    """Cochran's Q of each model: are its resolutions right equally often? p adjusted by Holm over the models."""
    found = {}
    for model, (resolutions, _) in study.grid.items():
        if len(resolutions) > 1:
            labels, predicted = study.stack(model, study.splits[1])
            found[model] = omnibus(predicted == labels)
    for (model, one), p in zip(found.items(), holm([one.p for one in found.values()]), strict=True):
        yield {"model": model} | plain(one) | {"p_holm": p}


def comparisons(study: Study, metric: str) -> Iterator[dict[str, Any]]:
    """Each model's pairs of resolutions on the reporting split. The family is a model's pairs: p by Holm over them.

    'difference' and 'p_holm' are about the metric, new images and a new seed; 'mcnemar' and 'mcnemar_p_holm' about
    right answers of these very networks to new images.
    """
    _, report = study.splits
    for model, (resolutions, _) in study.grid.items():
        values = study.values(model, report, metric)
        labels, predicted = study.stack(model, report)
        right_RSN = predicted == labels
        known: dict[str, Any] = {
            "prior": seed_prior(list(values)),
            "heaviest": study.heaviest(model, report, metric),
        }
        pairs = [(i, j) for j in range(len(resolutions)) for i in range(j)]
        found = [difference_estimate(values[j], values[i], **known) for i, j in pairs]
        exact = [discordance(right_RSN[j], right_RSN[i]) for i, j in pairs]
        adjusted = holm([two_sided_p(f) for f in found])
        exact_adjusted = holm([one.p for one in exact])
        for position, (i, j) in enumerate(pairs):
            yield {
                "model": model,
                "low_resolution": resolutions[i],
                "high_resolution": resolutions[j],
                "difference": plain(found[position]),
                "p_holm": adjusted[position],
                "mcnemar": {
                    "only_high": exact[position].only_first,
                    "only_low": exact[position].only_second,
                    "p": exact[position].p,
                },
                "mcnemar_p_holm": exact_adjusted[position],
            }


def classes(study: Study) -> Iterator[dict[str, Any]]:
    """Critical resolution of each class by model."""
    for model, (resolutions, _) in study.grid.items():
        labels, predicted = study.stack(model, study.splits[1])
        for need in critical_resolutions(predicted == labels, labels, resolutions, study.class_names):
            yield {"model": model, "resolutions": list(resolutions)} | plain(need)


def _image_ids(study: Study, model: str) -> np.ndarray:
    resolutions, seeds = study.grid[model]
    return study.read(Cell(model, resolutions[0], seeds[0]), study.splits[1]).image_ids


def images(study: Study) -> Iterator[dict[str, Any]]:
    """How many images need which resolution."""
    for model, (resolutions, _) in study.grid.items():
        labels, predicted = study.stack(model, study.splits[1])
        needs = image_needs(predicted == labels)
        ids = _image_ids(study, model)
        for position, side in enumerate([*resolutions, None]):
            of_side = np.flatnonzero(needs == position)
            yield {
                "model": model,
                "resolution": side,
                "images": len(of_side),
                "examples": [str(ids[i]) for i in of_side[:5]],
            }


def needs_table(study: Study) -> pd.DataFrame:
    """One row an image of the reporting split: its label, and for each model the smallest sufficient resolution.

    Empty where no resolution is right with most seeds.
    """
    first = next(iter(study.grid))
    labels, _ = study.stack(first, study.splits[1])
    table = pd.DataFrame({"image_id": _image_ids(study, first), "class": np.array(study.class_names)[labels]})
    for model, (resolutions, _) in study.grid.items():
        labels, predicted = study.stack(model, study.splits[1])
        sides = pd.array([*resolutions, None], dtype="Int64")
        table[model] = sides.take(image_needs(predicted == labels))
    return table


def flips(study: Study) -> Iterator[dict[str, Any]]:
    """Images whose answer turns right, or wrong, from one resolution to the next and from the smallest to the largest.

    An answer is right where most seeds' are; the clearest turns are named first.
    """
    for model, (resolutions, _) in study.grid.items():
        if len(resolutions) < 2:
            continue
        labels, predicted = study.stack(model, study.splits[1])
        right_RSN = predicted == labels
        share_RN = right_RSN.mean(axis=1)
        ids = _image_ids(study, model)
        steps = [*pairwise(range(len(resolutions))), (0, len(resolutions) - 1)]
        for low, high in dict.fromkeys(steps):
            gained, lost = flipped_images(share_RN[low], share_RN[high])
            named = (low, high) == (0, len(resolutions) - 1)
            yield {
                "model": model,
                "low_resolution": resolutions[low],
                "high_resolution": resolutions[high],
                "gained": len(gained),
                "lost": len(lost),
                "examples": {
                    kind: [
                        {
                            "image_id": str(ids[i]),
                            "label": study.class_names[labels[i]],
                            "answers": [
                                _usual(predicted[r, :, i], share_RN[r, i], study.class_names)
                                for r in range(len(resolutions))
                            ],
                        }
                        for i in found[:_EXAMPLES]
                    ]
                    for kind, found in (("gained", gained), ("lost", lost))
                }
                if named
                else {},
            }


def _usual(predicted_S: np.ndarray, share: float, class_names: Sequence[str]) -> dict[str, Any]:
    """The most frequent answer over seeds, and the share of seeds that are right."""
    return {"answer": class_names[int(np.bincount(predicted_S).argmax())], "right": float(share)}


def cascades(study: Study, options: Sequence[Option], metric: str, delta: float) -> Iterator[dict[str, Any]]:
    """Each model's smaller resolutions before its largest, seed by seed; of the models that the verdict compares.

    Each seed's networks have a threshold of their own, with which they lose at most `delta` on the deciding split.
    """
    decide, report = study.splits
    latency = {(o.model, o.resolution): o.latency_ms for o in options}
    scored: dict[str, Any] = {"metric": metric, "num_classes": len(study.class_names)}

    for model, (resolutions, seeds) in study.grid.items():
        *smaller, large = resolutions
        if (model, large) not in latency:
            continue
        answers = {split: study.stack(model, split)[1][-1] for split in study.splits}
        labels, _ = study.stack(model, report)
        values = list(study.values(model, report, metric))
        heaviest = study.heaviest(model, report, metric)
        for small in smaller:
            found = []
            for position, seed in enumerate(seeds):
                of_small = [study.read(Cell(model, small, seed), split) for split in (decide, report)]
                val, test = (
                    (own.labels, own.probabilities, answers[split][position])
                    for own, split in zip(of_small, (decide, report), strict=True)
                )
                found.append(best_cascade(val, test, **scored, loss=delta))
            of_both = np.array([pseudo_values(labels, one.answers_N, **scored) for one in found])
            escalated = float(np.mean([one.asked_N.mean() for one in found]))
            yield {
                "model": model,
                "small_resolution": small,
                "large_resolution": large,
                "thresholds": {seed: one.threshold for seed, one in zip(seeds, found, strict=True)},
                "escalated": escalated,
                "metric": plain(mean_estimate(of_both, prior=seed_prior([*values, of_both]), heaviest=heaviest)),
                "mean_latency_ms": latency[model, small] + escalated * latency[model, large],
                "large_metric": plain(mean_estimate(values[-1], prior=seed_prior(values), heaviest=heaviest)),
                "large_latency_ms": latency[model, large],
            }
