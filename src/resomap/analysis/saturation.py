"""How a metric grows with resolution: a(r) = top - drop (r / smallest)^-rate, between the resolutions measured only.

The form is that of learning curves (Hestness et al. 2017, arXiv:1712.00409; Rosenfeld et al. 2020, arXiv:1909.12673).
It is of use between two measured resolutions. Beyond them it is not: where the curve flattens, or turns, is what the
data do not say, so `at` refuses, and `top` is no forecast of what a very large input would reach.

Legend: D draws, R resolutions, K rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resomap.errors import ExtrapolationError

_RATES = np.geomspace(0.05, 12.0, 500)
_FEWEST = 4
"""Three parameters pass through any three points: only a fourth can contradict them."""
DOUBT = 0.01
"""Probability of the misses of a law that holds, below which it is said not to."""
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
    """Sides that were measured, ascending."""
    worst_residual: float
    """Largest |fit - measured|."""
    fit_p: float
    """Probability of residuals as large as these if the law held, from draws."""
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
    rng = np.random.default_rng(seed)
    noise = rng.standard_t(df, size=(draws, len(sides))) * errors
    top_D, drop_D, rate_D = _fit(unit, means + np.vstack([np.zeros(len(sides)), noise]), errors**-2.0)
    fitted = top_D[0] - drop_D[0] * unit ** -rate_D[0]
    residuals = means - fitted
    fit_p = _fit_p(unit, fitted, residuals, errors, df=df, draws=draws, rng=rng)
    enough_D = sides[0] * _sufficient(drop_D, rate_D, largest=unit[-1], delta=delta)
    holds = fit_p >= DOUBT and not (np.abs(residuals) > np.maximum(delta, _MISS * errors)).any()
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


def _fit_p(
    unit_R: np.ndarray,
    fitted_R: np.ndarray,
    residuals_R: np.ndarray,
    errors_R: np.ndarray,
    *,
    df: float,
    draws: int,
    rng: np.random.Generator,
) -> float:
    """Probability of residuals as large if the fitted law held: a parametric bootstrap (Davison and Hinkley 1997,
    doi:10.1017/CBO9780511802843, section 4.2), at least 1 / (draws + 1).

    An F test has no certain degrees of freedom here: a flat curve leaves the rate free, and bounds hold drop and top.
    """
    noise_DR = rng.standard_normal((draws, len(unit_R))) * errors_R
    top_D, drop_D, rate_D = (one[:, None] for one in _fit(unit_R, fitted_R + noise_DR, errors_R**-2.0))
    left_DR = fitted_R + noise_DR - top_D + drop_D * unit_R**-rate_D
    # The standard errors themselves are estimates: one chi-square for all, as in an F.
    scale_D = rng.chisquare(df, size=draws) / df
    drawn_D = ((left_DR / errors_R) ** 2).sum(axis=1) / scale_D
    return float((1 + (drawn_D >= ((residuals_R / errors_R) ** 2).sum()).sum()) / (draws + 1))


def _fit(unit_R: np.ndarray, means_DR: np.ndarray, weights_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(top, drop, rate), each (D,): for every rate of a grid the other two are a linear problem, solved for all draws.

    Args:
        unit_R: sides over the smallest one.
    """
    share_R = weights_R / weights_R.sum()
    x_KR = unit_R ** -_RATES[:, None]
    mean_D, x_mean_K1 = means_DR @ share_R, (x_KR @ share_R)[:, None]
    weighed_KR = share_R * (x_KR - x_mean_K1)
    slope_KD = weighed_KR @ (means_DR - mean_D[:, None]).T / (weighed_KR * (x_KR - x_mean_K1)).sum(axis=1)[:, None]
    drop_KD = np.maximum(-slope_KD, 0.0)
    top_KD = mean_D + drop_KD * x_mean_K1
    # A metric ends at 1: where the free fit does not, the best one through 1.
    through_1_KD = (share_R * x_KR) @ (1 - means_DR).T / (x_KR**2 @ share_R)[:, None]
    drop_KD = np.where(top_KD > 1, np.maximum(through_1_KD, 0.0), drop_KD)
    top_KD = np.minimum(top_KD, 1.0)
    error_KD = sum(
        share * (mean_D - top_KD + drop_KD * x_K[:, None]) ** 2
        for share, mean_D, x_K in zip(share_R, means_DR.T, x_KR.T, strict=True)
    )
    best_D = np.argmin(error_KD, axis=0)
    at = best_D, np.arange(len(best_D))
    return top_KD[at], drop_KD[at], _RATES[best_D]


def _sufficient(drop_D: np.ndarray, rate_D: np.ndarray, *, largest: float, delta: float) -> np.ndarray:
    """(D,) side over the smallest one at which the law is delta below its value at the largest."""
    missing_D = largest**-rate_D + delta / np.maximum(drop_D, 1e-12)
    return np.clip(missing_D ** (-1 / rate_D), 1.0, largest)
