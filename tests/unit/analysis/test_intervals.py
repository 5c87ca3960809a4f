"""Intervals and tests: hand-worked cases, statsmodels and SciPy, and calibration by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from resomap.analysis.intervals import difference_estimate, mean_estimate, seed_prior, two_sided_p, wilson
from resomap.analysis.paired import holm


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (7, 10), (432, 500)])
def test_wilson_equals_statsmodels(right: int, images: int) -> None:
    assert wilson(right, images) == pytest.approx(proportion_confint(right, images, method="wilson"))


def test_one_seed_is_wilson_with_student_s_quantile() -> None:
    values = (np.arange(200) < 150).astype(float)
    found = mean_estimate(values)
    low, high = wilson(150, 200)
    assert (found.value, found.seeds, found.seed_variance) == (0.75, 1, 0.0)
    assert found.low == pytest.approx(low, abs=2e-3)
    assert found.high == pytest.approx(high, abs=2e-3)


def test_all_right_still_has_an_interval() -> None:
    found = mean_estimate(np.ones((3, 50)))
    assert found.high == 1
    assert 0.85 < found.low < 0.96


def test_variance_of_a_two_way_layout_by_hand() -> None:
    # Two seeds, three images: 1 0 1 / 1 1 1. Mean 5/6; by image 1, 1/2, 1; by seed 2/3, 1.
    values = np.array([[1.0, 0, 1], [1, 1, 1]])
    ms_images = 2 * np.var([1, 0.5, 1], ddof=1)
    ms_seeds = 3 * np.var([2 / 3, 1], ddof=1)
    residual = values - np.array([1, 0.5, 1]) - np.array([[2 / 3], [1]]) + 5 / 6
    ms_rest = (residual**2).sum() / 2
    found = mean_estimate(values)
    assert found.se**2 == pytest.approx((ms_images + max(0, ms_seeds - ms_rest)) / 6)
    assert found.seed_variance == pytest.approx(max(0, (ms_seeds - ms_rest) / 3))


def test_two_runs_of_one_seed_compare_like_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 400)) < [[0.8], [0.7]]
    found = difference_estimate(a, b)
    expected = stats.ttest_rel(a.astype(float), b.astype(float)).confidence_interval()
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.low == pytest.approx(expected.low, abs=2e-3)
    assert found.high == pytest.approx(expected.high, abs=2e-3)
    assert two_sided_p(found) == pytest.approx(stats.ttest_rel(a.astype(float), b.astype(float)).pvalue, rel=0.15)
    assert found.one_sided_low() > found.low


def _runs(rng: np.random.Generator, seeds: int, images: int, levels: list[float], seed_sd: float) -> np.ndarray:
    """(R, S, N) right or wrong: images differ in difficulty, runs in luck."""
    difficulty = rng.normal(0, 2, (1, 1, images))
    luck = rng.normal(0, seed_sd, (len(levels), seeds, 1))
    taste = rng.normal(0, 1, (len(levels), seeds, images))
    chance = expit(np.array(levels)[:, None, None] + difficulty + luck + taste)
    return (rng.random(chance.shape) < chance).astype(float)


def _truth(levels: list[float], seed_sd: float) -> np.ndarray:
    grid = stats.norm.ppf((np.arange(20000) + 0.5) / 20000) * np.sqrt(4 + 1 + seed_sd**2)
    return np.array([expit(level + grid).mean() for level in levels])


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "images", "seed_sd"), [(2, 300, 0.3), (3, 300, 0.3), (5, 300, 0.3), (3, 1000, 0.1)])
def test_calibration_by_simulation(seeds: int, images: int, seed_sd: float) -> None:
    """1,000 studies each: coverage of both intervals, error of non-inferiority at its margin, false differences."""
    levels = [1.0, 2.0, 2.5, 2.5]
    truth = _truth(levels, seed_sd)
    rng = np.random.default_rng([seeds, images])
    count = 1000
    mean_held = difference_held = inferior = different = 0
    for _ in range(count):
        runs = _runs(rng, seeds, images, levels, seed_sd)
        prior = seed_prior(list(runs))
        mean = mean_estimate(runs[1], prior=prior)
        mean_held += mean.low <= truth[1] <= mean.high
        gap = difference_estimate(runs[0], runs[3], prior=prior)
        difference_held += gap.low <= truth[0] - truth[3] <= gap.high
        margin = truth[3] - truth[1]  # exactly at the margin: declaring it not inferior is an error
        inferior += difference_estimate(runs[1], runs[3], prior=prior).one_sided_low() > -margin
        pairs = [difference_estimate(runs[i], runs[j], prior=prior) for i, j in ((2, 3),)]
        different += min(holm([two_sided_p(p) for p in pairs])) < 0.05
    noise = 2 * np.sqrt(0.05 * 0.95 / count)
    print(f"S={seeds} N={images} sd={seed_sd}: mean {mean_held / count:.3f}, difference {difference_held / count:.3f}, "
          f"non-inferiority error {inferior / count:.3f}, false difference {different / count:.3f}")  # fmt: skip
    assert 0.93 - noise <= mean_held / count <= 0.985
    assert 0.93 - noise <= difference_held / count <= 0.99
    assert inferior / count <= 0.05 + noise
    assert different / count <= 0.05 + noise
