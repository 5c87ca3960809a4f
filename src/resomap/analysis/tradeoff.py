"""Accuracy against cost: the front, how sure it is, and what a choice may lose.

Legend: C options, D draws, R rounds of timing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(quality_C: np.ndarray, cost_C: np.ndarray) -> np.ndarray:
    """(C,) bool: no other option is at least as good and at least as cheap, and better in one."""
    quality, cost = np.asarray(quality_C, float), np.asarray(cost_C, float)
    as_good = quality[None] >= quality[:, None]
    as_cheap = cost[None] <= cost[:, None]
    better = (quality[None] > quality[:, None]) | (cost[None] < cost[:, None])
    dominated = np.any(as_good & as_cheap & better, axis=1)
    return np.logical_not(dominated)


def front_probability(quality_DC: np.ndarray, cost_DC: np.ndarray) -> np.ndarray:
    """(C,) share of draws in which each option is on the front."""
    found = [pareto_front(quality, cost) for quality, cost in zip(quality_DC, cost_DC, strict=True)]
    return np.mean(found, axis=0)


def hypervolume(quality_C: np.ndarray, cost_C: np.ndarray, *, worst_quality: float, worst_cost: float) -> float:
    """Area that the options dominate, up to a reference point (Zitzler and Thiele 1999, doi:10.1109/4235.797969)."""
    order = np.argsort(cost_C, kind="stable")
    area, best = 0.0, worst_quality
    for i in order:
        if cost_C[i] < worst_cost and quality_C[i] > best:
            area += (worst_cost - cost_C[i]) * (quality_C[i] - best)
            best = float(quality_C[i])
    return float(area)


def knee(quality_C: np.ndarray, cost_C: np.ndarray) -> int | None:
    """Position of the front's option farthest above the line between its ends, both axes scaled to 0..1.

    None where the front has fewer than three options, or none lies above the line.
    Reference: Satopaa et al. 2011, doi:10.1109/ICDCSW.2011.20 (Kneedle).
    """
    front = np.flatnonzero(pareto_front(quality_C, cost_C))
    if len(front) < 3:
        return None
    front = front[np.argsort(np.asarray(cost_C)[front])]
    cost, quality = np.log(np.asarray(cost_C, float)[front]), np.asarray(quality_C, float)[front]
    x = (cost - cost[0]) / (cost[-1] - cost[0])
    y = (quality - quality[0]) / (quality[-1] - quality[0])
    above = y - x
    best = int(above.argmax())
    return int(front[best]) if above[best] > 1e-12 and 0 < best < len(front) - 1 else None


def latency_draws(blocks_CR: Sequence[Sequence[float]], *, draws: int, seed: int) -> np.ndarray:
    """(D, C) median latencies, the same rounds drawn for all.

    Args:
        blocks_CR: medians of the rounds of each option; of more rounds than all have the first count.
    """
    rounds = min(len(blocks) for blocks in blocks_CR)
    blocks = np.array([blocks[:rounds] for blocks in blocks_CR])
    chosen = np.random.default_rng(seed).integers(rounds, size=(draws, rounds))
    return np.median(blocks[:, chosen], axis=2).T


def regret(quality_DC: np.ndarray, chosen: int, allowed_C: np.ndarray) -> tuple[float, float]:
    """(expected, 95th percentile) of what the choice loses against the best allowed option of each draw."""
    best_D = quality_DC[:, np.asarray(allowed_C, bool)].max(axis=1)
    lost_D = np.clip(best_D - quality_DC[:, chosen], 0, None)
    return float(lost_D.mean()), float(np.quantile(lost_D, 0.95))
