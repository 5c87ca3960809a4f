"""Answer at a small resolution, escalate to a large one where the answer is unsure.

Legend: N images, K classes, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resomap.metrics.classification import metric_path

_ROUNDING = 1e-12
"""Of scores, each of which is the one before and a change."""


@dataclass(frozen=True, slots=True, eq=False)
class Cascade:
    """Two networks in a row."""

    threshold: float
    """Margin between the two highest probabilities below which the large one is asked; chosen on val."""
    asked_N: np.ndarray
    """bool, reporting images that the large one is asked for."""
    answers_N: np.ndarray
    """What the two answer to them."""


def best_cascade(
    val: tuple[np.ndarray, np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    metric: str,
    num_classes: int,
    loss: float = 0.0,
) -> Cascade:
    """The lowest threshold at which the metric on val is within `loss` of the best that any threshold gives.

    Args:
        metric: as metric_value's.
        val, test: (labels (N,), probabilities of the small network (N, K), answers of the large one (N,)).
    """
    labels_N, small_NK, large_N = val
    margin_N, small_N = margins(small_NK), small_NK.argmax(axis=1)
    order_N = np.argsort(margin_N, kind="stable")
    answers = (labels_N[order_N], small_N[order_N], large_N[order_N])
    score_T = metric_path(*answers, metric=metric, num_classes=num_classes)
    candidates_T = np.concatenate([[0.0], np.nextafter(margin_N[order_N], np.inf)])
    last_T = np.append(candidates_T[1:] != candidates_T[:-1], True)  # images of one margin are asked about together
    candidates_T, score_T = candidates_T[last_T], score_T[last_T]
    threshold = float(candidates_T[np.flatnonzero(score_T >= score_T.max() - loss - _ROUNDING)[0]])
    _, small_NK, large_N = test
    asked_N = margins(small_NK) < threshold
    return Cascade(threshold, asked_N, np.where(asked_N, large_N, small_NK.argmax(axis=1)))


def margins(probabilities_NK: np.ndarray) -> np.ndarray:
    """(N,) float64, highest probability less the second highest.

    float32 would round a threshold just above 1 down to 1, which is no longer above the margin of a sure answer.
    """
    top = np.partition(probabilities_NK, -2, axis=1)[:, -2:].astype(np.float64)
    return top[:, 1] - top[:, 0]
