"""The crossed bootstrap: images drawn anew, the same ones at every resolution, and with them the effects of new seeds.

For questions about several options at once: which is on the Pareto front, what is the regret. Intervals of single
figures and differences are in intervals.py, and the draws vary as much as those say. To draw seeds with replacement
too would count what images and seeds do together three times (Owen 2007, doi:10.1214/07-AOAS122, theorem 3): once is
right, and the means over seeds of drawn images have it. So seeds' effects are not drawn from the seeds at hand but
from the posterior of the variance between seeds (seed_variance.py), for each option on its own, as differences take it.

Legend: D draws, C options (a model at a resolution), S seeds, N images, K values of the variance between seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resomap.analysis.statistics.intervals import seed_prior
from resomap.analysis.statistics.seed_variance import LAMBDA_OFFSET, SeedPrior, mean_squares, seed_posterior

_CHUNK = 250
_LEAST_OF_STRATUM = 10
"""Images; of n, draws show (n - 1) / n of the variance within a stratum, and none of a single image's."""


def crossed_bootstrap(
    values_CSN: np.ndarray,
    *,
    draws: int = 10_000,
    seed: int = 0,
    strata_N: np.ndarray | None = None,
    priors: Sequence[SeedPrior | None] | None = None,
) -> np.ndarray:
    """(D, C) means of the options for new images and new seeds.

    Images are drawn within strata where every stratum has ten or more, else from all: smaller ones would hide how much
    they vary. One seed is kept, and its variance is not known.

    Args:
        values_CSN: a metric's values by option, seed and image; the same images and seeds throughout.
        strata_N: labels, where images were collected by class.
        priors: by option, of resolutions among which it is (intervals.seed_prior); None: all are one model's.
    """
    options, _, images = values_CSN.shape
    rng = np.random.default_rng(seed)
    order, starts, sizes = _strata(strata_N, images)
    by_image_NC = np.ascontiguousarray(values_CSN.mean(axis=1).T[order], dtype=np.float32)
    result = np.empty((draws, options))
    for begin in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - begin)
        weights = np.empty((count, images), dtype=np.float32)
        for row in range(count):
            drawn = starts + (rng.random(images, dtype=np.float32) * sizes).astype(np.int32)
            # float32 rounds up to the size itself now and then.
            np.minimum(drawn, starts + sizes - 1, out=drawn)
            weights[row] = np.bincount(drawn, minlength=images)
        result[begin : begin + count] = weights @ by_image_NC / images
    for c, prior in enumerate(priors or [seed_prior(list(values_CSN))] * options):
        if prior is not None:
            result[:, c] = with_seed_effects(result[:, c], values_CSN[c], prior, rng)
    return result


def with_seed_effects(
    means_D: np.ndarray, values_SN: np.ndarray, prior: SeedPrior, rng: np.random.Generator
) -> np.ndarray:
    """(D,) means of drawn images, for new seeds too: they get the variance that intervals.mean_estimate has.

    What is known of the variance between S seeds, two or more, is a posterior: one is drawn from it for each mean.
    """
    seeds, images = values_SN.shape
    own = mean_squares(values_SN)
    variance_K, probability_K = seed_posterior(own, prior)
    variance_D = rng.choice(variance_K, size=len(means_D), p=probability_K)
    # A variance below 0 is what images alone would make too large.
    less_D = np.minimum(variance_D, 0) / max(own.of_images, 1e-300)
    centre = values_SN.mean()
    of_images_D = (means_D - centre) * np.sqrt(np.maximum(1 + less_D, 1 - LAMBDA_OFFSET))
    of_seeds_D = np.sqrt(np.maximum(variance_D, 0) / (seeds * images)) * rng.standard_normal(len(means_D))
    return centre + of_images_D + of_seeds_D


def _strata(strata_N: np.ndarray | None, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order that sorts by stratum, first position of each image's stratum, its size)."""
    if strata_N is None:
        zeros = np.zeros(images, dtype=np.int32)
        return np.arange(images), zeros, np.full(images, images, dtype=np.int32)
    order = np.argsort(strata_N, kind="stable")
    _, first, counts = np.unique(strata_N[order], return_index=True, return_counts=True)
    if counts.min() < _LEAST_OF_STRATUM:
        return _strata(None, images)
    starts = np.repeat(first, counts).astype(np.int32)
    return order, starts, np.repeat(counts, counts).astype(np.int32)
