"""How good a classifier's answers are, from stored labels and probabilities.

Pure functions on arrays; no NaN and no infinity come out. Classes are fixed by the data set (0 .. K-1): a class
without images in the split has support 0 and is left out of averages over classes, as its recall is undefined.

Legend: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from resomap.checks import is_whole
from resomap.errors import ArgumentError, ResoMapError

_SMALLEST = float(np.finfo(np.float32).eps)
"""Probabilities are clipped here in the logarithm, as scikit-learn does for float32."""

_ROUNDING = 0.01
"""What rows of probabilities may miss a sum of 1 by: half precision, and rounding to two digits."""


def metric_name(metric: str) -> str:
    """A metric's name for people: 'macro F1'."""
    return metric.replace("_", " ").replace("f1", "F1")


def confusion_matrix(labels_N: np.ndarray, predicted_N: np.ndarray, *, num_classes: int) -> np.ndarray:
    """(K, K) int64: row = true class, column = predicted class."""
    flat = np.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def accuracy(confusion_KK: np.ndarray) -> float:
    """Share of images on the diagonal."""
    return float(np.trace(confusion_KK) / confusion_KK.sum())


def precision_recall_f1(confusion_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) each. precision = tp / predicted, recall = tp / support, f1 = 2 tp / (predicted + support); 0 for 0 / 0."""
    return _from_counts(np.diag(confusion_KK), confusion_KK.sum(axis=0), confusion_KK.sum(axis=1))


def _from_counts(
    true_K: np.ndarray, predicted_K: np.ndarray, support_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true_positive = true_K.astype(np.float64)
    return (
        true_positive / np.maximum(predicted_K, 1),
        true_positive / np.maximum(support_K, 1),
        2 * true_positive / np.maximum(predicted_K + support_K, 1),
    )


def metric_value(labels_N: np.ndarray, predicted_N: np.ndarray, *, metric: str, num_classes: int) -> float:
    """'accuracy', 'balanced_accuracy' or 'macro_f1' from counts by class: fast with many classes too."""
    right_N = labels_N == predicted_N
    if metric == "accuracy":
        return float(right_N.mean())
    counted = (labels_N[right_N], predicted_N, labels_N)
    true_K, predicted_K, support_K = (np.bincount(values, minlength=num_classes) for values in counted)
    _, recall_K, f1_K = _from_counts(true_K, predicted_K, support_K)
    return macro({"balanced_accuracy": recall_K, "macro_f1": f1_K}[metric], support_K)


def metric_path(
    labels_N: np.ndarray, before_N: np.ndarray, after_N: np.ndarray, *, metric: str, num_classes: int
) -> np.ndarray:
    """(N + 1,) metric_value of the answers as one image after the other, in order, is answered otherwise.

    Takes as long as sorting the images, however many classes there are.

    Args:
        before_N, after_N: each image's answer at first and in the end.
    """
    count = len(labels_N)
    steps_N = np.arange(1, count + 1)
    gained_N = (after_N == labels_N).astype(np.int64) - (before_N == labels_N)
    if metric == "accuracy":
        return np.concatenate([[0], np.cumsum(gained_N)]) / count + float((before_N == labels_N).mean())
    support_K = np.bincount(labels_N, minlength=num_classes)
    true_K = np.bincount(labels_N[before_N == labels_N], minlength=num_classes)
    predicted_K = np.bincount(before_N, minlength=num_classes)
    # What each step does to each class's counts, in the order of class, then step; E such changes.
    of_class_E = np.concatenate([labels_N, before_N, after_N])
    step_E = np.tile(steps_N, 3)
    nothing_N = np.zeros(count, np.int64)
    true_E = np.concatenate([gained_N, nothing_N, nothing_N])
    predicted_E = np.concatenate([nothing_N, nothing_N - 1, nothing_N + 1])
    order_E = np.lexsort([step_E, of_class_E])
    of_class_E, step_E = of_class_E[order_E], step_E[order_E]
    first_E = np.searchsorted(of_class_E, of_class_E)  # position of the class's first change

    def counts(start_K: np.ndarray, change_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total_E = np.cumsum(change_E)
        before_all_E = (total_E - change_E)[first_E]
        after_E = start_K[of_class_E] + total_E - before_all_E
        return after_E - change_E, after_E

    true, predicted = counts(true_K, true_E[order_E]), counts(predicted_K, predicted_E[order_E])
    position = {"balanced_accuracy": 1, "macro_f1": 2}[metric]
    earlier_E, later_E = (
        _from_counts(t, p, support_K[of_class_E])[position] for t, p in zip(true, predicted, strict=True)
    )
    has_images_K = support_K > 0
    change_E = (later_E - earlier_E) * has_images_K[of_class_E] / has_images_K.sum()
    change_T = np.bincount(step_E, weights=change_E, minlength=count + 1)
    return np.cumsum(change_T) + macro(_from_counts(true_K, predicted_K, support_K)[position], support_K)


def macro(values_K: np.ndarray, support_K: np.ndarray) -> float:
    """Mean over the classes that have images: every class counts the same, however rare."""
    return float(values_K[support_K > 0].mean())


def top_k_accuracy(labels_N: np.ndarray, probabilities_NK: np.ndarray, *, k: int) -> float:
    """Share of images whose class is among the k most probable (k bounded by K).

    Among equals the lower class goes first, as in argmax, so that k = 1 is the accuracy.
    """
    own = np.take_along_axis(probabilities_NK, labels_N[:, None], axis=1)
    earlier = np.arange(probabilities_NK.shape[1]) < labels_N[:, None]
    better = (probabilities_NK > own) | ((probabilities_NK == own) & earlier)
    return float((better.sum(axis=1) < min(k, probabilities_NK.shape[1])).mean())


def log_loss(labels_N: np.ndarray, probabilities_NK: np.ndarray) -> float:
    """Mean of -log p(true class), in nats; p clipped to [2^-23, 1 - 2^-23]."""
    own = np.take_along_axis(probabilities_NK.astype(np.float64), labels_N[:, None], axis=1)
    return float(-np.log(np.clip(own, _SMALLEST, 1 - _SMALLEST)).mean())


def expected_calibration_error(labels_N: np.ndarray, probabilities_NK: np.ndarray, *, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, over equal-width bins of the top probability, weighted by size.

    ECE = sum_b (n_b / N) |acc(b) - conf(b)|, bins (0, 1/M], (1/M, 2/M] ... (Guo et al. 2017, arXiv:1706.04599, eq. 3).
    """
    confidence = probabilities_NK.max(axis=1).astype(np.float64)
    correct = probabilities_NK.argmax(axis=1) == labels_N
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels_N))


