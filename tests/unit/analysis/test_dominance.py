"""The guard of successive halving."""

import numpy as np
import pytest
from scipy import stats

from resomap.analysis.dominance import difference_bound


def answers(only_ours, only_best, both, neither=0):
    ours = [True] * only_ours + [False] * only_best + [True] * both + [False] * neither
    best = [False] * only_ours + [True] * only_best + [True] * both + [False] * neither
    return np.array(ours), np.array(best)


def test_bound_is_that_of_two_exact_intervals():
    # At 95 % each part gets 2.5 %: the ends of scipy's two-sided 95 % Clopper-Pearson intervals.
    ours, best = answers(5, 40, 100, 55)
    most = stats.binomtest(5, 200).proportion_ci(0.95, method="exact").high
    least = stats.binomtest(40, 200).proportion_ci(0.95, method="exact").low
    assert difference_bound(ours, best, level=0.95) == pytest.approx(most - least, abs=1e-12)


def test_few_images_show_nothing():
    ours, best = answers(0, 3, 3)
    assert difference_bound(ours, best, level=0.95) > 0


@pytest.mark.parametrize("swapped", [False, True])
def test_ends(swapped):
    # All right against all wrong on 50 images: no more than 2.5 % for either end, 0.025^(1/50) = 0.9289.
    ours, best = answers(*((50, 0) if swapped else (0, 50)), 0)
    expected = 1.0 if swapped else (1 - 0.025 ** (1 / 50)) - 0.025 ** (1 / 50)
    assert difference_bound(ours, best, level=0.95) == pytest.approx(expected, abs=1e-9)


def test_equal_classifiers_are_rarely_shown_to_differ():
    rng = np.random.default_rng(0)
    wrong = sum(difference_bound(rng.random(100) < 0.7, rng.random(100) < 0.7, level=0.95) < 0 for _ in range(2000))
    assert wrong / 2000 < 0.05
