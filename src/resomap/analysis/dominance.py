"""Is one classifier so much worse than another that training it on cannot pay?"""

from __future__ import annotations

import numpy as np
from scipy import stats


def difference_bound(ours_N: np.ndarray, best_N: np.ndarray, *, level: float) -> float:
    """Upper bound of accuracy(ours) - accuracy(best), paired over images.

    The difference is p - q with p the share of images on which only ours is right, q those on which only the best is.
    Each gets an exact one-sided bound at half of the error, so the bound holds at any number of images, few included.

    Args:
        ours_N, best_N: bool, right or wrong on the same N images.
        level: coverage, one-sided.
    Reference: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404; the two bounds joined by Bonferroni.
    """
    images = len(ours_N)
    only_ours, only_best = int((ours_N & ~best_N).sum()), int((best_N & ~ours_N).sum())
    error = (1 - level) / 2
    most = float(stats.beta.ppf(1 - error, only_ours + 1, images - only_ours)) if only_ours < images else 1.0
    least = float(stats.beta.ppf(error, only_best, images - only_best + 1)) if only_best else 0.0
    return most - least
