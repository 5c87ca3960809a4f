"""How alike two maps are, and how a map is spread; on arrays, one value an image.

Maps are (N, h, w); cells that are NaN in either map are left out (outside the common support). A figure that is not
defined (a constant map has no correlation) is NaN, for the caller to count.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import hypergeom, rankdata


def pearson(a_Nhw: np.ndarray, b_Nhw: np.ndarray) -> np.ndarray:
    """(N,) correlation of the cells' values; NaN where a map is constant."""
    a, b = _common(a_Nhw, b_Nhw)
    return _correlation(a, b)


def spearman(a_Nhw: np.ndarray, b_Nhw: np.ndarray) -> np.ndarray:
    """(N,) correlation of the cells' ranks, ties at their mean rank; NaN where a map is constant."""
    a, b = _common(a_Nhw, b_Nhw)
    return _correlation(_ranks(a), _ranks(b))


def _common(a_Nhw: np.ndarray, b_Nhw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, cells) float64 with NaN wherever one is NaN."""
    a = np.asarray(a_Nhw, dtype=np.float64).reshape(len(a_Nhw), -1)
    b = np.asarray(b_Nhw, dtype=np.float64).reshape(len(b_Nhw), -1)
    missing = np.isnan(a) | np.isnan(b)
    return np.where(missing, np.nan, a), np.where(missing, np.nan, b)


def _ranks(values_NG: np.ndarray) -> np.ndarray:
    if not np.isnan(values_NG).any():
        return rankdata(values_NG, axis=1)
    return rankdata(values_NG, axis=1, nan_policy="omit")


def _correlation(a_NG: np.ndarray, b_NG: np.ndarray) -> np.ndarray:
    known = ~np.isnan(a_NG)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    a = np.where(known, a_NG - np.where(known, a_NG, 0).sum(axis=1, keepdims=True) / count, 0)
    b = np.where(known, b_NG - np.where(known, b_NG, 0).sum(axis=1, keepdims=True) / count, 0)
    # Rounding leaves a constant map with deviations of some 1e-16 of its values.
    noise = 1e-12 * np.abs(np.where(known, a_NG, 0)).max(axis=1), 1e-12 * np.abs(np.where(known, b_NG, 0)).max(axis=1)
    norm = np.sqrt((a**2).sum(axis=1)), np.sqrt((b**2).sum(axis=1))
    defined = (norm[0] > noise[0]) & (norm[1] > noise[1])
    product = np.where(defined, norm[0] * norm[1], 1)
    return np.where(defined, np.clip((a * b).sum(axis=1) / product, -1, 1), np.nan)


def ssim(a_Nhw: np.ndarray, b_Nhw: np.ndarray, *, window: int = 3) -> np.ndarray:
    """(N,) mean structural similarity over all full windows, uniform weights, population moments.

    The range L of the constants (0.01 L)^2 and (0.03 L)^2 is the range of the pair together: no map is scaled by
    itself. NaN where a map is constant (its range is under a millionth of its level: float32's rounding), or no window
    lies in the support.
    Reference: Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13.
    """
    shape = np.asarray(a_Nhw).shape
    a, b = (cells.reshape(shape) for cells in _common(a_Nhw, b_Nhw))
    side = min(window, *shape[1:])
    both = np.stack([a, b])
    lows, highs = (ends.reduce(both, axis=(2, 3)) for ends in (np.fmin, np.fmax))  # (2, N), NaN of no cells alone
    varies = (highs - lows > 1e-6 * np.maximum(np.abs(lows), np.abs(highs))).all(axis=0)
    low, high = lows.min(axis=0), highs.max(axis=0)
    c1, c2 = ((k * np.maximum(high - low, 1e-30))[:, None, None] ** 2 for k in (0.01, 0.03))
    wa, wb = (np.lib.stride_tricks.sliding_window_view(m, (side, side), axis=(1, 2)) for m in (a, b))
    ma, mb = wa.mean(axis=(-2, -1)), wb.mean(axis=(-2, -1))
    va, vb = wa.var(axis=(-2, -1)), wb.var(axis=(-2, -1))
    cov = ((wa - ma[..., None, None]) * (wb - mb[..., None, None])).mean(axis=(-2, -1))
    local = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    known = ~np.isnan(local)
    count = known.sum(axis=(1, 2))
    total = np.where(known, local, 0).sum(axis=(1, 2))
    return np.where(varies & (count > 0), total / np.maximum(count, 1), np.nan)


def top_k_iou(a_Nhw: np.ndarray, b_Nhw: np.ndarray, *, share: float = 0.2) -> np.ndarray:
    """(N,) overlap of the highest `share` of the cells: intersection over union; see chance_iou.

    Where equal cells lie at the edge of the highest ones, it is what to expect if each map puts its equal cells in an
    order of its own, drawn at random: cells that say nothing agree as far as chance has them agree. So unrelated maps
    lie at chance_iou however few of their cells are above 0, and of two equal maps only what they show agrees: 1
    without equal cells at the edge, 0.16 with one cell of 49 above 0. NaN where a map is constant.
    """
    a, b = _common(a_Nhw, b_Nhw)
    known = ~np.isnan(a)
    k_N = np.array([top_cells(cells, share) for cells in known.sum(axis=1).tolist()], dtype=np.int64)
    (above_a, tied_a, drawn_a), (above_b, tied_b, drawn_b) = (_top(np.where(known, v, -np.inf), k_N) for v in (a, b))
    size_a, size_b = np.maximum(tied_a.sum(axis=1), 1), np.maximum(tied_b.sum(axis=1), 1)
    chance_a, chance_b = drawn_a / size_a, drawn_b / size_b
    sure = (above_a & above_b).sum(axis=1)
    by_a, by_b, by_both = ((x & y).sum(axis=1) for x, y in ((tied_a, above_b), (above_a, tied_b), (tied_a, tied_b)))
    mean = sure + chance_a * by_a + chance_b * (by_b + chance_a * by_both)
    # Draws without replacement: first b's, of which by_b and by_both cells matter, then a's among what that leaves.
    spread_a = chance_a * (1 - chance_a) / np.maximum(size_a - 1, 1)
    spread_b = chance_b * (1 - chance_b) / np.maximum(size_b - 1, 1)
    of_both = spread_b * by_both * (size_b - by_both)
    of_b = spread_b * by_b * (size_b - by_b) - 2 * chance_a * spread_b * by_b * by_both + chance_a**2 * of_both
    wanted = by_a + chance_b * by_both
    variance = of_b + spread_a * (wanted * (size_a - wanted) - of_both)
    # The mean of x / (2 k - x), to the second order in how far x, the cells that both have, lies from its own mean.
    expected = mean / (2 * k_N - mean) + 2 * k_N * variance / (2 * k_N - mean) ** 3
    varies = (known & ~tied_a).any(axis=1) & (known & ~tied_b).any(axis=1)
    return np.where(varies, expected, np.nan)


def _top(values_NG: np.ndarray, k_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cells above the k-th highest value, cells equal to it, how many of those are among the k highest)."""
    edge_N1 = np.take_along_axis(np.sort(values_NG, axis=1), values_NG.shape[1] - k_N[:, None], axis=1)
    above = values_NG > edge_N1
    return above, values_NG == edge_N1, k_N - above.sum(axis=1)


def top_cells(cells: int, share: float) -> int:
    """How many cells are the highest `share`; one at least."""
    return max(1, round(share * cells))


def chance_iou(cells: int, *, share: float = 0.2) -> float:
    """Expected top_k_iou of two unrelated maps: the intersection is hypergeometric."""
    k = top_cells(cells, share)
    both = np.arange(k + 1)
    return float((hypergeom.pmf(both, cells, k, k) * both / (2 * k - both)).sum())


def centre_of_mass(maps_Nhw: np.ndarray) -> np.ndarray:
    """(N, 2) row and column in fractions of the side, of maps >= 0; NaN where there is no mass."""
    maps = np.nan_to_num(np.asarray(maps_Nhw, dtype=np.float64))
    total = maps.sum(axis=(1, 2))
    rows = (np.arange(maps.shape[1]) + 0.5) / maps.shape[1]
    columns = (np.arange(maps.shape[2]) + 0.5) / maps.shape[2]
    moments = np.stack([(maps.sum(axis=2) * rows).sum(axis=1), (maps.sum(axis=1) * columns).sum(axis=1)], axis=1)
    return np.where(total[:, None] > 0, moments / np.where(total > 0, total, 1)[:, None], np.nan)


def centre_of_mass_shift(a_Nhw: np.ndarray, b_Nhw: np.ndarray) -> np.ndarray:
    """(N,) distance of the centres of mass in fractions of the side (0 to sqrt 2)."""
    return np.linalg.norm(centre_of_mass(a_Nhw) - centre_of_mass(b_Nhw), axis=1)


def entropy(maps_Nhw: np.ndarray) -> np.ndarray:
    """(N,) Shannon entropy of the map as a distribution, over that of a uniform one: 1 spread out, 0 one cell.

    Reference: Bhatt et al. 2020, arXiv:2005.00631 (complexity), here divided by log(cells).
    """
    share = _shares(maps_Nhw)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(share > 0, share * np.log(share), 0)
    return np.where(np.isnan(share).any(axis=1), np.nan, -terms.sum(axis=1) / np.log(max(2, share.shape[1])))


def gini(maps_Nhw: np.ndarray) -> np.ndarray:
    """(N,) Gini index of the cells' values: 0 all equal, near 1 all in one cell.

    Reference: Chalasani et al. 2020, arXiv:1810.06583, section 3 (sparseness).
    """
    share = np.sort(_shares(maps_Nhw), axis=1)
    cells = share.shape[1]
    weights = (2 * np.arange(1, cells + 1) - cells - 1) / cells
    return (share * weights).sum(axis=1)


def _shares(maps_Nhw: np.ndarray) -> np.ndarray:
    """(N, cells) adding up to 1; NaN where there is no mass."""
    flat = np.nan_to_num(np.asarray(maps_Nhw, dtype=np.float64).reshape(len(maps_Nhw), -1))
    total = flat.sum(axis=1, keepdims=True)
    return np.where(total > 0, flat / np.where(total > 0, total, 1), np.nan)


def energy_parts(maps_Nhw: np.ndarray, masks_Nhw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(energy inside the mask over its share of the area, energy), each (N,): to be summed before they are divided.

    A map without energy has no share of its own, and leaving it out favours networks that show something only where
    there is contrast. Of sums it is a part like every other.

    Args:
        masks_Nhw: 0..1 on the same grid; soft edges count by their value.
    Reference: Wang et al. 2020, arXiv:1910.01279 (energy-based pointing game), here over the area: 1 is chance.
    """
    maps = np.nan_to_num(np.asarray(maps_Nhw, dtype=np.float64)).reshape(len(maps_Nhw), -1)
    masks = np.asarray(masks_Nhw, dtype=np.float64).reshape(len(masks_Nhw), -1)
    area = masks.mean(axis=1)
    known = area > 0
    inside = np.where(known, (maps * masks).mean(axis=1) / np.where(known, area, 1), 0)
    return inside, np.where(known, maps.mean(axis=1), 0)


def pointing_game(maps_Nhw: np.ndarray, masks_Nhw: np.ndarray) -> np.ndarray:
    """(N,) 1 where the highest cell lies in the mask, else 0; NaN for a constant map.

    Reference: Zhang et al. 2018, arXiv:1608.00507, section 5.2.
    """
    maps = np.asarray(maps_Nhw, dtype=np.float64).reshape(len(maps_Nhw), -1)
    masks = np.asarray(masks_Nhw).reshape(len(masks_Nhw), -1)
    hit = masks[np.arange(len(maps)), maps.argmax(axis=1)] > 0
    return np.where(np.ptp(maps, axis=1) > 0, hit.astype(np.float64), np.nan)


def mean_of_known(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of what is not NaN; NaN where nothing is."""
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)
