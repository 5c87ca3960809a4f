"""Answer at a small resolution, escalate to a large one where the answer is unsure.

Legend: N images, K classes, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Cascade:
    """Two models in a row."""

    small: str
    large: str
    threshold: float
    """Margin between the two highest probabilities below which the large one is asked; chosen on val."""
    escalated: float
    """Share of the reporting images that it is asked for."""
    accuracy: float
    mean_latency_ms: float
    """Both where escalated."""


def best_cascade(
    val: tuple[np.ndarray, np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    latency_ms: tuple[float, float],
    names: tuple[str, str],
    loss: float = 0.0,
) -> Cascade:
    """The lowest threshold at which val accuracy is within `loss` of the best that any threshold gives.

    Args:
        val, test: (labels (N,), probabilities of the small model (N, K), of the large one (N, K)).
    """
    labels, small, large = val
    margin = margins(small)
    candidates = np.concatenate([[0.0], np.quantile(margin, np.linspace(0.02, 1, 50)) + 1e-9])
    right_small, right_large = small.argmax(axis=1) == labels, large.argmax(axis=1) == labels
    accuracy_T = np.array([np.where(margin < t, right_large, right_small).mean() for t in candidates])
    threshold = float(candidates[np.flatnonzero(accuracy_T >= accuracy_T.max() - loss)[0]])
    labels, small, large = test
    asked = margins(small) < threshold
    right = np.where(asked, large.argmax(axis=1) == labels, small.argmax(axis=1) == labels)
    escalated = float(asked.mean())
    return Cascade(
        *names, threshold, escalated, float(right.mean()), latency_ms[0] + escalated * latency_ms[1]
    )  # fmt: skip


def margins(probabilities_NK: np.ndarray) -> np.ndarray:
    """(N,) float64, highest probability less the second highest.

    float32 would round a threshold just above 1 down to 1, which is no longer above the margin of a sure answer.
    """
    top = np.partition(probabilities_NK, -2, axis=1)[:, -2:].astype(np.float64)
    return top[:, 1] - top[:, 0]
