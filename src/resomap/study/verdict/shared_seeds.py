"""Which of several options to compare, and with which seeds, where runs are missing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations_with_replacement
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

ENOUGH_SEEDS = 3
"""Seeds that a claim takes. A further seed is worth less than a further resolution or model."""


def shared_seeds(
    seeds_of: Mapping[K, frozenset[int]], *, least: int = 1, sizes: Mapping[K, int] | None = None
) -> tuple[tuple[K, ...], tuple[int, ...]]:
    """(options, the seeds that all of them have) with the most runs, of which three seeds an option count.

    So with five seeds at 64 and 128 px and one at 256 px, 256 px is left out (6 runs that count against 3); with two
    there where the others have three, all are kept with two. Among equals the most runs of all seeds are chosen, then
    the most options.

    Args:
        least: options to keep where there are as many, however many seeds that costs.
        sizes: option -> its runs of one seed; None: one each.
    Returns:
        Nothing where no `least` options share a seed.
    """
    order = list(seeds_of)
    holders = {
        frozenset(option for option in order if seed in seeds_of[option])
        for seed in frozenset().union(*seeds_of.values())
    }
    # Three seeds count, so the options of the best choice are those that some three (or fewer) have in common.
    choices = {a & b & c for a, b, c in combinations_with_replacement(holders, 3)}
    best: tuple[tuple[int, int, int], tuple[K, ...], tuple[int, ...]] = ((0, 0, 0), (), ())
    for choice in sorted(choices, key=lambda chosen: [option not in chosen for option in order]):
        if len(choice) < min(least, len(order)) or not choice:
            continue
        seeds = frozenset.intersection(*(seeds_of[option] for option in choice))
        runs = sum(1 if sizes is None else sizes[option] for option in choice)
        value = (runs * min(len(seeds), ENOUGH_SEEDS), runs * len(seeds), len(choice))
        if value > best[0]:
            best = (value, tuple(option for option in order if option in choice), tuple(sorted(seeds)))
    return best[1], best[2]
