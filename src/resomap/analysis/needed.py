"""How many more images or seeds would settle what cannot be told.

So many that the bound which decides clears what it is held against with a chance of 80 %, if what was measured is the
truth: the same power as in plans. Measured values are not the truth, so that these numbers are rough.

Legend: N images, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scipy import special

from resomap.analysis.statistics.intervals import Estimate
from resomap.printable import counted

POWER = 0.8
_MOST_IMAGES = 100_000
_MOST_SEEDS = 99


@dataclass(frozen=True, slots=True)
class Need:
    """What would do, each by itself; None: no number of them."""

    images: int | None
    seeds: int | None

    def words(self, split: str) -> str:
        """'about 300 more images in val or about 2 more seeds': two significant digits."""
        found = []
        if self.images is not None:
            most = self.images > _MOST_IMAGES
            shown = f"more than {_MOST_IMAGES} more images" if most else f"about {_rounded(self.images, 'image')}"
            found.append(f"{shown} in {split}")
        if self.seeds is not None:
            found.append(f"about {_rounded(self.seeds, 'seed')}")
        return " or ".join(found) or "more images and more seeds together"


def _rounded(count: int, noun: str) -> str:
    return counted(int(float(f"{count:.2g}")), f"more {noun}")


NOTHING = Need(None, None)
"""What is needed where the measured value is not on the right side: more of one thing alone would not do."""


def most(needs: Iterable[Need]) -> Need:
    """What settles all of them."""
    images, seeds = zip(*((need.images, need.seeds) for need in needs), strict=True)
    return Need(_largest(images), _largest(seeds))


def _largest(counts: Iterable[int | None]) -> int | None:
    known = [math.inf if count is None else count for count in counts]
    return None if math.inf in known else int(max(known))


def for_difference(found: Estimate, room: float, level: float) -> Need:
    """To bring the one-sided bound of difference_estimate within `room` of its value.

    Args:
        level: of the bound.
    """
    pair = 1 / found.images**2  # Of the image that difference_estimate adds: no noise, and less with more images.
    seeds = found.seed_variance / found.seeds
    images = max(0.0, found.se**2 - pair - seeds)
    return _need(found, room, level, bound=(images, seeds), noise=(images, seeds), pair=1.0)


def for_mean(found: Estimate, least: float, level: float) -> Need:
    """To bring the one-sided bound of mean_estimate, which is Wilson's, to the side of `least` where its value is.

    Args:
        found: with bounds that are each one-sided at `level`.
    """
    room = abs(found.value - least)
    if room == 0:
        return NOTHING
    bound = found.low if found.value > least else found.high
    # Wilson's bound b of n trials: (value - b)^2 = z^2 b (1 - b) / n. The variance it has where b is `least`:
    reach = abs(found.value - bound) / float(special.stdtrit(found.df, level))
    whole = reach**2 * least * (1 - least) / (bound * (1 - bound))
    of_seeds = found.seed_variance / found.seeds / found.se**2 if found.se > 0 else 0.0
    return _need(
        found,
        room,
        level,
        bound=((1 - of_seeds) * whole, of_seeds * whole),
        noise=((1 - of_seeds) * found.se**2, of_seeds * found.se**2),
    )


def _need(
    found: Estimate,
    room: float,
    level: float,
    *,
    bound: tuple[float, float],
    noise: tuple[float, float],
    pair: float = 0.0,
) -> Need:
    """The fewest with which a bound, and the noise that it must clear with a chance of 80 %, have room.

    Args:
        bound, noise: variances now by images and by seeds, of the bound's distance and of the estimate.
        pair: what else the bound's distance has, over N^2.
    """
    if not room > 0:
        return NOTHING
    df_of_seeds = 1 / found.df - 1 / max(1, found.images - 1)  # inverse

    def enough(images: int, seeds: int) -> bool:
        df = 1 / (max(0.0, df_of_seeds) + 1 / max(1, images - 1))
        more_images, more_seeds = found.images / images, found.seeds / seeds
        far = bound[0] * more_images + bound[1] * more_seeds + pair / images**2
        spread = noise[0] * more_images + noise[1] * more_seeds
        at_level, at_power = (float(special.stdtrit(df, p)) for p in (level, POWER))
        return at_level * math.sqrt(far) + at_power * math.sqrt(spread) <= room

    images = _fewest(lambda more: enough(found.images + more, found.seeds), 10 * _MOST_IMAGES)
    seeds = _fewest(lambda more: enough(found.images, found.seeds + more), _MOST_SEEDS) if noise[1] > 0 else None
    return Need(images, seeds)


def _fewest(enough: Callable[[int], bool], most_of_all: int) -> int | None:
    """The smallest number from 1 on that is enough, where each larger one is too; None: none is."""
    low, high = 0, most_of_all
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
