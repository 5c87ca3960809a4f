"""Which resolution each class, and each image, needs.

Legend: R resolutions, S seeds, N images, K classes, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resomap.analysis.statistics.intervals import seed_prior
from resomap.analysis.statistics.resampling import with_seed_effects

LEAST_IMAGES = 20
"""Images of a class whose critical resolution gets an interval. Of fewer the bootstrap's covers too little: simulated
with recalls of 0.3, 0.6, 0.85, 0.93 and 0.95, that of one image 9 %, of five 55 %, of ten 76 %, of twenty 94 %."""
_ROUNDING = 1e-9
"""What binary fractions may add to a recall: 0.15 is within 0.05 of 0.2."""


@dataclass(frozen=True, slots=True)
class ClassNeed:
    """The smallest resolution at which a class is recognised as well as anywhere."""

    name: str
    images: int
    seeds: int
    recall: tuple[float, ...]
    """Recall by resolution, mean over seeds."""
    critical_resolution: int
    low: int | None
    high: int | None
    """95 % bootstrap interval for new images and, with two seeds or more, new seeds; None with fewer than LEAST_IMAGES
    images."""
    gain: float
    """Recall at the critical resolution less recall at the smallest."""


def critical_resolutions(
    right_RSN: np.ndarray,
    labels_N: np.ndarray,
    resolutions: Sequence[int],
    class_names: Sequence[str],
    *,
    margin: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> list[ClassNeed]:
    """For each class with images: the smallest resolution from which on recall stays within `margin` of its best.

    Where recall falls again by the largest resolution: the smallest from which on it stays so up to the best.

    Args:
        right_RSN: bool; resolutions ascending.
    """
    rng = np.random.default_rng(seed)
    result = []
    for k in np.unique(labels_N):
        of_class_RSn = np.asarray(right_RSN, dtype=np.float64)[:, :, labels_N == k]
        recall_R = of_class_RSn.mean(axis=(1, 2))
        count = of_class_RSn.shape[2]
        at = _first_sufficient(recall_R[None], margin)[0]
        low, high = None, None
        if count >= LEAST_IMAGES:
            drawn_DR = _draw(of_class_RSn, draws, rng)
            ends = np.quantile(_first_sufficient(drawn_DR, margin), [0.025, 0.975], method="inverted_cdf")
            low, high = (int(resolutions[int(end)]) for end in ends)
        result.append(
            ClassNeed(
                name=str(class_names[k]),
                images=count,
                seeds=of_class_RSn.shape[1],
                recall=tuple(float(v) for v in recall_R),
                critical_resolution=int(resolutions[at]),
                low=low,
                high=high,
                gain=float(recall_R[at] - recall_R[0]),
            )
        )
    return result


def _draw(right_RSn: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(D, R) recalls: images drawn with replacement, the same at each resolution; seeds' effects are added."""
    count = right_RSn.shape[2]
    # One long bincount: ten times as fast as drawing from a multinomial distribution.
    drawn = rng.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    weights_Dn = np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count) / count
    recall_DR = weights_Dn @ right_RSn.mean(axis=1).T
    prior = seed_prior(list(right_RSn))
    if prior is None:
        return recall_DR
    pairs = zip(recall_DR.T, right_RSn, strict=True)
    return np.clip(np.stack([with_seed_effects(drawn_D, one, prior, rng) for drawn_D, one in pairs], axis=1), 0, 1)


def _first_sufficient(recall_DR: np.ndarray, margin: float) -> np.ndarray:
    """(D,) position from which on all recalls are within the margin of the best; where the last ones are not, the start
    of the stretch around the best (the first of equals) that is."""
    best_D1 = recall_DR.argmax(axis=1)[:, None]
    short_DR = recall_DR < np.take_along_axis(recall_DR, best_D1, axis=1) - margin - _ROUNDING
    positions_R = np.arange(recall_DR.shape[1])
    before_DR = short_DR & (~short_DR[:, -1:] | (positions_R < best_D1))
    return np.where(before_DR, positions_R + 1, 0).max(axis=1)


def image_needs(right_RSN: np.ndarray) -> np.ndarray:
    """(N,) position of the smallest resolution from which on most seeds are right; R where none is."""
    mostly_RN = np.asarray(right_RSN, dtype=np.float64).mean(axis=1) > 0.5
    stays_RN = np.logical_and.accumulate(mostly_RN[::-1], axis=0)[::-1]
    return np.where(stays_RN.any(axis=0), stays_RN.argmax(axis=0), len(stays_RN)).astype(np.int64)


def flipped_images(low_N: np.ndarray, high_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images that turn right, and of those that turn wrong; the largest change first.

    Args:
        low_N, high_N: share of seeds that are right at a smaller and at a larger resolution; right means over 0.5.
    """
    change_N = high_N - low_N
    gained = np.flatnonzero((low_N <= 0.5) & (high_N > 0.5))
    lost = np.flatnonzero((low_N > 0.5) & (high_N <= 0.5))
    return gained[np.argsort(-change_N[gained], kind="stable")], lost[np.argsort(change_N[lost], kind="stable")]
