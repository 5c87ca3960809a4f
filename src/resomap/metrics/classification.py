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

from resomap.errors import ResoMapError

_SMALLEST = float(np.finfo(np.float32).eps)
"""Probabilities are clipped here in the logarithm, as scikit-learn does for float32."""


def confusion_matrix(labels_N: np.ndarray, predicted_N: np.ndarray, *, num_classes: int) -> np.ndarray:
    """(K, K) int64: row = true class, column = predicted class."""
    flat = np.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def accuracy(confusion_KK: np.ndarray) -> float:
    """Share of images on the diagonal."""
    return float(np.trace(confusion_KK) / confusion_KK.sum())


def precision_recall_f1(confusion_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) each. precision = tp / predicted, recall = tp / support, f1 = 2 tp / (predicted + support); 0 for 0 / 0."""
    true_positive = np.diag(confusion_KK).astype(np.float64)
    predicted, support = confusion_KK.sum(axis=0), confusion_KK.sum(axis=1)
    return (
        true_positive / np.maximum(predicted, 1),
        true_positive / np.maximum(support, 1),
        2 * true_positive / np.maximum(predicted + support, 1),
    )


def macro(values_K: np.ndarray, support_K: np.ndarray) -> float:
    """Mean over the classes that have images: every class counts the same, however rare."""
    return float(values_K[support_K > 0].mean())


def balanced_accuracy(confusion_KK: np.ndarray) -> float:
    """Mean recall over the classes that have images (Brodersen et al. 2010)."""
    return macro(precision_recall_f1(confusion_KK)[1], confusion_KK.sum(axis=1))


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
        labels_N: int64, 0 .. K-1.
        probabilities_NK: rows sum to 1.
        top_k: bounded by the number of classes.
        bins: of the calibration error.
        confidence: coverage of accuracy_low .. accuracy_high (Wilson).
    Returns:
        accuracy, accuracy_low, accuracy_high, top5_accuracy (named after k), balanced_accuracy, macro_precision,
        macro_recall, macro_f1, log_loss, ece; per_class: [{class, support, precision, recall, f1}];
        confusion_matrix: K x K counts.
    Raises:
        ValueError: no images, or shapes that do not fit.
        ResoMapError: the model answered NaN.
    """
    _check(labels_N, probabilities_NK, len(class_names))
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


def _check(labels_N: np.ndarray, probabilities_NK: np.ndarray, num_classes: int) -> None:
    if len(labels_N) == 0:
        raise ValueError("there are no predictions to compute metrics from")
    if probabilities_NK.shape != (len(labels_N), num_classes):
        raise ValueError(f"probabilities: expected shape {(len(labels_N), num_classes)}, got {probabilities_NK.shape}")
    if labels_N.min() < 0 or labels_N.max() >= num_classes:
        raise ValueError(f"labels: expected 0 to {num_classes - 1}, got {labels_N.min()} to {labels_N.max()}")
    broken = int(np.isnan(probabilities_NK).any(axis=1).sum())
    if broken:
        raise ResoMapError(
            f"the model's answers are not numbers for {broken} of {len(labels_N)} images; "
            "train again with a lower training.learning_rate, or with training.mixed_precision=no"
        )
