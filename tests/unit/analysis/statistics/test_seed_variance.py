"""The distribution of the variance between seeds: hand-worked mean squares, Student's t recovered from its mixture."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from resomap.analysis.statistics.seed_variance import MeanSquares, mean_squares, seed_posterior, shared_prior, student


def test_mean_squares_by_hand() -> None:
    # Two seeds, three images: 1 0 1 / 1 1 1. Mean 5/6; by image 1, 1/2, 1; by seed 2/3, 1.
    found = mean_squares(np.array([[1.0, 0, 1], [1, 1, 1]]))
    assert found.of_images == pytest.approx(2 * np.var([1, 0.5, 1], ddof=1))
    assert found.of_seeds == pytest.approx(3 * np.var([2 / 3, 1], ddof=1))
    # Left over: 1 - 1 - 2/3 + 5/6 = 1/6, 0 - 1/2 - 2/3 + 5/6 = -1/3, 1/6, and the same with the other sign.
    assert found.of_rest == pytest.approx(2 * (1 / 36 + 1 / 9 + 1 / 36) / 2)
    assert (found.seeds, found.images) == (2, 3)


def test_one_seed_says_nothing_about_seeds() -> None:
    found = mean_squares(np.array([[1.0, 0, 1]]))
    assert (found.of_seeds, found.of_rest, found.seeds) == (0.0, 0.0, 1)


@pytest.mark.parametrize("df", [2, 5, 20])
def test_a_mixture_over_inverse_chi_squares_is_student_s_t(df: int) -> None:
    chance = (np.arange(4000) + 0.5) / 4000
    se, found = student(df * 0.04 / stats.chi2.ppf(chance, df), np.full(4000, 1 / 4000))
    assert found == pytest.approx(df, rel=0.03)
    assert se == pytest.approx(0.2, rel=0.01)


def test_one_normal_distribution_has_no_lack_of_degrees_of_freedom() -> None:
    se, df = student(np.array([0.09, 0.09]), np.array([0.5, 0.5]))
    assert se == pytest.approx(0.3, rel=1e-3)
    assert df > 200


def _layout(ratio: float, seeds: int) -> MeanSquares:
    return MeanSquares(of_images=2.0, of_seeds=ratio, of_rest=1.0, seeds=seeds, images=500)


def _expected(own: MeanSquares, others: list[MeanSquares]) -> float:
    variance_K, probability_K = seed_posterior(own, shared_prior([own, *others]))
    return float(variance_K @ probability_K)


def test_few_seeds_follow_the_other_resolutions_and_many_do_not() -> None:
    calm, wild = [[_layout(ratio, 3)] * 4 for ratio in (1.0, 30.0)]
    assert _expected(_layout(1.0, 2), calm) < 1 < 3 < _expected(_layout(1.0, 2), wild)
    assert _expected(_layout(30.0, 50), calm) == pytest.approx(29, rel=0.15)


def test_the_posterior_adds_up_to_one_whatever_was_seen() -> None:
    nothing, seeds_alone = MeanSquares(0.0, 0.0, 0.0, 3, 500), MeanSquares(1.0, 1.0, 0.0, 2, 500)
    for own in (_layout(0.0, 2), _layout(1e9, 2), nothing, seeds_alone):
        variance_K, probability_K = seed_posterior(own, shared_prior([own, _layout(1.0, 3), nothing]))
        assert np.isfinite(variance_K).all()
        assert probability_K.sum() == pytest.approx(1)
