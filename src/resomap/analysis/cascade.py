"""Answer at a small resolution, escalate to a large one where the answer is unsure.

Legend: N images, K classes, T thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], float]
"""(labels (N,), answers (N,)) -> a metric of which more is better."""


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
    score: Score,
    loss: float = 0.0,
) -> Cascade:
    """The lowest threshold at which the score on val is within `loss` of the best that any threshold gives.

    Args:
        val, test: (labels (N,), probabilities of the small network (N, K), answers of the large one (N,)).
    """
    labels_N, small_NK, large_N = val
    margin_N, small_N = margins(small_NK), small_NK.argmax(axis=1)
    candidates_T = np.concatenate([[0.0], np.quantile(margin_N, np.linspace(0.02, 1, 50)) + 1e-9])
    score_T = np.array([score(labels_N, np.where(margin_N < t, large_N, small_N)) for t in candidates_T])
    threshold = float(candidates_T[np.flatnonzero(score_T >= score_T.max() - loss)[0]])
    _, small_NK, large_N = test
    asked_N = margins(small_NK) < threshold
    return Cascade(threshold, asked_N, np.where(asked_N, large_N, small_NK.argmax(axis=1)))


def margins(probabilities_NK: np.ndarray) -> np.ndarray:
    """(N,) float64, highest probability less the second highest.

    float32 would round a threshold just above 1 down to 1, which is no longer above the margin of a sure answer.
    """
    top = np.partition(probabilities_NK, -2, axis=1)[:, -2:].astype(np.float64)
    return top[:, 1] - top[:, 0]
