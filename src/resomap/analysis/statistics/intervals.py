"""Intervals and tests for metrics of several runs on the same images.

Images and seeds are both samples: a figure that shall hold for new images and a new seed varies with both. The
variance of the mean over S seeds and N images is that of a two-way layout without replication,

    Var = (MS_images + N var_seeds) / (S N), MS_images = S var(mean over seeds)

as in multi-reader studies (Obuchowski and Rockette 1995, doi:10.1080/03610919508813243), seeds in the place of readers.
Seeds are never pooled as extra images. Two resolutions are compared on the differences, paired by image; their seeds
are taken to vary independently, so that their variances add up.

With few seeds the variance between them is badly known: it enters as a distribution, to which all resolutions of a
model contribute (seed_variance.py).

Legend: S seeds, N images, R resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from resomap.analysis.statistics.seed_variance import (
    LAMBDA_OFFSET,
    MeanSquares,
    SeedPrior,
    mean_squares,
    seed_posterior,
    shared_prior,
    student,
)
from resomap.metrics.classification import wilson_interval

_LEAST = 1 - LAMBDA_OFFSET
"""Share of what images alone give, below which a variance is not believed where that of seeds comes out below 0."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and images with its standard error."""

    value: float
    low: float
    high: float
    """Two-sided interval."""
    se: float
    df: float
    """Standard error and degrees of freedom of the Student's t that gives all intervals, bounds and p values."""
    images: int
    seeds: int
    seed_variance: float
    """Variance between seeds that `se` contains; 0 with one seed, where it is unknown."""

    def one_sided_low(self, level: float = 0.95) -> float:
        """Lower bound that holds with that probability."""
        return self.value - float(special.stdtrit(self.df, level)) * self.se

    def one_sided_high(self, level: float = 0.95) -> float:
        """Upper bound that holds with that probability."""
        return 2 * self.value - self.one_sided_low(level)


def mean_estimate(
    values_SN: np.ndarray, *, level: float = 0.95, prior: SeedPrior | None = None, heaviest: float = 1.0
) -> Estimate:
    """Mean of a metric in 0..1 with its interval: Wilson's, with the number of images that gives the same variance.

    That keeps the interval within 0..1 and of some length where every answer is right. Where images of a rare class
    weigh more than others and happen to be all right, they add nothing to the variance: half an image more that is
    right and half a one that is wrong are of that class (Agresti and Coull 1998, doi:10.1080/00031305.1998.10480550).

    Args:
        prior: of resolutions among which this one is; None: this one alone is known.
        heaviest: weight of an image of the rarest class over that of the mean one (pseudo.heaviest_image).
    """
    values = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    seeds, images = values.shape
    value = float(values.mean())
    own = mean_squares(values)
    se, df, seed_variance = _error(own.of_images, [(own, prior or _alone([own]))], values.shape)
    se = _with_heaviest(se, heaviest, images)
    spread = _spread(values)
    effective = min(spread / se**2, images * seeds) if se > 0 and spread > 0 else float(images)
    # Wilson's normal quantile becomes Student's by fewer effective images.
    shrink = float(special.ndtri(0.5 + level / 2) / special.stdtrit(df, 0.5 + level / 2)) ** 2
    trials = effective * shrink
    low, high = wilson_interval(float(np.clip(value, 0, 1)) * trials, trials, confidence=level)
    return Estimate(value, low, high, se, df, images, seeds, seed_variance)


def difference_estimate(
    a_SN: np.ndarray,
    b_SN: np.ndarray,
    *,
    level: float = 0.95,
    prior: SeedPrior | None = None,
    prior_of_b: SeedPrior | None = None,
    same_runs: bool = False,
    heaviest: float = 1.0,
) -> Estimate:
    """Mean of a - b, paired by image, of a metric in 0..1: its interval ends at -1 and 1, as the difference does.

    One image more on either side (+1 and -1, half a weight each) keeps the interval honest where the two hardly ever
    differ (Agresti and Min 2005, doi:10.1002/sim.1781, for a single pair of runs). They are of the class whose images
    weigh most.

    Args:
        prior: of resolutions among which both are, or only a, and `prior_of_b` is that of b; None: these two alone are
            known.
        same_runs: the same networks answered other images, seed for seed: their effects are not independent, and what
            counts is how much the difference varies. `prior` is then one among which a - b is.
        heaviest: weight of an image of the rarest class over that of the mean one (pseudo.heaviest_image).
    """
    a, b = (np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (a_SN, b_SN))
    seeds, images = a.shape
    whole = mean_squares(a - b)
    parts = [whole] if same_runs else [mean_squares(a), mean_squares(b)]
    prior = prior or _alone(parts)
    known = list(zip(parts, (prior, prior_of_b or prior), strict=False))
    se, df, seed_variance = _error(whole.of_images, known, a.shape)
    value = float((a - b).mean())
    se = float(np.sqrt(se**2 + heaviest**2 / images**2))  # half of (+1)^2 and of (-1)^2, over N^2
    half = float(special.stdtrit(df, 0.5 + level / 2)) * se
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), se, df, images, seeds, seed_variance)


def seed_prior(values_RSN: Sequence[np.ndarray]) -> SeedPrior | None:
    """What all resolutions of a model together say about the variance between seeds; None for one seed.

    Args:
        values_RSN: (S, N) for each resolution.
    """
    return _alone([mean_squares(np.atleast_2d(np.asarray(values, dtype=np.float64))) for values in values_RSN])


def _alone(parts: Sequence[MeanSquares]) -> SeedPrior | None:
    return shared_prior(parts) if min(part.seeds for part in parts) > 1 else None


def _error(
    of_images: float, parts: Sequence[tuple[MeanSquares, SeedPrior | None]], shape: tuple[int, ...]
) -> tuple[float, float, float]:
    """(standard error, degrees of freedom, variance between seeds) of a mean over seeds and images.

    Args:
        of_images: MS_images of what is averaged.
        parts: the runs whose seeds' variances add up in it, each with its prior; None: not known and left out.
        shape: (S, N).
    """
    seeds, images = shape
    image_df = max(1, images - 1)
    total, probability = np.array([of_images]), np.ones(1)
    for part, prior in parts:
        if prior is not None:
            variance_K, probability_K = seed_posterior(part, prior)
            total = np.add.outer(total, variance_K).ravel()
            probability = np.multiply.outer(probability, probability_K).ravel()
    total = np.maximum(total, max(_LEAST * of_images, 1e-9 * total.max()))
    if total.size == 1 or total.max() == 0:
        return float(np.sqrt(of_images / (seeds * images))), float(image_df), 0.0
    se, df = student(total / (seeds * images), probability)
    return se, 1 / (1 / df + 1 / image_df), max(0.0, seeds * se**2 - of_images / images)


def _with_heaviest(se: float, heaviest: float, images: int) -> float:
    """The standard error with half an image right and half a one wrong in the rarest class, beyond the mean image's."""
    return se if heaviest == 1 else float(np.sqrt(se**2 + (heaviest**2 - 1) / (2 * images**2)))


def _spread(values_SN: np.ndarray) -> float:
    """m (1 - m) of a metric in 0..1."""
    mean = float(np.clip(values_SN.mean(), 0, 1))
    return mean * (1 - mean)


def two_sided_p(estimate: Estimate) -> float:
    """p of 'the true value is 0'."""
    if estimate.se == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return float(2 * special.stdtr(estimate.df, -abs(estimate.value) / estimate.se))
