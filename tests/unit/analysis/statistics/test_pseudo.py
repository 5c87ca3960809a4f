"""Pseudo-values of macro averages: by hand, beside scikit-learn without each image in turn; their calibration."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from resomap.analysis.statistics.intervals import difference_estimate, mean_estimate, two_sided_p
from resomap.analysis.statistics.pseudo import heaviest_image, pseudo_values

MACRO = ("balanced_accuracy", "macro_f1")
SPLITS = {
    "every class often": (8, 5, 9),
    "one to four images": (1, 2, 3, 4, 1),
    "one image of each": (1, 1, 1, 1, 1, 1),
    "one image among many": (20, 20, 1),
    "classes without images": (0, 6, 1, 0, 2),
    "one class": (5,),
    "one image": (0, 1, 0),
}


def _metric(labels_N: np.ndarray, predicted_N: np.ndarray, metric: str) -> float:
    score = {"balanced_accuracy": recall_score, "macro_f1": f1_score}[metric]
    return float(score(labels_N, predicted_N, labels=np.unique(labels_N), average="macro", zero_division=0))


@pytest.mark.parametrize("metric", MACRO)
@pytest.mark.parametrize("split", SPLITS)
def test_they_are_what_leaving_out_each_image_in_turn_gives(metric: str, split: str) -> None:
    counts = SPLITS[split]
    labels = np.repeat(np.arange(len(counts)), counts)
    images = len(labels)
    rng = np.random.default_rng(len(split))
    for share in (0.0, 0.5, 0.8, 1.0):
        predicted = np.where(rng.random(images) < share, labels, rng.integers(len(counts), size=images))
        value = _metric(labels, predicted, metric)
        expected = np.full(images, value)
        if images > 1:
            without = [_metric(np.delete(labels, i), np.delete(predicted, i), metric) for i in range(images)]
            expected = images * value - (images - 1) * np.array(without)
            expected += value - expected.mean()
        found = pseudo_values(labels, predicted, metric=metric, num_classes=len(counts))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
        assert found.mean() == pytest.approx(value, abs=1e-12)


def test_macro_f1_by_hand() -> None:
    # F1 is 2/3 for both classes. Without the first image 0 and 2/3, without the second 1 and 1; without the third
    # class 1 has no image and class 0 keeps its 2/3: 3 x 2/3 - 2 x (1/3, 1, 2/3), whose mean is 2/3.
    found = pseudo_values(np.array([0, 0, 1]), np.array([0, 1, 1]), metric="macro_f1", num_classes=2)
    np.testing.assert_allclose(found, [4 / 3, 0, 2 / 3], atol=1e-12)


def test_with_one_image_of_each_class_balanced_accuracy_is_accuracy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(40)
    predicted = np.where(rng.random(40) < 0.75, labels, rng.integers(40, size=40))
    found = pseudo_values(labels, predicted, metric="balanced_accuracy", num_classes=40)
    np.testing.assert_allclose(found, labels == predicted, atol=1e-12)


def test_a_rare_class_that_is_all_right_may_still_be_wrong() -> None:
    """Ten of 610 images are of the third class, whose recall is 0.9: with probability 0.35 all of them are right."""
    labels = np.repeat([0, 1, 2], [300, 300, 10])
    predicted = labels.copy()
    predicted[[*range(6), *range(300, 306)]] = 2
    heaviest = heaviest_image(labels, metric="balanced_accuracy", num_classes=4)
    assert heaviest == pytest.approx(610 / 30)
    assert {heaviest_image(labels, metric=m, num_classes=3) for m in ("accuracy", "macro_f1")} == {1.0}
    values = pseudo_values(labels, predicted, metric="balanced_accuracy", num_classes=3)[None]
    assert mean_estimate(values).low > (0.98 + 0.98 + 0.9) / 3
    found = mean_estimate(values, heaviest=heaviest)
    assert found.low < (0.98 + 0.98 + 0.9) / 3
    # One image right and one wrong, half a weight each, of three classes' ten: (1/30)^2.
    same = difference_estimate(values, values, heaviest=heaviest)
    assert same.se == pytest.approx(1 / 30)
    assert not same.one_sided_low() > -(0.98 - 0.9) / 3


@pytest.mark.parametrize("metric", MACRO)
@pytest.mark.parametrize(("classes", "images"), [(40, 1), (40, 2), (20, 5), (10, 40)])
def test_networks_that_are_equally_good_seldom_differ_significantly(metric: str, classes: int, images: int) -> None:
    """400 pairs; 7.5 % are 2.3 standard errors above 5 %. With 40 or more images a class not too seldom either."""
    rng = np.random.default_rng(classes + images)
    labels = np.repeat(np.arange(classes), images)
    found = []
    for _ in range(400):
        right = rng.random((2, 1, len(labels))) < 0.75
        predicted = np.where(right, labels, rng.integers(classes, size=right.shape))
        values = [pseudo_values(labels, one, metric=metric, num_classes=classes)[None] for one in predicted[:, 0]]
        found.append(two_sided_p(difference_estimate(*values)))
    assert np.mean(np.array(found) < 0.05) <= 0.075
    if images >= 40:
        assert np.mean(np.array(found) < 0.05) >= 0.025


@pytest.mark.parametrize("metric", MACRO)
def test_with_many_images_of_each_class_their_variance_is_that_of_new_images(metric: str) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 100)

    def values() -> np.ndarray:
        predicted = np.where(rng.random(500) < 0.7, labels, rng.integers(5, size=500))
        return pseudo_values(labels, predicted, metric=metric, num_classes=5)

    drawn = [values() for _ in range(1000)]
    shown = np.mean([one.var(ddof=1) / 500 for one in drawn])
    assert shown == pytest.approx(np.var([one.mean() for one in drawn]), rel=0.15)
