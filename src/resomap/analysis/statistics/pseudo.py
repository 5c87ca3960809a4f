"""A metric as a mean over images, so that one statistics serves all of them.

Accuracy is the mean of right answers. A macro average is no mean over images, but Tukey's pseudo-values are as good as
one (Efron 1982, chapter 3): N theta - (N - 1) theta_(-i), where theta_(-i) is the metric without image i, over the
classes that are left. They are shifted so that their mean is the metric itself. Unlike influence functions they show
how much the metric varies with few images of a class too: with one of each, balanced accuracy has accuracy's values.

Legend: N images, K classes.
"""

from __future__ import annotations

import numpy as np

from resomap.errors import ConfigError

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
_WEIGHTS = {"balanced_accuracy": (1.0, 0.0), "macro_f1": (0.5, 0.5)}
"""A class's score is its right answers over (weight x its images + weight x answers that name it)."""


def pseudo_values(labels_N: np.ndarray, predicted_N: np.ndarray, *, metric: str, num_classes: int) -> np.ndarray:
    """(N,) float64 whose mean is the metric of these answers.

    Raises:
        ConfigError: no such metric.
    """
    right_N = labels_N == predicted_N
    if metric == "accuracy":
        return right_N.astype(np.float64)
    if metric not in _WEIGHTS:
        raise ConfigError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    of_label, of_answer = _WEIGHTS[metric]
    support_K = np.bincount(labels_N, minlength=num_classes)
    true_K = np.bincount(labels_N[right_N], minlength=num_classes)
    whole_K = of_label * support_K + of_answer * np.bincount(predicted_N, minlength=num_classes)
    present_K, single_K = support_K > 0, support_K == 1
    score_K = _ratio(true_K, whole_K)
    # What a class's score changes by without an image that is right, one that is wrong, one wrongly taken for it.
    no_right_K = np.where(single_K, 0.0, _ratio(true_K - 1, whole_K - 1)) - score_K
    no_wrong_K = np.where(single_K, 0.0, _ratio(true_K, whole_K - of_label)) - score_K
    no_alarm_K = np.where(present_K, _ratio(true_K, whole_K - of_answer) - score_K, 0.0)
    change_N = np.where(right_N, no_right_K[labels_N], no_wrong_K[labels_N] + no_alarm_K[predicted_N])
    classes, total = present_K.sum(), score_K[present_K].sum()
    # Without its only image a class is left out; so without the only image of all nothing is left.
    left_N = np.maximum(classes - single_K[labels_N], 1)
    value = total / classes
    values_N = (len(labels_N) - 1) * (value - (total + change_N) / left_N)
    return value + values_N - values_N.mean()


def heaviest_image(labels_N: np.ndarray, *, metric: str, num_classes: int) -> float:
    """How many times the mean image's weight that of an image of the rarest class is: 1 but for balanced accuracy.

    An image of class k has the weight 1 / (K n_k) in balanced accuracy, the mean one 1 / N. In macro F1 a class's score
    takes wrong answers of all images in, so that it varies even where its own images are all right.
    """
    if metric != "balanced_accuracy":
        return 1.0
    support_K = np.bincount(labels_N, minlength=num_classes)
    support_K = support_K[support_K > 0]
    return float(len(labels_N) / (len(support_K) * support_K.min()))


def _ratio(part_K: np.ndarray, whole_K: np.ndarray) -> np.ndarray:
    """0 for 0 / 0, and for what cannot be."""
    return np.maximum(part_K, 0) / np.where(whole_K > 0, whole_K, 1.0)
