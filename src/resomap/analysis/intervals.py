"""Intervals and tests for metrics of several runs on the same images.

Images and seeds are both samples: a figure that shall hold for new images and a new seed varies with both. The
variance of the mean over S seeds and N images is that of a two-way layout without replication,

    Var = (MS_images + MS_seeds - MS_rest) / (S N),
    MS_images = S var(mean over seeds), MS_seeds = N var(mean over images)

with degrees of freedom by Satterthwaite: the method of multi-reader studies (Dorfman, Berbaum and Metz 1992; Obuchowski
and Rockette 1995; degrees of freedom: Hillis 2007, doi:10.1002/sim.2532), seeds in the place of readers. Seeds are
never pooled as extra images. Two resolutions are compared on the differences, paired by image and by seed.

With few seeds their variance is badly known. Where a study has several resolutions it is moderated: mixed with what all
of them say, as a share of m (1 - m) for a metric m, which counts as up to four more degrees of freedom (empirical
Bayes, Smyth 2004, doi:10.2202/1544-6115.1027).

Legend: S seeds, N images, R resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_PRIOR_DF = 4.0
_LEAST = 0.7
"""Share of what images alone give, below which the variance is not believed. Chance may bring the variance between
seeds out below 0; to count it as 0 each time makes intervals too wide where seeds hardly differ, to let it run makes
them too narrow. Set by simulation (benchmarks/calibration.py)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and images with its standard error."""

    value: float
    low: float
    high: float
    """Two-sided interval."""
    se: float
    df: float
    images: int
    seeds: int
    seed_variance: float
    """Variance between seeds beyond what images explain; 0 with one seed, where it is unknown."""

    def one_sided_low(self, level: float = 0.95) -> float:
        """Lower bound that holds with that probability."""
        return self.value - float(stats.t.ppf(level, self.df)) * self.se


@dataclass(frozen=True, slots=True)
class SeedPrior:
    """Variance between seeds over all resolutions of a model, to be mixed in."""

    share: float
    """Of m (1 - m), the variance of a single answer: near 0 and 1 seeds differ less. May come out below 0."""
    df: float


def wilson(right: float, images: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927); right and images need not be whole numbers."""
    z = float(stats.norm.ppf(0.5 + level / 2))
    share = right / images
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def mean_estimate(values_SN: np.ndarray, *, level: float = 0.95, prior: SeedPrior | None = None) -> Estimate:
    """Mean of a metric in 0..1 with its interval: Wilson's, with the number of images that gives the same variance.

    That keeps the interval within 0..1 and of some length where every answer is right.
    """
    values = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    expected = None if prior is None else prior.share * _spread(values)
    value, variance, df, seed_variance = _variance(values, expected, prior.df if prior else 0.0)
    images = values.shape[1]
    spread = _spread(values)
    effective = min(spread / variance, images * values.shape[0]) if variance > 0 and spread > 0 else float(images)
    # Wilson's normal quantile becomes Student's by fewer effective images.
    shrink = (float(stats.norm.ppf(0.5 + level / 2)) / float(stats.t.ppf(0.5 + level / 2, df))) ** 2
    low, high = wilson(value * effective * shrink, effective * shrink, level=level)
    return Estimate(value, low, high, float(np.sqrt(variance)), df, images, values.shape[0], seed_variance)


def difference_estimate(
    a_SN: np.ndarray, b_SN: np.ndarray, *, level: float = 0.95, prior: SeedPrior | None = None
) -> Estimate:
    """Mean of a - b, paired by seed and image; `prior` is that of single resolutions.

    One image more on either side (+1 and -1, half a weight each) keeps the interval honest where the two hardly ever
    differ (Agresti and Min 2005, doi:10.1002/sim.1781, for a single pair of runs).
    """
    a, b = (np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (a_SN, b_SN))
    values = a - b
    # Two runs vary independently: the variances add up.
    expected = None if prior is None else prior.share * (_spread(a) + _spread(b))
    value, variance, df, seed_variance = _variance(values, expected, prior.df if prior else 0.0)
    images = values.shape[1]
    variance += 1.0 / images**2  # half of (+1)^2 and of (-1)^2, over N^2
    se = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.5 + level / 2, df)) * se
    return Estimate(value, value - half, value + half, se, df, images, values.shape[0], seed_variance)


def seed_prior(values_RSN: Sequence[np.ndarray]) -> SeedPrior | None:
    """What all resolutions of a model together say about the variance between seeds; None for one seed or resolution.

    Args:
        values_RSN: (S, N) for each resolution.
    """
    parts = [np.atleast_2d(values) for values in values_RSN]
    if len(parts) < 2 or parts[0].shape[0] < 2:
        return None
    seeds = parts[0].shape[0]
    between, spread = sum(_mean_squares(values)[3] for values in parts), sum(_spread(values) for values in parts)
    share = between / spread if spread > 0 else 0.0
    return SeedPrior(share, min(_PRIOR_DF, float((seeds - 1) * len(parts))))


def _spread(values_SN: np.ndarray) -> float:
    """m (1 - m) of a metric in 0..1."""
    mean = float(np.clip(values_SN.mean(), 0, 1))
    return mean * (1 - mean)


def _mean_squares(values_SN: np.ndarray) -> tuple[float, float, float, float]:
    """(MS_images, MS_seeds, MS_rest, variance between seeds, which may come out below 0)."""
    seeds, images = values_SN.shape
    grand = values_SN.mean()
    by_image, by_seed = values_SN.mean(axis=0), values_SN.mean(axis=1)
    ms_images = seeds * float(((by_image - grand) ** 2).sum()) / max(1, images - 1)
    if seeds == 1:
        return ms_images, 0.0, 0.0, 0.0
    ms_seeds = images * float(((by_seed - grand) ** 2).sum()) / (seeds - 1)
    rest = float(((values_SN - by_image - by_seed[:, None] + grand) ** 2).sum())
    ms_rest = rest / ((seeds - 1) * max(1, images - 1))
    return ms_images, ms_seeds, ms_rest, (ms_seeds - ms_rest) / images


def _variance(values_SN: np.ndarray, expected: float | None, prior_df: float) -> tuple[float, float, float, float]:
    """(mean, variance of the mean, degrees of freedom, variance between seeds).

    Args:
        expected: variance between seeds that other resolutions lead to expect; None: not known.
    """
    seeds, images = values_SN.shape
    ms_images, ms_seeds, ms_rest, between = _mean_squares(values_SN)
    value = float(values_SN.mean())
    if seeds == 1:
        return value, ms_images / images, float(max(1, images - 1)), 0.0
    seed_df = float(seeds - 1)
    if expected is not None and prior_df > 0:
        between = (seed_df * between + prior_df * expected) / (seed_df + prior_df)
        seed_df += prior_df
    # MS_seeds as it follows from the (moderated) variance between seeds.
    ms_seeds = max(ms_rest + images * between, _LEAST * ms_rest)
    total = max(ms_images + images * between, _LEAST * ms_images)
    between = max(0.0, between)
    if total == 0:
        return value, 0.0, float(max(1, images - 1)), between
    # As Hillis has it: MS_seeds enters whole, so that a variance between seeds that came out as 0 by chance costs too.
    df = total**2 / (ms_images**2 / max(1, images - 1) + ms_seeds**2 / seed_df)
    return value, total / (seeds * images), float(max(1.0, df)), between


def two_sided_p(estimate: Estimate) -> float:
    """p of 'the true value is 0'."""
    if estimate.se == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return float(2 * stats.t.sf(abs(estimate.value) / estimate.se, estimate.df))
