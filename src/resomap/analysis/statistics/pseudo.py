"""A metric as a mean over images, so that one statistics serves all of them.

Accuracy is the mean of right answers; macro averages are not means over images, but their linear part is: the value
of an image is the metric plus its influence (the infinitesimal jackknife, Efron 1982, chapter 6). The mean of these
values over the images is the metric itself.

Legend: N images, K classes.
"""

from __future__ import annotations

import numpy as np

from resomap.errors import ConfigError

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def pseudo_values(labels_N: np.ndarray, predicted_N: np.ndarray, *, metric: str, num_classes: int) -> np.ndarray:
    """(N,) float64 whose mean is the metric of these answers.

    Raises:
        ConfigError: no such metric.
    """
    right_N = (labels_N == predicted_N).astype(np.float64)
    if metric == "accuracy":
        return right_N
    support_K = np.bincount(labels_N, minlength=num_classes).astype(np.float64)
    present_K = support_K > 0
    classes = present_K.sum()
    images = len(labels_N)
    if metric == "balanced_accuracy":
        recall_K = np.bincount(labels_N, weights=right_N, minlength=num_classes) / np.maximum(support_K, 1)
        influence_N = (right_N - recall_K[labels_N]) * images / (classes * support_K[labels_N])
        return recall_K[present_K].mean() + influence_N
    if metric == "macro_f1":
        true_K = np.bincount(labels_N, weights=right_N, minlength=num_classes)
        total_K = support_K + np.bincount(predicted_N, minlength=num_classes)
        f1_K = 2 * true_K / np.maximum(total_K, 1)
        # d F1_k / d weight of image i = (2 [right, class k] - F1_k ([label k] + [predicted k])) / total_k
        share_K = np.where(present_K, images / (classes * np.maximum(total_K, 1)), 0.0)
        of_label = share_K[labels_N] * (2 * right_N - f1_K[labels_N])
        of_answer = -share_K[predicted_N] * f1_K[predicted_N]
        return f1_K[present_K].mean() + of_label + of_answer
    raise ConfigError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
