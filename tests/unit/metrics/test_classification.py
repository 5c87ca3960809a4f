from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.errors import ArgumentError, ResoMapError
from resomap.metrics.classification import (
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    log_loss,
    precision_recall_f1,
    top_k_accuracy,
    wilson_interval,
)

# Five images of classes 0, 0, 1, 1, 1; class 2 has none. Answers: 0, 1, 1, 1, 2.
LABELS = np.array([0, 0, 1, 1, 1])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.9, 0.0], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=np.float32
)


def test_confusion_matrix_rows_are_true_classes() -> None:
    expected = [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    assert confusion_matrix(LABELS, PROBABILITIES.argmax(1), num_classes=3).tolist() == expected


def test_precision_recall_f1_by_hand() -> None:
    precision, recall, f1 = precision_recall_f1(np.array([[1, 1, 0], [0, 2, 1], [0, 0, 0]]))
    # Class 0: 1 of 1 predicted, 1 of 2 found. Class 1: 2 of 3, 2 of 3. Class 2: 0 of 1, no images.
    assert precision == pytest.approx([1, 2 / 3, 0])
    assert recall == pytest.approx([0.5, 2 / 3, 0])
    assert f1 == pytest.approx([2 / 3, 2 / 3, 0])


def test_classification_metrics_averages_over_classes_that_have_images() -> None:
    values = classification_metrics(LABELS, PROBABILITIES, class_names=["a", "b", "c"])
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["balanced_accuracy"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert values["macro_f1"] == pytest.approx(2 / 3)
    assert values["macro_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["per_class"][2] == {"class": "c", "support": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    own = [0.8, 0.3, 0.9, 0.5, 0.3]
    assert values["log_loss"] == pytest.approx(-sum(math.log(p) for p in own) / 5)
    json.dumps(values, allow_nan=False)


def test_top_k_accuracy_counts_ranks_and_puts_the_lower_class_first_among_equals() -> None:
    # Ranks of the true class: 1, 2, 1, 1, 2.
    assert top_k_accuracy(LABELS, PROBABILITIES, k=1) == pytest.approx(3 / 5)
    assert top_k_accuracy(LABELS, PROBABILITIES, k=2) == 1.0
    assert top_k_accuracy(LABELS, PROBABILITIES, k=50) == 1.0
    uniform = np.full((1, 4), 0.25)
    assert [top_k_accuracy(np.array([2]), uniform, k=k) for k in (1, 2, 3)] == [0, 0, 1]


def test_expected_calibration_error_by_hand() -> None:
    # Two bins. (0, 0.5]: one image, confidence 0.5, right. (0.5, 1]: 0.8 right, 0.6 wrong, 0.9 right, 0.6 wrong.
    # |1 - 0.5| * 1/5 + |2/4 - 2.9/4| * 4/5 = 0.1 + 0.18
    assert expected_calibration_error(LABELS, PROBABILITIES, bins=2) == pytest.approx(0.28)


def test_log_loss_of_certain_mistakes_is_finite() -> None:
    assert log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(23 * math.log(2))


def test_wilson_interval_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29 (95 %).
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.51, 0.999))
def test_wilson_interval_holds_the_proportion(counts: tuple[int, int], confidence: float) -> None:
    low, high = wilson_interval(*counts, confidence=confidence)
    assert 0 <= low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        wilson_interval(successes, trials)


def random_answers(seed: int, *, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse probabilities, so that equal ones are frequent."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (n, k)) + np.eye(k, dtype=int)[rng.integers(0, k, n)]
    return rng.integers(0, k, n), counts / counts.sum(axis=1, keepdims=True)


ANSWERS = st.builds(
    lambda seed, n, k: random_answers(seed, n=n, k=k), st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 8)
)


@given(ANSWERS)
def test_metrics_agree_with_each_other(answers: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = answers
    k = probabilities.shape[1]
    values = classification_metrics(labels, probabilities, class_names=list("abcdefgh")[:k], top_k=1)
    assert values["top1_accuracy"] == pytest.approx(values["accuracy"])
    assert values["macro_recall"] == values["balanced_accuracy"]
    assert values["accuracy_low"] <= values["accuracy"] <= values["accuracy_high"]
    assert sum(row["support"] for row in values["per_class"]) == len(labels)
    scalars = {name: value for name, value in values.items() if isinstance(value, float)}
    assert all(0 <= value <= 1 for name, value in scalars.items() if name != "log_loss")
    ranked = [top_k_accuracy(labels, probabilities, k=j) for j in range(1, k + 1)]
    assert ranked == sorted(ranked)
    assert ranked[-1] == 1.0
    # Weighted by support, recall is the accuracy.
    weighted = sum(row["support"] * row["recall"] for row in values["per_class"]) / len(labels)
    assert weighted == pytest.approx(values["accuracy"])


@given(ANSWERS, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_images(
    answers: tuple[np.ndarray, np.ndarray], random: random.Random
) -> None:
    labels, probabilities = answers
    order = list(range(len(labels)))
    random.shuffle(order)
    names = [str(i) for i in range(probabilities.shape[1])]
    straight = classification_metrics(labels, probabilities, class_names=names)
    shuffled = classification_metrics(labels[order], probabilities[order], class_names=names)
    assert shuffled.pop("per_class") == straight.pop("per_class")
    assert shuffled.pop("confusion_matrix") == straight.pop("confusion_matrix")
    assert shuffled == pytest.approx(straight)


def test_expected_calibration_error_of_confident_answers() -> None:
    # Always sure and always right: 0. Always sure and right half of the time: 1/2. Confidence 1 is in the last bin.
    sure = np.array([[1.0, 0.0]] * 4)
    assert expected_calibration_error(np.array([0, 0, 0, 0]), sure) == 0
    assert expected_calibration_error(np.array([0, 1, 0, 1]), sure) == pytest.approx(0.5)


def test_classification_metrics_names_answers_that_are_not_numbers() -> None:
    probabilities = np.array([[0.5, 0.5], [np.nan, np.nan]])
    with pytest.raises(ResoMapError, match="not numbers for 1 of 2 images"):
        classification_metrics(np.array([0, 1]), probabilities, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (np.empty(0, int), np.empty((0, 2)), "no predictions"),
        (np.array([0]), np.ones((1, 3)), "expected shape"),
        (np.array([2]), np.ones((1, 2)), "expected 0 to 1"),
        ([-1], [[0.5, 0.5]], "expected 0 to 1, got -1 to -1"),
        ([[0, 1]], [[0.5, 0.5]], r"labels: expected whole numbers of shape \(N,\), got int64 of shape \(1, 2\)"),
        ([0.5], [[0.5, 0.5]], "labels: expected whole numbers"),
        (0, [[0.5, 0.5]], "labels: expected whole numbers"),
        (["a"], [[0.5, 0.5]], "labels: expected numbers"),
        ([0], [0.5, 0.5], r"probabilities: expected shape \(1, 2\), got \(2,\)"),
        ([0, 1], [[0.5, 0.5], [1.0]], "probabilities: expected an array, got list that makes none"),
        ([0], [[3.0, -1.0]], "rows from 0 to 1 that sum to 1, got some from -1 to 3; of logits give the softmax"),
        ([0], [[0.2, 0.2]], "sum to 1"),
        ([0], [[np.inf, 0.0]], "sum to 1"),
    ],
)
def test_classification_metrics_refuses_what_does_not_fit(labels: Any, probabilities: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as found:
        classification_metrics(labels, probabilities, class_names=["a", "b"])
    assert isinstance(found.value, ResoMapError)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"bins": 0}, {"bins": 2.5}, {"confidence": 1.0}])
def test_classification_metrics_refuses_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"{next(iter(options))}: expected"):
        classification_metrics([0], [[1.0, 0.0]], class_names=["a", "b"], **options)


def test_classification_metrics_of_lists_are_those_of_arrays() -> None:
    lists = classification_metrics(LABELS.tolist(), PROBABILITIES.tolist(), class_names=["a", "b", "c"])
    assert lists == classification_metrics(LABELS, PROBABILITIES, class_names=["a", "b", "c"])
