"""Paired tests: statsmodels, hand-worked cases, and several seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests

from resomap.analysis.statistics.paired import cochran_q, discordance, holm, mcnemar, omnibus, over_seeds


def test_mcnemar_equals_statsmodels_and_mid_p_is_by_hand() -> None:
    a = np.array([1] * 30 + [1] * 9 + [0] * 3 + [0] * 5, bool)
    b = np.array([1] * 30 + [0] * 9 + [1] * 3 + [0] * 5, bool)
    expected = sm_mcnemar([[30, 9], [3, 5]], exact=True).pvalue
    assert mcnemar(a, b, mid_p=False) == pytest.approx(expected)
    assert mcnemar(a, b) == pytest.approx(expected - stats.binom.pmf(3, 12, 0.5))
    assert mcnemar(a, a) == 1


def test_cochran_equals_statsmodels() -> None:
    right = np.random.default_rng(1).random((80, 4)) < [0.6, 0.7, 0.8, 0.8]
    expected = cochrans_q(right.astype(int))
    assert cochran_q(right) == pytest.approx((expected.statistic, expected.pvalue))
    assert cochran_q(np.ones((5, 3))) == (0, 1)


def test_holm_equals_statsmodels() -> None:
    p = [0.04, 0.001, 0.02, 0.3, 0.02]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_several_p_values_become_one_that_is_no_smaller_than_twice_the_median_allows() -> None:
    assert over_seeds([0.03]) == 0.03
    assert over_seeds([0.01, 0.04]) == 0.04  # 2 / 2 times the larger
    assert over_seeds([0.01, 0.02, 0.9]) == pytest.approx(0.03)  # 3 / 2 times the middle one
    assert over_seeds([0.8, 0.9, 0.7]) == 1.0


def test_p_over_seeds_errs_no_more_often_than_one_whatever_the_dependence() -> None:
    """Equal p values, independent ones, and mixtures: P(p <= 0.05) stays at or below 0.05."""
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        for share in (0.0, 0.5, 1.0):
            common = rng.random((20_000, 1)) < share
            p = np.where(common, rng.random((20_000, 1)), rng.random((20_000, seeds)))
            rate = np.mean([over_seeds(row) <= 0.05 for row in p])
            assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20_000)


def test_discordance_counts_by_seed_and_omnibus_takes_the_middle_one() -> None:
    first = np.array([[1, 1, 1, 0], [1, 0, 1, 0]], bool)
    second = np.array([[1, 0, 0, 0], [1, 0, 1, 1]], bool)
    found = discordance(first, second)
    assert (found.only_first, found.only_second) == (1.0, 0.5)
    assert found.p == max(mcnemar(first[0], second[0]), mcnemar(first[1], second[1]))
    right = np.stack([first, second, first])
    q = [cochran_q(right[:, s].T) for s in range(2)]
    assert omnibus(right).q == pytest.approx((q[0][0] + q[1][0]) / 2)
    assert omnibus(right).p == pytest.approx(max(q[0][1], q[1][1]))
    assert omnibus(right).df == 2
