"""How many images and seeds would tell a difference?"""

from __future__ import annotations

import math

from scipy import stats


def images_needed(difference: float, *, discordant: float, power: float = 0.8, level: float = 0.95) -> int:
    """Test images for McNemar's test to find a difference of accuracy between two resolutions.

    Args:
        difference: of accuracy, as a share (0.01: one point).
        discordant: share of images on which just one of the two is right; taken as the difference where it is less.
    Reference: Connor 1987, doi:10.2307/2531961 (equation for paired samples).
    """
    discordant = max(discordant, difference)
    z_level, z_power = stats.norm.ppf(0.5 + level / 2), stats.norm.ppf(power)
    root = z_level * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    return math.ceil((root / difference) ** 2)


def seeds_needed(difference: float, *, seed_sd: float, power: float = 0.8, level: float = 0.95) -> int:
    """Seeds for a paired t-test over seeds to find a difference, images aside; 2 at least.

    Args:
        seed_sd: standard deviation between seeds of the difference itself.
    Reference: Cohen 1988, chapter 2; noncentral t.
    """
    for seeds in range(2, 1000):
        bound = stats.t.ppf(0.5 + level / 2, seeds - 1)
        shift = difference * math.sqrt(seeds) / max(seed_sd, 1e-12)
        if stats.nct.sf(bound, seeds - 1, min(shift, 35.0)) >= power:
            return seeds
    return 1000


def detectable(images: int, *, discordant: float, power: float = 0.8, level: float = 0.95) -> float | None:
    """Smallest difference of accuracy that so many images find; None where none is.

    No difference is larger than the share of images on which the two differ.
    """
    low, high = min(1e-5, discordant), discordant
    if images_needed(high, discordant=discordant, power=power, level=level) > images:
        return None
    for _ in range(60):
        middle = math.sqrt(low * high)
        if images_needed(middle, discordant=discordant, power=power, level=level) > images:
            low = middle
        else:
            high = middle
    return high
