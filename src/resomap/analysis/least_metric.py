"""Whether options reach a least metric, on the split that decides.

Legend: C options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from resomap.analysis import needed
from resomap.analysis.needed import Need
from resomap.analysis.records import ALPHA, Option
from resomap.analysis.statistics.intervals import Estimate, mean_estimate
from resomap.analysis.statistics.noninferiority import fallback
from resomap.analysis.statistics.seed_variance import SeedPrior

Priors = Mapping[str, SeedPrior | None]
"""model -> what is known of the variance between its seeds; None: nothing."""


def reached(
    options: Sequence[Option], fits_C: np.ndarray, least: float | None, priors: Priors
) -> tuple[np.ndarray, np.ndarray]:
    """((C,) bool: shown to reach it, all in all with an error of 5 %, (C,) the error at which each was tested).

    Args:
        fits_C: bool, those that are tested.
        least: None: nothing is asked for.
        priors: by model.
    """
    if least is None:
        return np.ones(len(options), bool), np.zeros(len(options))
    models, sides = [option.model for option in options], [option.resolution for option in options]
    return fallback(models, sides, fits_C, lambda i, error: _mean(options[i], error, priors).low >= least, error=ALPHA)


def may_reach(
    options: Sequence[Option], fits_C: np.ndarray, errors_C: np.ndarray, least: float, priors: Priors
) -> tuple[Option, Need] | None:
    """Where none is shown to reach it: the best of those that are not shown to fall short, and what would tell.

    None: all fall short. As that takes all of them, each is held to it at the full level.
    """
    open_ones = [i for i in np.flatnonzero(fits_C).tolist() if _mean(options[i], ALPHA, priors).high >= least]
    if not open_ones:
        return None
    best = max(open_ones, key=lambda i: (options[i].select_SN.mean(), -options[i].latency_ms))
    if options[best].select_SN.mean() > least:
        error = float(errors_C[best])
        return options[best], needed.for_mean(_mean(options[best], error, priors), least, 1 - error)
    # The best of them looks too low: all are to be shown to be.
    means = [_mean(options[i], ALPHA, priors) for i in open_ones]
    return options[best], needed.most(needed.for_mean(mean, least, 1 - ALPHA) for mean in means)


def _mean(option: Option, error: float, priors: Priors) -> Estimate:
    """Mean on the deciding split, with bounds that each err so often."""
    return mean_estimate(option.select_SN, level=1 - 2 * error, prior=priors[option.model], heaviest=option.heaviest[0])
