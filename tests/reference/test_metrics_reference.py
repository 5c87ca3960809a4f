"""Metrics against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy.stats import binomtest

from resomap.metrics.classification import (
    classification_metrics,
    expected_calibration_error,
    metric_value,
    wilson_interval,
)


def answers(seed: int, n: int, k: int, *, present: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, present or k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    exponentials = np.exp(logits)
    return labels, (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("seed", "n", "k"), [(0, 500, 2), (1, 1000, 7), (2, 50, 10), (3, 2000, 100)])
def test_metrics_equal_scikit_learn(seed: int, n: int, k: int) -> None:
    labels, probabilities = answers(seed, n, k)
    predicted, every = probabilities.argmax(1), range(k)
    ours = classification_metrics(labels, probabilities, class_names=[str(i) for i in every])
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert ours["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=every).tolist()
    assert ours["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=every), rel=1e-5)
    reference = sk.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), reference, strict=True):
        assert [row[name] for row in ours["per_class"]] == pytest.approx(values.tolist())
    with_images = np.unique(labels)
    macro = sk.precision_recall_fscore_support(labels, predicted, labels=with_images, average="macro", zero_division=0)
    assert [ours[f"macro_{m}"] for m in ("precision", "recall", "f1")] == pytest.approx(list(macro[:3]))
    if len(with_images) == k:
        assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    if k > 5:
        top5 = sk.top_k_accuracy_score(labels, probabilities, k=5, labels=every)
        assert ours["top5_accuracy"] == pytest.approx(top5)


def test_metrics_with_absent_classes_equal_scikit_learn_over_present_ones() -> None:
    labels, probabilities = answers(4, 300, 8, present=5)
    ours = classification_metrics(labels, probabilities, class_names=[str(i) for i in range(8)])
    reference = sk.f1_score(labels, probabilities.argmax(1), labels=range(5), average="macro", zero_division=0)
    assert ours["macro_f1"] == pytest.approx(reference)


@pytest.mark.parametrize(("n", "k"), [(1, 2), (40, 3), (500, 20)])
def test_single_metrics_equal_scikit_learn_over_present_classes(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    labels, predicted = rng.integers(0, k - 1, n), rng.integers(0, k, n)  # the last class is only answered
    present = np.unique(labels)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.recall_score(labels, predicted, labels=present, average="macro", zero_division=0),
        "macro_f1": sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0),
    }
    for metric, value in expected.items():
        assert metric_value(labels, predicted, metric=metric, num_classes=k) == pytest.approx(value, abs=1e-12)


def test_expected_calibration_error_equals_the_definition() -> None:
    labels, probabilities = answers(5, 4000, 6)
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == labels
    total = 0.0
    for b in range(15):  # Guo et al. 2017, eq. 3, literally
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(labels, probabilities) == pytest.approx(total)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (7, 18), (9_876, 10_000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_interval_equals_scipy(successes: int, trials: int, confidence: float) -> None:
    reference = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence=confidence) == pytest.approx(
        (reference.low, reference.high), abs=1e-12
    )
