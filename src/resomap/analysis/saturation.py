"""How a metric grows with resolution: a(r) = top - drop (r / smallest)^-rate, between the resolutions measured only.

The form is that of learning curves (Hestness et al. 2017, arXiv:1712.00409; Rosenfeld et al. 2020, arXiv:1909.12673).
It is of use between two measured resolutions. Beyond them it is not: where the curve flattens, or turns, is what the
data do not say, so `at` refuses, and `top` is no forecast of what a very large input would reach.

Legend: D draws, R resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from resomap.errors import ExtrapolationError

_RATES = np.geomspace(0.05, 12.0, 500)
_FEWEST = 4
"""Three parameters pass through any three points: only a fourth can contradict them."""
_DOUBT = 0.01
_MISS = 3.0
"""Standard errors. With two seeds the test of fit sees little: a point that the law misses by this many, and by more
than the loss that is acceptable, contradicts it all the same."""


@dataclass(frozen=True, slots=True)
class SaturationCurve:
    """The fitted law of one model; intervals are 95 %, from draws of the measurements' errors."""

    top: float
    drop: float
    """What the smallest resolution lacks of `top`; 0 where the metric does not grow."""
    rate: float
    rate_low: float
    rate_high: float
    resolutions: tuple[int, ...]
    """Those measured, ascending."""
    worst_residual: float
    """Largest |fit - measured|."""
    fit_p: float
    """Probability of residuals as large as these if the law held."""
    holds: bool
    """Whether the measurements do not contradict the law."""
    sufficient_px: float | None
    """Where, within the range, the law comes within delta of its value at the largest side; None where it fails."""
    sufficient_low_px: float | None
    sufficient_high_px: float | None

    def at(self, resolution: float) -> float:
        """The fitted metric at a side within the measured range.

        Raises:
            ExtrapolationError: outside it.
        """
        low, high = self.resolutions[0], self.resolutions[-1]
        if not low <= resolution <= high:
            raise ExtrapolationError(
                f"expected a side from {low} to {high} px, the range that was measured, got {resolution:g}: the law is "
                "not known to hold there; measure it with `resomap run --resolutions ...`"
            )
        return float(self.top - self.drop * (resolution / low) ** -self.rate)


def fit_saturation(
    resolutions: Sequence[int],
    means_R: np.ndarray,
    *,
    se_R: np.ndarray,
    df: float,
    delta: float,
    draws: int = 1000,
    seed: int = 0,
) -> SaturationCurve | None:
    """Weighted least squares with drop >= 0 and top <= 1; None for fewer than four resolutions.

    Args:
        resolutions: ascending.
        means_R: the metric, 0..1.
        se_R: standard errors without what all resolutions share, which moves the curve but does not bend it; above 0.
        df: degrees of freedom of the standard errors.
        delta: loss of the metric that is acceptable.
    """
    sides = np.asarray(resolutions, dtype=np.float64)
    if len(np.unique(sides)) < _FEWEST:
        return None
    means, errors = np.asarray(means_R, float), np.asarray(se_R, float)
    unit = sides / sides[0]
    noise = np.random.default_rng(seed).standard_t(df, size=(draws, len(sides))) * errors
    top_D, drop_D, rate_D = _fit(unit, means + np.vstack([np.zeros(len(sides)), noise]), errors**-2.0)
    residuals = means - (top_D[0] - drop_D[0] * unit ** -rate_D[0])
    free = len(sides) - 3
    fit_p = float(stats.f.sf(((residuals / errors) ** 2).sum() / free, free, df))
    enough_D = sides[0] * _sufficient(drop_D, rate_D, largest=unit[-1], delta=delta)
    holds = fit_p >= _DOUBT and not (np.abs(residuals) > np.maximum(delta, _MISS * errors)).any()
    rate_low, rate_high = np.quantile(rate_D[1:], [0.025, 0.975])
    low, high = np.quantile(enough_D[1:], [0.025, 0.975])
    return SaturationCurve(
        top=float(top_D[0]),
        drop=float(drop_D[0]),
        rate=float(rate_D[0]),
        rate_low=float(rate_low),
        rate_high=float(rate_high),
        resolutions=tuple(int(side) for side in sides),
        worst_residual=float(np.abs(residuals).max()),
        fit_p=fit_p,
        holds=holds,
        sufficient_px=float(enough_D[0]) if holds else None,
        sufficient_low_px=float(low) if holds else None,
        sufficient_high_px=float(high) if holds else None,
    )


def _fit(unit_R: np.ndarray, means_DR: np.ndarray, weights_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(top, drop, rate), each (D,): for every rate of a grid the other two are a linear problem, solved for all draws.

    Args:
        unit_R: sides over the smallest one.
    """
    share_R = weights_R / weights_R.sum()
    mean_D = means_DR @ share_R
    best_D = np.full(len(means_DR), np.inf)
    top_D, drop_D, rate_D = np.zeros((3, len(means_DR)))
    for rate in _RATES:
        x_R = unit_R**-rate
        x_mean = x_R @ share_R
        slope_D = (means_DR - mean_D[:, None]) @ (share_R * (x_R - x_mean)) / (share_R @ (x_R - x_mean) ** 2)
        drop = np.maximum(-slope_D, 0.0)
        top = mean_D + drop * x_mean
        # A metric ends at 1: where the free fit does not, the best one through 1.
        over = top > 1
        drop = np.where(over, np.maximum((1 - means_DR) @ (share_R * x_R) / (share_R @ x_R**2), 0.0), drop)
        top = np.where(over, 1.0, top)
        error_D = ((means_DR - top[:, None] + drop[:, None] * x_R) ** 2) @ share_R
        better = error_D < best_D
        best_D[better], top_D[better], drop_D[better] = error_D[better], top[better], drop[better]
        rate_D[better] = rate
    return top_D, drop_D, rate_D


def _sufficient(drop_D: np.ndarray, rate_D: np.ndarray, *, largest: float, delta: float) -> np.ndarray:
    """(D,) side over the smallest one at which the law is delta below its value at the largest."""
    missing_D = largest**-rate_D + delta / np.maximum(drop_D, 1e-12)
    return np.clip(missing_D ** (-1 / rate_D), 1.0, largest)
