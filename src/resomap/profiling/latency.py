"""Latency of a model: two protocols, and how they are summarised.

'batch1': one image at a time, what a single request waits for. 'saturated': in batches so large that throughput hardly
grows any more, what a server or an offline job gets. A latency without its protocol means nothing, so every record
names it.

A shared machine has slow spells of many seconds, in which a small input may lose more than a large one: their ratio is
then another one. So percentiles tell of all calls, but a ratio is taken from the undisturbed rounds alone, and says how
many those were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BATCH_1 = "batch1"
SATURATED = "saturated"
DISTURBED = 1.15
"""A block is disturbed if it takes this many times as long as the subject's fastest blocks."""
LEAST_ROUNDS = 10
"""Where fewer rounds are undisturbed, so many of the least disturbed ones count."""
_FASTEST = 0.05
"""Quantile of a subject's blocks that stands for the fastest ones: the very fastest is a matter of chance, and then so
are the rounds that count. A spell that spares less than a twentieth of the rounds is not seen."""
_GROWTH = 1.05
_PATIENCE = 2
"""Doublings without growth that end the search."""
_LONGEST_CALL_S = 2.0


@dataclass(frozen=True, slots=True)
class LatencyRecord:
    """Latency of one model at one resolution under one protocol; milliseconds of one call (a batch)."""

    protocol: str
    """'batch1' or 'saturated'."""
    mode: str
    """eager, channels_last, autocast, compile or onnxruntime."""
    batch_size: int
    calls: int
    median_ms: float
    """Median of the blocks' medians."""
    median_low_ms: float
    """95 % bootstrap interval over blocks."""
    median_high_ms: float
    p50_ms: float
    """Percentiles over all calls."""
    p90_ms: float
    p95_ms: float
    p99_ms: float
    iqr_ms: float
    images_per_s: float
    """batch_size / median."""
    block_medians_ms: tuple[float, ...]
    """In the order of the rounds: block b of every model and resolution was timed in the same round."""
    at_least: bool = False
    """images_per_s is a lower bound: the search for the batch ended before throughput stopped growing."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A latency over another, from pairs of blocks that were timed in the same round."""

    value: float
    """Median of the paired ratios of the undisturbed rounds."""
    low: float
    high: float
    """95 % bootstrap interval over all rounds, of which each draw chooses its undisturbed ones anew."""
    rounds: int
    """Undisturbed ones, which count."""
    of_rounds: int
    """All that were timed."""

    @property
    def width(self) -> float:
        """Of the interval, as a share of the ratio."""
        return (self.high - self.low) / self.value


