"""The crossed bootstrap: images and seeds drawn anew, the same draws at every resolution.

For questions about several options at once: which is on the Pareto front, what is the regret. Intervals of single
figures and differences are in intervals.py.

Legend: D draws, C options (a model at a resolution), S seeds, N images, K classes.
"""

from __future__ import annotations

import numpy as np

_CHUNK = 250
_LEAST_OF_STRATUM = 10
"""Images; of n, draws show (n - 1) / n of the variance within a stratum, and none of a single image's."""


def crossed_bootstrap(
    values_CSN: np.ndarray, *, draws: int = 10_000, seed: int = 0, strata_N: np.ndarray | None = None
) -> np.ndarray:
    """(D, C) means of the options, images drawn with replacement and seeds too.

    Images are drawn within strata where every stratum has ten or more, else from all: smaller ones would hide how much
    they vary.

    S - 1 seeds are drawn: that many give the mean over seeds its unbiased variance (Rao and Wu 1988,
    doi:10.1080/01621459.1988.10478591). One seed is kept, and its variance is not known.

    Args:
        values_CSN: a metric's values by option, seed and image; the same images and seeds throughout.
        strata_N: labels, where images were collected by class.
    """
    options, seeds, images = values_CSN.shape
    rng = np.random.default_rng(seed)
    flat = np.ascontiguousarray(values_CSN.reshape(options * seeds, images).T, dtype=np.float32)
    order, starts, sizes = _strata(strata_N, images)
    flat = flat[order]
    result = np.empty((draws, options))
    for begin in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - begin)
        weights = np.empty((count, images), dtype=np.float32)
        for row in range(count):
            drawn = starts + (rng.random(images, dtype=np.float32) * sizes).astype(np.int32)
            # float32 rounds up to the size itself now and then.
            np.minimum(drawn, starts + sizes - 1, out=drawn)
            weights[row] = np.bincount(drawn, minlength=images)
        means = (weights @ flat / images).reshape(count, options, seeds)
        if seeds > 1:
            chosen = rng.integers(seeds, size=(count, 1, seeds - 1))
            means = np.take_along_axis(means, np.broadcast_to(chosen, (count, options, seeds - 1)), axis=2)
        result[begin : begin + count] = means.mean(axis=2)
    return result


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
