"""Intervals and tests: hand-worked cases, statsmodels and SciPy, and calibration by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from resomap.analysis.statistics.intervals import difference_estimate, mean_estimate, seed_prior, two_sided_p
from resomap.analysis.statistics.paired import holm
from resomap.analysis.statistics.seed_variance import mean_squares


def test_one_seed_is_wilson_with_student_s_quantile() -> None:
    values = (np.arange(200) < 150).astype(float)
    found = mean_estimate(values)
    low, high = proportion_confint(150, 200, method="wilson")
    assert (found.value, found.seeds, found.seed_variance) == (0.75, 1, 0.0)
    assert found.low == pytest.approx(low, abs=2e-3)
    assert found.high == pytest.approx(high, abs=2e-3)


def test_all_right_still_has_an_interval() -> None:
    found = mean_estimate(np.ones((3, 50)))
    assert found.high == 1
    assert 0.85 < found.low < 0.96


def test_with_many_seeds_the_variance_is_that_of_a_two_way_layout() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0.5, 0.05, (60, 1)) + rng.normal(0, 0.2, (1, 100)) + rng.normal(0, 0.2, (60, 100))
    own = mean_squares(values)
    found = mean_estimate(values)
    assert found.se**2 == pytest.approx((own.of_images + own.of_seeds - own.of_rest) / 6000, rel=0.03)
    assert found.seed_variance == pytest.approx(0.05**2, rel=0.5)


def test_the_other_resolutions_say_how_much_seeds_vary() -> None:
    rng = np.random.default_rng(2)
    calm, wild = (_runs(rng, 3, 400, [1.0] * 4, sd) for sd in (0.0, 1.0))
    among_calm = mean_estimate(calm[0], prior=seed_prior(list(calm)))
    alone = mean_estimate(calm[0])
    among_wild = mean_estimate(calm[0], prior=seed_prior([calm[0], *wild[1:]]))
    assert among_calm.high - among_calm.low < alone.high - alone.low
    assert among_calm.high - among_calm.low < among_wild.high - among_wild.low
    assert among_calm.df > alone.df


def test_luck_of_the_same_networks_is_paired() -> None:
    rng = np.random.default_rng(4)
    luck = rng.normal(0, 1, (3, 1))
    chance = expit(luck + rng.normal(1, 1, (1, 500)))
    sharp, blurred = (rng.random((2, 3, 500)) < chance).astype(float)
    apart, paired = (difference_estimate(sharp, blurred, same_runs=same) for same in (False, True))
    assert paired.se < 0.5 * apart.se
    nothing = difference_estimate(sharp, sharp, same_runs=True)
    assert (nothing.value, nothing.se) == (0.0, pytest.approx(1 / 500))


def test_bound_interval_and_p_agree() -> None:
    a, b = _runs(np.random.default_rng(6), 3, 200, [1.0, 1.5], 0.2)
    found = difference_estimate(a, b)
    on_the_edge = replace(found, value=found.value - found.low)
    assert two_sided_p(on_the_edge) == pytest.approx(0.05)
    assert found.one_sided_low(0.975) == pytest.approx(found.low)


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


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_difference_of_shares_is_never_said_to_be_beyond_what_it_can_be(images: int) -> None:
    """All right against all wrong. By hand: 1 and 1 -+ 2.776 / 5 with five images, whose t of 4 df is 2.776."""
    found = difference_estimate(np.ones((1, images)), np.zeros((1, images)))
    low = {1: -1.0, 2: -1.0, 5: 1 - 2.776 / 5}[images]
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(low, abs=1e-4), 1.0)


def _runs(
    rng: np.random.Generator, seeds: int, images: int, levels: list[float], seed_sd: float | np.ndarray
) -> np.ndarray:
    """(R, S, N) right or wrong: images differ in difficulty, runs in luck; `seed_sd` of all or (R, 1, 1)."""
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
    assert 0.93 - noise <= mean_held / count <= 0.97 + noise
    assert 0.93 - noise <= difference_held / count <= 0.97 + noise
    assert inferior / count <= 0.05 + noise
    assert different / count <= 0.05 + noise


@pytest.mark.slow
def test_a_resolution_whose_seeds_vary_more_is_seen_with_five_seeds() -> None:
    """Where sd is 0.1 at three resolutions and 0.6 at two, differences of these two are covered in 0.90 at least."""
    levels, seed_sd = [1.0, 2.0, 2.5, 2.5, 2.5], np.array([0.1, 0.1, 0.1, 0.6, 0.6])
    rng = np.random.default_rng(8)
    count, noise = 1000, 2 * np.sqrt(0.9 * 0.1 / 1000)
    held = np.zeros(2)
    for _ in range(count):
        runs = _runs(rng, 5, 500, levels, seed_sd[:, None, None])
        prior = seed_prior(list(runs))
        calm, wild = (difference_estimate(runs[i], runs[j], prior=prior) for i, j in ((1, 2), (3, 4)))
        gap = _truth([2.0], 0.1)[0] - _truth([2.5], 0.1)[0]
        held += [calm.low <= gap <= calm.high, wild.low <= 0 <= wild.high]
    print(f"calm {held[0] / count:.3f}, wild {held[1] / count:.3f}")
    assert held[0] / count >= 0.94 - noise
    assert held[1] / count >= 0.90 - noise
