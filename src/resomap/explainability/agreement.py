"""Do explanations agree across resolutions as well as they agree across seeds?

    C = (S_cross - S_null) / (sqrt(S_seed(r) S_seed(r')) - S_null)

S_cross: similarity of an image's maps at r and r', from runs with different seeds. S_seed(r): the same between two
seeds at r (the ceiling). S_null: an image's map at r and another image's at r' (the floor). C near 1: changing the
resolution changes the explanation no more than reseeding does; near 0: no more alike than other images' maps.

Legend: N images, S seeds, r a resolution; maps (N, h, w) in the common frame, NaN outside the support.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from resomap.metrics import maps as similarities
from resomap.metrics.map_intervals import Interval

SIMILARITIES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "spearman": similarities.spearman,
    "pearson": similarities.pearson,
    "ssim": similarities.ssim,
    "top_k_iou": similarities.top_k_iou,
    "centre_of_mass": lambda a, b: 1 - similarities.centre_of_mass_shift(a, b),
}
"""Higher is more alike; 'centre_of_mass' is 1 less the shift in fractions of the side."""
NOT_REPEATABLE, AS_RESEEDING, MORE, LESS = "not_repeatable", "as_reseeding", "more", "less"
ONE_SEED, TOO_FEW = "one_seed", "too_few_images"
_VERDICTS = {
    NOT_REPEATABLE: (
        "explanations are not repeatable here; the question cannot be answered",
        "seeds disagree: no answer",
    ),
    AS_RESEEDING: ("changing the resolution changes the explanation no more than reseeding does", "as a new seed"),
    MORE: ("changing the resolution changes the explanation more than reseeding does", "more than a new seed"),
    LESS: ("explanations agree better across these resolutions than across seeds", "less than a new seed"),
    ONE_SEED: ("one seed has no ceiling; run two or more seeds", "one seed: no ceiling"),
    TOO_FEW: ("fewer than two images to compare", "fewer than two images to compare"),
}
"""How much the resolution changes explanations, beside a new seed: in a sentence and in a cell of a table."""
LEAST_GAP = 0.05
"""Seeds that agree less than this above the floor, at either resolution, leave nothing to be measured."""
LEAST_SEEDS = 3
"""Seeds from which on intervals contain what seeds do: two drawn alike leave no pair."""
_PARTNERS = 8
"""Other images that each image is compared with for the floor."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """Agreement of one model's explanations between two resolutions."""

    low_resolution: int
    high_resolution: int
    similarity: str
    images: int
    """Number of images whose maps at the two resolutions have a similarity: a constant map has none."""
    seeds: int
    cross: Interval
    """S_cross."""
    floor: Interval
    """S_null."""
    ceiling: Interval
    """sqrt(S_seed(r) S_seed(r'))."""
    consistency: Interval
    """C; None where the ceiling is near the floor."""
    verdict: str
    """NOT_REPEATABLE, AS_RESEEDING, MORE, LESS, ONE_SEED or TOO_FEW."""


def verdict_sentence(verdict: str) -> str:
    """A verdict in words; one of an earlier version was stored as its sentence and stays."""
    return _VERDICTS.get(verdict, (verdict, ""))[0]


def verdict_cell(verdict: str) -> str:
    """A verdict in a few words for a table, also one that an earlier version stored as its sentence."""
    return dict(_VERDICTS.values()).get(verdict_sentence(verdict), verdict)


def consistency(
    maps: Mapping[int, Mapping[int, np.ndarray]],
    low_resolution: int,
    high_resolution: int,
    *,
    similarity: str = "spearman",
    draws: int = 2000,
    seed: int = 0,
    keep: np.ndarray | None = None,
) -> Consistency:
    """C between two resolutions, with intervals over images, and over seeds where there are three or more.

    Args:
        maps: resolution -> seed -> (N, h, w), all on one grid and of the same images.
        similarity: a key of SIMILARITIES.
        draws: of the bootstrap; the same images and seeds are drawn for all parts of C.
        keep: (N,) bool: only these images (where both are right, for instance).
    """
    chosen = np.flatnonzero(np.ones(_images(maps), dtype=bool) if keep is None else keep)
    low, high = ({s: m[chosen] for s, m in maps[r].items()} for r in (low_resolution, high_resolution))
    seeds = sorted(low.keys() & high.keys())
    rng = np.random.default_rng(seed)
    parts = _Parts.of(low, high, seeds, SIMILARITIES[similarity], rng) if len(chosen) >= 2 else None
    known = parts.known_images() if parts else len(chosen)
    if parts is None or known < 2 or len(seeds) < 2:
        enough = parts is not None and known >= 2
        alone = parts.single_seed() if parts is not None and enough else None
        none = Interval(None)
        return Consistency(
            low_resolution, high_resolution, similarity, known, len(seeds), Interval(alone), none, none, none,
            ONE_SEED if enough else TOO_FEW,
        )  # fmt: skip
    point = parts.figures(np.ones((1, len(chosen))), np.ones((1, len(seeds))))
    drawn = parts.figures(*_draws(rng, len(chosen), len(seeds), draws))
    cross, floor, ceiling, ratio, *gaps = (_interval(p[0], d) for p, d in zip(point, drawn, strict=True))
    repeatable = all(_above(gap) for gap in gaps)
    return Consistency(
        low_resolution=low_resolution,
        high_resolution=high_resolution,
        similarity=similarity,
        images=known,
        seeds=len(seeds),
        cross=cross,
        floor=floor,
        ceiling=ceiling,
        consistency=ratio if repeatable else Interval(None),
        verdict=_verdict(ratio) if repeatable else NOT_REPEATABLE,
    )


