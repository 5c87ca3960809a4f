"""How cost grows with resolution: t = t0 + k r^p, fitted to measured times of one device and batch.

Latency is never inferred from operations: small inputs are bound by launches and memory, large ones by arithmetic.
How accuracy grows is in saturation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

EXPONENTS = np.linspace(0.5, 4.0, 351)


@dataclass(frozen=True, slots=True)
class CostCurve:
    """t(r) = fixed + scale r^exponent, in the unit of the times given; 95 % bootstrap interval of the exponent."""

    fixed: float
    scale: float
    exponent: float
    exponent_low: float
    exponent_high: float
    resolutions: tuple[int, ...]
    worst_relative_error: float
    """Largest |fit - measured| / measured over the resolutions."""

    def at(self, resolution: float) -> float:
        """The fitted cost at a resolution."""
        return self.fixed + self.scale * resolution**self.exponent


def fit_cost_curve(
    resolutions: Sequence[int], times: Sequence[Sequence[float]] | np.ndarray, *, draws: int = 500, seed: int = 0
) -> CostCurve | None:
    """Least squares on relative errors with t0 >= 0 and k >= 0; None for fewer than three resolutions.

    For each exponent of a grid the best t0 and k are a linear problem; the exponent with the least error wins.

    Args:
        times: one row of repeated times a resolution (blocks of one round stand at the same position).
        draws: bootstrap draws over the repetitions.
    """
    sides = np.asarray(resolutions, dtype=np.float64)
    blocks = np.asarray(times, dtype=np.float64)
    if len(np.unique(sides)) < 3:
        return None
    unit = sides / sides.max()
    middle = np.median(blocks, axis=1)
    fixed, scale, exponent = _fit(unit, middle)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(blocks.shape[1], size=(draws, blocks.shape[1]))
    exponents = [_fit(unit, np.median(blocks[:, row], axis=1))[2] for row in chosen] if blocks.shape[1] > 1 else []
    low, high = np.quantile(exponents, [0.025, 0.975]) if exponents else (exponent, exponent)
    fitted = fixed + scale * unit**exponent
    return CostCurve(
        fixed=fixed,
        scale=float(scale / sides.max() ** exponent),
        exponent=exponent,
        exponent_low=float(low),
        exponent_high=float(high),
        resolutions=tuple(int(side) for side in sides),
        worst_relative_error=float(np.max(np.abs(fitted - middle) / middle)),
    )


def _fit(unit: np.ndarray, times: np.ndarray) -> tuple[float, float, float]:
    """(t0, k, p) for sides in units of the largest."""
    best = (np.inf, 0.0, 0.0, 0.0)
    goal = np.ones_like(times)
    # Coarse grid first, then around its best: 351 small problems would cost a second a curve.
    for grid in (EXPONENTS[::25], None):
        near = EXPONENTS[np.abs(EXPONENTS - best[3]) <= 0.25] if grid is None else grid
        for exponent in near:
            design = np.stack([1 / times, unit**exponent / times], axis=1)
            (fixed, scale), error = nnls(design, goal)
            if error < best[0]:
                best = (error, float(fixed), float(scale), float(exponent))
    return best[1:]
