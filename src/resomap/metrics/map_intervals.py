"""Intervals of what maps have on average: of a figure, of a share of hits, and of the energy on known evidence.

Legend: S networks, N images, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from resomap.metrics.classification import wilson_interval

_LONGEST = 700.0
"""Half of an interval of a logarithm: beyond it float64 overflows."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def mean_interval(values: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of what is defined, with its 95 % bootstrap interval over the values."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return Interval(None)
    chosen = np.random.default_rng(seed).integers(len(known), size=(draws, len(known)))
    low, high = np.quantile(known[chosen].mean(axis=1), [0.025, 0.975])
    return Interval(float(known.mean()), float(low), float(high))


def share_interval(values_N: np.ndarray, *, networks: int) -> Interval:
    """Mean over images of shares of networks, with Wilson's 95 % interval for so many images as give its variance.

    That leaves an interval of some length where every map hits. The networks are given: it holds for new images.

    Args:
        values_N: share of the networks that hit, NaN where it is not defined.
    """
    known = values_N[np.isfinite(values_N)]
    count = len(known)
    if count == 0:
        return Interval(None)
    value = float(known.mean())
    variance = float(known.var(ddof=1)) / count if count > 1 else 0.0
    trials = min(value * (1 - value) / variance, count * networks) if variance > 0 else count
    # Wilson's normal quantile becomes Student's.
    trials *= (special.ndtri(0.975) / special.stdtrit(max(1, count - 1), 0.975)) ** 2
    return Interval(value, *wilson_interval(value * trials, trials))


def pooled_energy(
    inside_SN: np.ndarray,
    total_SN: np.ndarray,
    *,
    over: tuple[np.ndarray, np.ndarray] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Energy in the mask over its area of S networks' maps of N images, all energy summed: 1 for maps that ignore it.

    One network alone has the bootstrap's interval over images. Several are a sample too, since one with random weights
    may by chance show the evidence or hide it in all images alike: theirs is Student's t on the logarithm, for new
    images and new networks. No interval where no energy is inside.

    Args:
        inside_SN, total_SN: of metrics.maps.energy_parts.
        over: the same of other networks on the same images, whose figure this one is divided by.
    """
    groups = [(inside_SN, total_SN), *([] if over is None else [over])]
    figures = [float(inside.sum() / total.sum()) if total.sum() > 0 else np.nan for inside, total in groups]
    if not np.isfinite(figures).all() or (over is not None and figures[1] == 0):
        return Interval(None)
    value = figures[0] / figures[1] if over is not None else figures[0]
    if max(len(inside) for inside, _ in groups) == 1:
        return _over_images(groups, value, draws=draws, seed=seed)
    if value == 0:
        return Interval(value)
    half = min(_half_of_log([_relative(*group) for group in groups]), _LONGEST)
    return Interval(value, value * float(np.exp(-half)), value * float(np.exp(half)))


def _over_images(groups: Sequence[tuple[np.ndarray, np.ndarray]], value: float, *, draws: int, seed: int) -> Interval:
    """Images drawn with replacement, the same for both."""
    images = groups[0][0].shape[1]
    images_DN = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), draws)
    parts = [(images_DN @ inside[0], images_DN @ total[0]) for inside, total in groups]
    drawn = [np.where(total > 0, inside / np.where(total > 0, total, 1), np.nan) for inside, total in parts]
    figures_D = drawn[0]
    if len(drawn) > 1:
        figures_D = np.where(drawn[1] > 0, figures_D / np.where(drawn[1] > 0, drawn[1], 1), np.nan)
    known = figures_D[np.isfinite(figures_D)]
    if len(known) < draws / 2:
        return Interval(None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _relative(inside_SN: np.ndarray, total_SN: np.ndarray) -> np.ndarray:
    """(S, N) with mean 0: what each map adds to the logarithm of the pooled figure, to first order."""
    figure = inside_SN.sum() / total_SN.sum()
    return (inside_SN - figure * total_SN) / (figure * total_SN.mean())


def _half_of_log(groups: Sequence[np.ndarray]) -> float:
    """Half of the 95 % interval of the first group's mean less the second's: (S, N) values on the same N images.

    The two-way layout of multi-reader studies, networks in the place of readers: the variance of the images' means plus
    that of networks, (MS_networks - MS_rest) / (S N) or 0 (Obuchowski and Rockette 1995,
    doi:10.1080/03610919508813243); degrees of freedom by Satterthwaite 1946, doi:10.2307/3002019.
    """
    images = groups[0].shape[1]
    image_df = max(1, images - 1)
    by_image_N = groups[0].mean(axis=0) - (groups[1].mean(axis=0) if len(groups) > 1 else 0)
    variance = float(by_image_N.var()) / image_df
    below, least_df = variance**2 / image_df, float(image_df)
    for values_SN in groups:
        networks = len(values_SN)
        if networks > 1:
            by_network_S = values_SN.mean(axis=1)
            rest_SN = values_SN - values_SN.mean(axis=0) - by_network_S[:, None] + values_SN.mean()
            of_networks = float(by_network_S.var(ddof=1)) / networks
            of_rest = float((rest_SN**2).sum()) / ((networks - 1) * image_df * networks * images)
            variance += max(of_networks - of_rest, 0.0)
            below += of_networks**2 / (networks - 1) + of_rest**2 / ((networks - 1) * image_df)
            least_df = min(least_df, networks - 1)
    if below == 0:
        return 0.0
    return float(special.stdtrit(max(variance**2 / below, least_df), 0.975) * np.sqrt(variance))