def _images(maps: Mapping[int, Mapping[int, np.ndarray]]) -> int:
    return len(next(iter(next(iter(maps.values())).values())))


def _above(gap: Interval) -> bool:
    return gap.value is not None and gap.low is not None and gap.value >= LEAST_GAP and gap.low > 0


def _verdict(ratio: Interval) -> str:
    if ratio.low is None or ratio.high is None:
        return NOT_REPEATABLE
    if ratio.low <= 1 <= ratio.high:
        return AS_RESEEDING
    if ratio.high < 1:
        return MORE
    return LESS


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Similarities by pair of seeds and image: (pairs, N), NaN where not defined."""

    pairs_ordered: list[tuple[int, int]]
    """Positions (seed at r, seed at r'), different ones."""
    pairs: list[tuple[int, int]]
    cross: np.ndarray
    floor: np.ndarray
    seed_low: np.ndarray
    seed_high: np.ndarray
    same_seed: np.ndarray
    null_low: np.ndarray
    """Other images' maps between two seeds at r: what agreement of seeds must exceed."""
    null_high: np.ndarray

    @classmethod
    def of(
        cls,
        low: Mapping[int, np.ndarray],
        high: Mapping[int, np.ndarray],
        seeds: list[int],
        alike: Callable[[np.ndarray, np.ndarray], np.ndarray],
        rng: np.random.Generator,
    ) -> _Parts:
        count = len(next(iter(low.values())))
        ordered = [(i, j) for i in range(len(seeds)) for j in range(len(seeds)) if i != j]
        pairs = list(combinations(range(len(seeds)), 2))
        shifts = 1 + rng.permutation(count - 1)[:_PARTNERS]
        order = rng.permutation(count)

        def others(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            """Mean similarity of image i in `a` with other images in `b`."""
            found = np.empty((len(shifts), count))
            for row, shift in enumerate(shifts):
                found[row, order] = alike(a[order], b[np.roll(order, int(shift))])
            return similarities.mean_of_known(found, axis=0)

        def table(rows: list[np.ndarray]) -> np.ndarray:
            return np.array(rows).reshape(len(rows), count)

        return cls(
            pairs_ordered=ordered,
            pairs=pairs,
            cross=table([alike(low[seeds[i]], high[seeds[j]]) for i, j in ordered]),
            floor=table([others(low[seeds[i]], high[seeds[j]]) for i, j in ordered]),
            seed_low=table([alike(low[seeds[i]], low[seeds[j]]) for i, j in pairs]),
            seed_high=table([alike(high[seeds[i]], high[seeds[j]]) for i, j in pairs]),
            same_seed=table([alike(low[s], high[s]) for s in seeds]),
            null_low=table([others(low[seeds[i]], low[seeds[j]]) for i, j in pairs]),
            null_high=table([others(high[seeds[i]], high[seeds[j]]) for i, j in pairs]),
        )

    def known_images(self) -> int:
        """Images with a similarity between the resolutions, by any two seeds or, of one seed, by its own runs."""
        compared = self.cross if len(self.cross) else self.same_seed
        return int((~np.isnan(compared)).any(axis=0).sum())

    def single_seed(self) -> float | None:
        value = float(similarities.mean_of_known(self.same_seed)) if self.same_seed.size else np.nan
        return value if np.isfinite(value) else None

    def figures(self, images_DN: np.ndarray, seeds_DS: np.ndarray) -> tuple[np.ndarray, ...]:
        """(cross, floor, ceiling, C, S_seed less its own floor at r, at r'), each (D,).

        Args:
            images_DN, seeds_DS: D draws given as multiplicities of images and of seeds.
        """
        ordered = np.stack([seeds_DS[:, i] * seeds_DS[:, j] for i, j in self.pairs_ordered], axis=1)
        unordered = np.stack([seeds_DS[:, i] * seeds_DS[:, j] for i, j in self.pairs], axis=1)
        cross = _weighted(self.cross, ordered, images_DN)
        floor = _weighted(self.floor, ordered, images_DN)
        low = _weighted(self.seed_low, unordered, images_DN)
        high = _weighted(self.seed_high, unordered, images_DN)
        ceiling = np.sqrt(np.clip(low, 0, None) * np.clip(high, 0, None))
        gap_low = low - _weighted(self.null_low, unordered, images_DN)
        gap_high = high - _weighted(self.null_high, unordered, images_DN)
        gap = ceiling - floor
        ratio = np.where(np.abs(gap) > 1e-12, (cross - floor) / np.where(np.abs(gap) > 1e-12, gap, 1), np.nan)
        return cross, floor, ceiling, ratio, gap_low, gap_high


def _weighted(values_PN: np.ndarray, pairs_DP: np.ndarray, images_DN: np.ndarray) -> np.ndarray:
    """(D,) means weighted by both multiplicities, over what is defined."""
    known = ~np.isnan(values_PN)
    total = np.einsum("dp,pn,dn->d", pairs_DP, np.where(known, values_PN, 0), images_DN, optimize=True)
    weight = np.einsum("dp,pn,dn->d", pairs_DP, known.astype(np.float64), images_DN, optimize=True)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)


def _draws(rng: np.random.Generator, images: int, seeds: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Multiplicities: images always; seeds where there are LEAST_SEEDS."""
    images_DN = rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)
    if seeds < LEAST_SEEDS:
        return images_DN, np.ones((draws, seeds))
    seeds_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).astype(np.float64)
    lone = (seeds_DS > 0).sum(axis=1) < 2
    seeds_DS[lone] = 1
    return images_DN, seeds_DS


def _interval(point: float, drawn: np.ndarray) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(point) or len(known) < len(drawn) / 2:
        return Interval(None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(point), float(low), float(high))
