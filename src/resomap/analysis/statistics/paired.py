"""Paired tests of right and wrong answers to the same images, and what to do with many of them.

McNemar's test and Cochran's Q ask whether given networks are right equally often on new images: what seeds do is not
in their p values. Several seeds give several p values on the same images, which are dependent in an unknown way:
n / k times the k-th smallest of n is valid whatever the dependence (Rueger 1978, cited by Vovk and Wang 2020,
doi:10.1093/biomet/asaa027).

Legend: N images, S seeds, R resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, slots=True)
class Discordance:
    """Two options on the same images: how often just one of them is right, and whether that is chance."""

    only_first: float
    """Images that only the first is right on; mean over seeds."""
    only_second: float
    p: float
    """McNemar's mid-p, over seeds as `over_seeds` has it."""


@dataclass(frozen=True, slots=True)
class Omnibus:
    """All resolutions of a model at once."""

    q: float
    """Cochran's Q; median over seeds."""
    df: int
    p: float
    """Over seeds as `over_seeds` has it."""


def discordance(first_SN: np.ndarray, second_SN: np.ndarray) -> Discordance:
    """McNemar's test of each seed's pair of networks.

    Args:
        first_SN: bool, right or wrong.
    """
    first, second = np.atleast_2d(np.asarray(first_SN, bool)), np.atleast_2d(np.asarray(second_SN, bool))
    return Discordance(
        only_first=float((first & ~second).sum(axis=1).mean()),
        only_second=float((~first & second).sum(axis=1).mean()),
        p=over_seeds([mcnemar(a, b) for a, b in zip(first, second, strict=True)]),
    )


def omnibus(right_RSN: np.ndarray) -> Omnibus:
    """Cochran's Q of each seed."""
    right = np.asarray(right_RSN, bool)
    found = [cochran_q(right[:, seed].T) for seed in range(right.shape[1])]
    return Omnibus(float(np.median([q for q, _ in found])), len(right) - 1, over_seeds([p for _, p in found]))


def over_seeds(p_values: Sequence[float]) -> float:
    """One p for the same question asked of several seeds' networks: n / k times the k-th smallest, at most 1.

    With k just above n / 2, about twice the median; the p itself where there is one seed.
    """
    count = len(p_values)
    k = count // 2 + 1
    return min(1.0, count / k * float(np.sort(p_values)[k - 1]))


def mcnemar(a_N: np.ndarray, b_N: np.ndarray, *, mid_p: bool = True) -> float:
    """Two-sided p of 'both are right equally often' for one pair of runs, exact; mid-p by default.

    Reference: McNemar 1947; mid-p: Fagerland et al. 2013, doi:10.1186/1471-2288-13-91.
    """
    only_a = int((np.asarray(a_N, bool) & ~np.asarray(b_N, bool)).sum())
    only_b = int((~np.asarray(a_N, bool) & np.asarray(b_N, bool)).sum())
    total = only_a + only_b
    if total == 0:
        return 1.0
    exact = min(1.0, 2 * float(stats.binom.cdf(min(only_a, only_b), total, 0.5)))
    if not mid_p:
        return exact
    if only_a == only_b:
        return 1 - float(stats.binom.pmf(only_a, total, 0.5)) / 2  # one outcome is as likely as this one, not two
    return exact - float(stats.binom.pmf(min(only_a, only_b), total, 0.5))


def cochran_q(right_NR: np.ndarray) -> tuple[float, float]:
    """(Q, p) of 'all R resolutions are right equally often' for one seed (Cochran 1950); p by chi-square, R - 1 df."""
    right = np.asarray(right_NR, dtype=np.float64)
    groups = right.shape[1]
    by_group, by_image = right.sum(axis=0), right.sum(axis=1)
    below = groups * by_image.sum() - (by_image**2).sum()
    if below == 0:
        return 0.0, 1.0
    q = (groups - 1) * (groups * (by_group**2).sum() - by_group.sum() ** 2) / below
    return float(q), float(stats.chi2.sf(q, groups - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given (Holm 1979): together they err at most as often as one alone."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    adjusted = np.empty(count)
    largest = 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (count - rank) * p_values[position]))
        adjusted[position] = largest
    return [float(p) for p in adjusted]