def wilson_interval(successes: float, trials: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); inside [0, 1] and sensible for 0 or all successes.

    (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z the normal quantile of (1 + confidence) / 2.

    Args:
        successes, trials: need not be whole numbers (an effective number of trials).
    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected 0 <= successes <= trials and a trial, got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, n = successes / trials, trials
    centre = p + z**2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # The ends are exact where rounding would leave the proportion itself outside.
    low = 0.0 if successes == 0 else float((centre - half) / scale)
    high = 1.0 if successes == trials else float((centre + half) / scale)
    return max(0.0, low), min(1.0, high)


def classification_metrics(
    labels_N: np.ndarray,
    probabilities_NK: np.ndarray,
    *,
    class_names: Sequence[str],
    top_k: int = 5,
    bins: int = 15,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """All metrics of one evaluation as plain values.

    Args:
        labels_N: whole numbers, 0 .. K-1; an array, or a list.
        probabilities_NK: rows sum to 1; an array, or lists.
        top_k: bounded by the number of classes.
        bins: of the calibration error.
        confidence: coverage of accuracy_low .. accuracy_high (Wilson).
    Returns:
        accuracy, accuracy_low, accuracy_high, top5_accuracy (named after k), balanced_accuracy (mean recall over the
        classes that have images, Brodersen et al. 2010), macro_precision, macro_recall, macro_f1, log_loss, ece;
        per_class: [{class, support, precision, recall, f1}];
        confusion_matrix: K x K counts.
    Raises:
        ArgumentError: a ValueError; no images, shapes that do not fit, or values out of range.
        ResoMapError: the model answered NaN.
    """
    labels_N, probabilities_NK = _checked(labels_N, probabilities_NK, len(class_names))
    for name, count in (("top_k", top_k), ("bins", bins)):
        if not is_whole(count) or count < 1:
            raise ArgumentError(f"{name}: expected a whole number from 1, got {count!r}")
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence: expected a share between 0 and 1, got {confidence!r}")
    confusion = confusion_matrix(labels_N, probabilities_NK.argmax(axis=1), num_classes=len(class_names))
    precision, recall, f1 = precision_recall_f1(confusion)
    support = confusion.sum(axis=1)
    low, high = wilson_interval(int(np.trace(confusion)), len(labels_N), confidence=confidence)
    return {
        "accuracy": accuracy(confusion),
        "accuracy_low": low,
        "accuracy_high": high,
        f"top{top_k}_accuracy": top_k_accuracy(labels_N, probabilities_NK, k=top_k),
        "balanced_accuracy": macro(recall, support),
        "macro_precision": macro(precision, support),
        "macro_recall": macro(recall, support),
        "macro_f1": macro(f1, support),
        "log_loss": log_loss(labels_N, probabilities_NK),
        "ece": expected_calibration_error(labels_N, probabilities_NK, bins=bins),
        "per_class": [
            {
                "class": name,
                "support": int(support[k]),
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
            }
            for k, name in enumerate(class_names)
        ],
        "confusion_matrix": confusion.tolist(),
    }


def _checked(labels_N: Any, probabilities_NK: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels, probabilities) as arrays of the shapes and ranges that metrics are made of."""
    labels, probabilities = _array("labels", labels_N), _array("probabilities", probabilities_NK)
    if labels.size == 0:
        raise ArgumentError("there are no predictions to compute metrics from")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ArgumentError(f"labels: expected whole numbers of shape (N,), got {labels.dtype} of shape {labels.shape}")
    if probabilities.shape != (len(labels), num_classes):
        raise ArgumentError(
            f"probabilities: expected shape {(len(labels), num_classes)}, got {probabilities.shape}; class_names has "
            f"{num_classes}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ArgumentError(f"labels: expected 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
    if not np.issubdtype(probabilities.dtype, np.floating):
        probabilities = probabilities.astype(np.float64)
    broken = int(np.isnan(probabilities).any(axis=1).sum())
    if broken:
        raise ResoMapError(
            f"the model's answers are not numbers for {broken} of {len(labels)} images; "
            "train again with a lower training.learning_rate, or with training.mixed_precision=no"
        )
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > _ROUNDING:
        raise ArgumentError(
            "probabilities: expected rows from 0 to 1 that sum to 1, got some from "
            f"{probabilities.min():.3g} to {probabilities.max():.3g}; of logits give the softmax"
        )
    return labels.astype(np.int64), probabilities


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"{name}: expected an array, got {type(values).__name__} that makes none") from None
    if array.dtype.kind not in "iuf":
        raise ArgumentError(f"{name}: expected numbers, got {array.dtype}")
    return array
