"""How much seeds vary, as a distribution: two or three of them say little, and all resolutions of a model say more.

Let MS_rest / N be what images alone make the mean of a run vary, and lambda the variance between seeds over it. Then

    MS_seeds / MS_rest ~ (1 + lambda) chi2(S - 1) / (S - 1),

and a model's resolutions are alike up to a factor: log lambda_r is normal around a level that is theirs together, with
a spread from 0 (seeds of all vary alike) to 3 (typically twenty times as much, or as little, as variances). Level and
spread are not known either: both are integrated out, over a grid, which makes it a hierarchical model (Gelman 2006,
doi:10.1214/06-BA117A; variances shared over groups: Smyth 2004, doi:10.2202/1544-6115.1027). A seed that moves
all answers of its run by the same logit makes lambda proportional to MS_rest, and so the level is taken to be.

The mean then has a mixture of normal distributions. It is handed on as the Student's t with the same 95 and 99.5 %
intervals: one standard error and one number of degrees of freedom for intervals, bounds and p values alike.

Legend: S seeds, N images, R resolutions, K values of lambda, H pairs of level and spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

_GRID_K = np.geomspace(0.01, 3e4, 36)
_LARGEST_RATIO = 1e4
"""MS_seeds / MS_rest beyond which images explain nothing; keeps lambda within its grid."""
LAMBDA_OFFSET = 0.35
"""Subtracted from lambda, which may so come out below 0: to count the variance between seeds as 0 at least makes
intervals too wide where they hardly differ. Set by simulation, as the three numbers below (benchmarks/calibration)."""
_SPREADS = ((0.0, 3.0), (1.0, 2.0), (2.0, 2.0), (3.0, 2.0))
"""Standard deviation of log lambda over resolutions, and its weight."""
_NEAR_ZERO = 0.3
"""The level has the density level^a / (1 + level)^a in its logarithm: flat where seeds are seen to differ,
thin where they are not."""
_IMPLAUSIBLE = 2.0
"""In units of noise^2, the variance between seeds from which on the level's density falls off: a standard deviation of
1.4 on the logit scale. One or two resolutions and two seeds leave it to this number how much seeds differ at most."""
_TAILS = (0.025, 0.0025)
_DFS = np.append(np.geomspace(0.8, 200.0, 300), 1e6)
_TAIL_RATIOS = stats.t.isf(_TAILS[1], _DFS) / stats.t.isf(_TAILS[0], _DFS)


@dataclass(frozen=True, slots=True)
class MeanSquares:
    """Mean squares of a two-way layout, seeds by images; of one seed, those of seeds and rest are not known and 0."""

    of_images: float
    of_seeds: float
    of_rest: float
    seeds: int
    images: int

    @property
    def noise(self) -> float:
        """MS_rest, of a size that leaves lambda within its grid."""
        return max(self.of_rest, self.of_seeds / _LARGEST_RATIO)


@dataclass(frozen=True, slots=True, eq=False)
class SeedPrior:
    """What all resolutions of a model say together about level and spread of the variance between seeds."""

    weights_H: np.ndarray
    noise: float
    """Mean of MS_rest, at which lambda is the level."""


def mean_squares(values_SN: np.ndarray) -> MeanSquares:
    """S var(mean over seeds), N var(mean over images), and the variance of what is left."""
    seeds, images = values_SN.shape
    by_image, by_seed = values_SN.mean(axis=0), values_SN.mean(axis=1)
    of_images = seeds * float(by_image.var()) * images / max(1, images - 1)
    if seeds == 1:
        return MeanSquares(of_images, 0.0, 0.0, seeds, images)
    rest_SN = values_SN - by_image - by_seed[:, None] + values_SN.mean()
    of_rest = float((rest_SN**2).sum()) / ((seeds - 1) * max(1, images - 1))
    return MeanSquares(of_images, images * float(by_seed.var(ddof=1)), of_rest, seeds, images)


def shared_prior(parts: Sequence[MeanSquares]) -> SeedPrior:
    """What the layouts of all resolutions of a model, two seeds at least, say together."""
    noise = float(np.mean([part.noise for part in parts]))
    log_H = sum((np.log(_PROBABILITY_HK @ _likelihood(part, noise)) for part in parts), np.log(_WEIGHT_H))
    log_H -= np.log1p(_LEVEL_H / max(_IMPLAUSIBLE * parts[0].images * noise, 1e-300))
    weights_H = np.exp(log_H - log_H.max())
    return SeedPrior(weights_H / weights_H.sum(), noise)


def seed_posterior(own: MeanSquares, prior: SeedPrior) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of N times the variance between seeds: (values, their probabilities), each (K,).

    Args:
        own: of one of the prior's resolutions.
    """
    likelihood_K = _likelihood(own, prior.noise)
    # Its own share of what level and spread are known by is taken out again, so that nothing counts twice.
    others_H = prior.weights_H / (_PROBABILITY_HK @ likelihood_K)
    probability_K = likelihood_K * (others_H @ _PROBABILITY_HK)
    return own.noise * _lambda(own, prior.noise), probability_K / probability_K.sum()


def student(variances: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """(standard error, degrees of freedom) of the t with the 95 and 99.5 % intervals of normals mixed around 0."""
    kept = probabilities > 1e-8
    sd, probability = np.sqrt(variances[kept]), probabilities[kept]
    low, high = (np.log(-special.ndtri(_TAILS) * bound) for bound in (sd.min(), sd.max()))
    for _ in range(20):
        middle = (low + high) / 2
        short = special.ndtr(-np.exp(middle)[:, None] / sd) @ probability > _TAILS
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    df = float(np.interp(-np.exp(high[1] - high[0]), -_TAIL_RATIOS, _DFS))
    return float(np.exp(high[0]) / -special.stdtrit(df, _TAILS[0])), df


def _lambda(own: MeanSquares, noise: float) -> np.ndarray:
    scale = own.noise / noise if noise > 0 else 1.0
    return scale * np.append(0.0, _GRID_K) - LAMBDA_OFFSET


def _likelihood(own: MeanSquares, noise: float) -> np.ndarray:
    """(K,), the largest 1."""
    expected_K = 1 + _lambda(own, noise)
    ratio = own.of_seeds / own.noise if own.noise > 0 else 1.0
    log_K = -(own.seeds - 1) / 2 * (np.log(expected_K) + ratio / expected_K)
    return np.exp(np.maximum(log_K - log_K.max(), -600.0))


def _probabilities() -> np.ndarray:
    """(H, K) probabilities of lambda by level and spread."""
    level = np.log(_GRID_K)
    step = level[1] - level[0]
    # Each value stands for its surroundings, 0 for all below the grid.
    edges = np.concatenate([[-np.inf], level - step / 2, [np.inf]])
    return np.array([np.diff(stats.norm.cdf((edges - m) / max(s, step / 4))) for s, _ in _SPREADS for m in level])


_PROBABILITY_HK = _probabilities()
_LEVEL_H = np.tile(_GRID_K, len(_SPREADS))
_WEIGHT_H = np.repeat([weight for _, weight in _SPREADS], len(_GRID_K)) * (_LEVEL_H / (1 + _LEVEL_H)) ** _NEAR_ZERO