def summarise(
    seconds: np.ndarray,
    *,
    protocol: str,
    mode: str,
    batch_size: int,
    at_least: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> LatencyRecord:
    """The record of one subject.

    Args:
        seconds: (blocks, calls of a block).
    """
    ms = np.asarray(seconds, dtype=np.float64) * 1000
    medians = np.median(ms, axis=1)
    low, high = _interval(medians, draws=draws, seed=seed)
    p25, p50, p75, p90, p95, p99 = (float(p) for p in np.percentile(ms, [25, 50, 75, 90, 95, 99]))
    middle = float(np.median(medians))
    return LatencyRecord(
        protocol=protocol,
        mode=mode,
        batch_size=batch_size,
        calls=ms.size,
        median_ms=middle,
        median_low_ms=low,
        median_high_ms=high,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        iqr_ms=p75 - p25,
        images_per_s=1000 * batch_size / middle,
        block_medians_ms=tuple(float(m) for m in medians),
        at_least=at_least,
    )


def latency_ratio(a: LatencyRecord, b: LatencyRecord, *, draws: int = 2000, seed: int = 0) -> Ratio:
    """How many times as long `a` takes as `b`, per image; both from the same rounds.

    Raises:
        ValueError: the records are not of the same rounds.
    """
    if len(a.block_medians_ms) != len(b.block_medians_ms):
        raise ValueError(
            f"expected two records of the same rounds, got {len(a.block_medians_ms)} and {len(b.block_medians_ms)} "
            "blocks; time both in one profile"
        )
    blocks = np.array([a.block_medians_ms, b.block_medians_ms]) / [[a.batch_size], [b.batch_size]]
    return paired_ratio(*blocks, draws=draws, seed=seed)


def paired_ratio(a_R: np.ndarray, b_R: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Ratio:
    """The ratio of two subjects' blocks, (R,) each in the order of the rounds."""
    blocks_2R, pairs_R = np.stack([a_R, b_R]), a_R / b_R
    counted_R = undisturbed(blocks_2R)
    chosen_DR = np.random.default_rng(seed).integers(len(pairs_R), size=(draws, len(pairs_R)))
    counted_DR = undisturbed(np.moveaxis(blocks_2R[:, chosen_DR], 0, 1))
    low, high = np.quantile(_medians(pairs_R[chosen_DR], counted_DR), [0.025, 0.975])
    value = float(np.median(pairs_R[counted_R]))
    return Ratio(value, float(low), float(high), rounds=int(counted_R.sum()), of_rounds=len(pairs_R))


def undisturbed(blocks_SR: np.ndarray) -> np.ndarray:
    """(..., R) bool: rounds in which every subject came near its own fastest blocks.

    Each subject is held against itself, so this favours none; see DISTURBED and LEAST_ROUNDS.

    Args:
        blocks_SR: (..., S, R) medians of S subjects' blocks in R rounds.
    """
    rounds = blocks_SR.shape[-1]
    fastest_S1 = np.quantile(blocks_SR, _FASTEST, axis=-1)[..., None]
    slowdown_R = (blocks_SR / fastest_S1).max(axis=-2)
    tenth = np.sort(slowdown_R, axis=-1)[..., min(LEAST_ROUNDS, rounds) - 1]
    return np.asarray(slowdown_R <= np.maximum(DISTURBED, tenth)[..., None])


def _medians(values_DR: np.ndarray, counted_DR: np.ndarray) -> np.ndarray:
    """(D,) median of the values that count in each row, at least one."""
    ranked = np.sort(np.where(counted_DR, values_DR, np.inf), axis=1)
    count_D1 = counted_DR.sum(axis=1, keepdims=True)
    middle = np.concatenate([(count_D1 - 1) // 2, count_D1 // 2], axis=1)
    return np.asarray(np.take_along_axis(ranked, middle, axis=1).mean(axis=1))


def _interval(values: np.ndarray, *, draws: int, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the median."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(np.median(values[chosen], axis=1), [0.025, 0.975])
    return float(low), float(high)


def saturating_batch(seconds_of: Callable[[int], float], *, largest: int) -> tuple[int, bool]:
    """The smallest of 1, 2, 4, ... whose throughput comes within 5 % of the largest that was found.

    The search ends where two doublings in a row gain less than 5 %, not at the first: many a network takes twice as
    long for two images as for one, and little longer for sixteen (other kernels serve it then). A batch that would take
    more than 2 s is not tried: nobody waits for it, and throughput has long levelled off.

    Args:
        seconds_of: batch size -> seconds of one call; infinite where the batch does not fit the memory.
    Returns:
        (batch, whether a larger one may reach more: the search ended at `largest` or at 2 s while throughput still
        grew, or tried one batch only).
    """
    batch, seconds = 1, seconds_of(1)
    throughput, stalled = {1: 1 / seconds}, 0
    while 2 * batch <= largest and 2 * seconds <= _LONGEST_CALL_S and stalled < _PATIENCE:
        best = max(throughput.values())
        batch, seconds = 2 * batch, seconds_of(2 * batch)
        throughput[batch] = batch / seconds
        stalled = 0 if throughput[batch] >= _GROWTH * best else stalled + 1
    enough = max(throughput.values()) / _GROWTH
    return next(size for size, reached in throughput.items() if reached >= enough), not stalled
