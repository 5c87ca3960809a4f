"""Similarity and spread of maps, against SciPy, loops, and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from resomap.explainability.agreement import (
    AS_RESEEDING,
    LEAST_GAP,
    MORE,
    NOT_REPEATABLE,
    ONE_SEED,
    TOO_FEW,
    consistency,
    verdict_cell,
    verdict_sentence,
)
from resomap.metrics import maps as measures


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.random((6, 5, 5)).round(1)  # with ties
    return a, (a + rng.random((6, 5, 5))).round(1)


def test_correlations_equal_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    expected = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(measures.spearman(a, b), expected)
    expected = [stats.pearsonr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(measures.pearson(a, b), expected)


def test_cells_outside_the_support_are_left_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    cut = a.copy()
    cut[:, :, 0] = np.nan
    np.testing.assert_allclose(measures.spearman(cut, b), measures.spearman(a[:, :, 1:], b[:, :, 1:]))
    np.testing.assert_allclose(measures.pearson(cut, b), measures.pearson(a[:, :, 1:], b[:, :, 1:]))


def test_a_constant_map_has_no_correlation() -> None:
    flat, other = np.full((1, 3, 3), 0.1), np.arange(9.0).reshape(1, 3, 3)
    for measure in (measures.spearman, measures.pearson, measures.top_k_iou):
        assert np.isnan(measure(flat, other)).all()
    assert np.isnan(measures.entropy(np.zeros((1, 3, 3)))).all()


def test_ssim_equals_a_loop_over_windows(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    expected = []
    for x, y in zip(a, b, strict=True):
        span = max(x.max(), y.max()) - min(x.min(), y.min())
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        local = []
        for i in range(3):
            for j in range(3):
                p, q = x[i : i + 3, j : j + 3].ravel(), y[i : i + 3, j : j + 3].ravel()
                covariance = ((p - p.mean()) * (q - q.mean())).mean()
                local.append(
                    (2 * p.mean() * q.mean() + c1) * (2 * covariance + c2)
                    / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (p.var() + q.var() + c2))
                )  # fmt: skip
        expected.append(np.mean(local))
    np.testing.assert_allclose(measures.ssim(a, b), expected)
    np.testing.assert_allclose(measures.ssim(a, a), 1)


def test_ssim_of_maps_that_lie_far_above_their_range(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Where the offset is so large that only covariances tell: 2 s / (v + v') with the constants, mean of windows."""
    a, b = pair
    offset = 1e4
    span = np.maximum(a.max(axis=(1, 2)), b.max(axis=(1, 2))) - np.minimum(a.min(axis=(1, 2)), b.min(axis=(1, 2)))
    expected = []
    for x, y, c2 in zip(a, b, (0.03 * span) ** 2, strict=True):
        windows = [(x[i : i + 3, j : j + 3], y[i : i + 3, j : j + 3]) for i in range(3) for j in range(3)]
        local = [(2 * ((p - p.mean()) * (q - q.mean())).mean() + c2) / (p.var() + q.var() + c2) for p, q in windows]
        expected.append(np.mean(local))
    # Values of 1e4 and a range of 1 leave 12 digits of float64.
    np.testing.assert_allclose(measures.ssim(a + offset, b + offset), expected, rtol=1e-7)


def test_a_constant_map_has_no_structural_similarity(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    constant, one_ulp = np.zeros_like(a), (1 + 6e-8 * np.round(b)).astype(np.float32)
    for x, y in ((constant, constant), (a, constant), (constant, b), (one_ulp, one_ulp), (a, one_ulp)):
        assert np.isnan(measures.ssim(x, y)).all()


def test_top_k_by_hand_and_its_chance_level() -> None:
    a = np.arange(10.0).reshape(1, 2, 5)  # the highest fifth: cells 8 and 9
    b = np.array([[[0, 0, 0, 0, 0], [0, 0, 0, 5, 9.0]]])  # 8 and 9 too
    c = np.array([[[0, 0, 0, 0, 9], [0, 0, 0, 0, 8.0]]])  # 4 and 9
    assert measures.top_k_iou(a, b).tolist() == [1]
    np.testing.assert_allclose(measures.top_k_iou(a, c), [1 / 3])
    rng = np.random.default_rng(1)
    drawn = measures.top_k_iou(rng.random((4000, 5, 5)), rng.random((4000, 5, 5)))
    assert abs(drawn.mean() - measures.chance_iou(25)) < 4 * drawn.std() / np.sqrt(4000)


def _sparse(rng: np.random.Generator, lit: int, *, images: int = 600, side: int = 7) -> np.ndarray:
    """(N, side, side) maps of which `lit` cells, anywhere, are above 0."""
    maps = np.zeros((images, side * side))
    for row in maps:
        row[rng.choice(side * side, lit, replace=False)] = rng.random(lit) + 0.1
    return maps.reshape(images, side, side)


@pytest.mark.parametrize("lit", [1, 3, 5, 9, 49])
def test_unrelated_maps_overlap_by_chance_however_few_cells_they_show(lit: int) -> None:
    rng = np.random.default_rng(lit)
    found = measures.top_k_iou(_sparse(rng, lit), _sparse(rng, lit))
    assert abs(found.mean() - measures.chance_iou(49)) < 4 * found.std() / np.sqrt(len(found)) + 1e-4


def test_equal_cells_overlap_as_if_their_order_were_drawn_for_each_map() -> None:
    rng = np.random.default_rng(0)
    a = np.concatenate([_sparse(rng, 1, images=1), _sparse(rng, 4, images=1), rng.integers(0, 4, (2, 7, 7))])
    b = np.concatenate([a[:1], _sparse(rng, 6, images=1), np.where(rng.random((2, 7, 7)) < 0.5, a[2:], 1)])
    a[3, :, 0] = np.nan  # 42 cells are left
    expected = []
    for x, y in zip(a, b, strict=True):
        known = ~np.isnan(x)
        cells, k = known.sum(), round(0.2 * known.sum())
        draws = []
        for _ in range(4000):
            first, second = (set(np.lexsort((rng.random(cells), -m[known]))[:k]) for m in (x, y))
            draws.append(len(first & second) / len(first | second))
        expected.append(np.mean(draws))
    found = measures.top_k_iou(a, b)
    np.testing.assert_allclose(found, expected, atol=0.006)
    np.testing.assert_allclose(measures.top_k_iou(b, a), found)
    assert found[0] == pytest.approx(0.16, abs=0.002)  # the same map twice, of which one cell says something


def test_equal_maps_overlap_fully_where_no_equal_cells_lie_at_the_edge() -> None:
    rng = np.random.default_rng(0)
    shown = rng.random((3, 7, 7))
    ties_elsewhere = np.concatenate([_sparse(rng, 10, images=2), np.where(shown > 0.95, 1, shown)])
    np.testing.assert_allclose(measures.top_k_iou(ties_elsewhere, ties_elsewhere), 1)
    nothing = np.full((1, 7, 7), np.nan)
    assert np.isnan(measures.top_k_iou(nothing, shown[:1])).all()


def test_centre_of_mass_by_hand() -> None:
    a = np.array([[[1.0, 0], [0, 0]]])
    b = np.array([[[0.0, 0], [0, 3]]])
    np.testing.assert_allclose(measures.centre_of_mass(a), [[0.25, 0.25]])
    np.testing.assert_allclose(measures.centre_of_mass_shift(a, b), [np.sqrt(0.5)])
    assert np.isnan(measures.centre_of_mass_shift(a, np.zeros((1, 2, 2)))).all()


def test_spread_by_hand() -> None:
    even, lone = np.ones((1, 4, 4)), np.zeros((1, 4, 4))
    lone[0, 1, 2] = 7
    np.testing.assert_allclose(measures.entropy(even), 1)
    np.testing.assert_allclose(measures.entropy(lone), 0, atol=1e-12)
    np.testing.assert_allclose(measures.gini(even), 0, atol=1e-12)
    np.testing.assert_allclose(measures.gini(lone), 15 / 16)  # 1 - 1/n
    # 0, 1, 2, 3: sum of |x_i - x_j| over all ordered pairs is 20; 20 / (2 n^2 mean) = 20 / 48.
    np.testing.assert_allclose(measures.gini(np.array([[[0.0, 1], [2, 3]]])), 5 / 12)


def _energy(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    inside, total = measures.energy_parts(maps, masks)
    return inside / total


def test_energy_in_mask_by_hand() -> None:
    maps = np.array([[[6.0, 2], [1, 1]]])
    masks = np.array([[[1.0, 0], [0, 0]]])
    np.testing.assert_allclose(_energy(maps, masks), 0.6 / 0.25)
    np.testing.assert_allclose(_energy(np.ones((1, 2, 2)), masks), 1)
    assert measures.pointing_game(maps, masks).tolist() == [1]
    assert measures.pointing_game(maps, 1 - masks).tolist() == [0]


def test_energy_parts_by_hand() -> None:
    maps = np.array([[[6.0, 2], [1, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    masks = np.array([[[1.0, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]])
    inside, total = measures.energy_parts(maps, masks)
    # A quarter of the area has 6 of 10; a map without energy adds nothing; an image without a mask counts nowhere.
    np.testing.assert_allclose(inside, [6 / 4 / 0.25, 0, 0])
    np.testing.assert_allclose(total, [10 / 4, 0, 0])
    np.testing.assert_allclose(inside[0] / total[0], 0.6 / 0.25)


def test_figures_recorded_from_quantus() -> None:
    """Quantus 0.6.0 Sparseness, Complexity, PointingGame and RelevanceMassAccuracy on the same map.

    It gives the Gini index, the entropy in nats, whether the highest cell lies in the mask, and the share of mass in
    the mask. Recorded by calling its metric classes with the attribution below; it is LGPL and not a dependency.
    """
    a = np.random.default_rng(7).random((1, 8, 8))
    mask = np.zeros((1, 8, 8))
    mask[0, 2:6, 1:5] = 1
    recorded = {"sparseness": 0.332128177, "complexity": 3.961003057, "mass": 0.301392111, "pointing": 0.0}
    np.testing.assert_allclose(measures.gini(a), recorded["sparseness"], atol=2e-6)
    np.testing.assert_allclose(measures.entropy(a) * np.log(64), recorded["complexity"], atol=2e-6)
    np.testing.assert_allclose(_energy(a, mask) * mask.mean(), recorded["mass"], atol=2e-6)
    assert measures.pointing_game(a, mask).tolist() == [recorded["pointing"]]


def _maps(rng: np.random.Generator, shared: float, seeds: int, images: int = 60) -> dict[int, dict[int, np.ndarray]]:
    """Maps whose image-specific part is `shared` of the variance, the same at both resolutions."""
    common = rng.normal(size=(images, 7, 7))
    return {
        side: {s: np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=common.shape) for s in range(seeds)}
        for side in (224, 384)
    }


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_consistency_is_one_where_resolution_does_no_more_than_a_seed(seeds: int) -> None:
    found = [
        consistency(_maps(np.random.default_rng([seeds, i]), 0.5, seeds), 224, 384, draws=300).consistency
        for i in range(12)
    ]
    assert abs(np.mean([c.value for c in found]) - 1) < 0.03
    assert sum(c.low <= 1 <= c.high for c in found) >= 9  # nominally 95 %


@pytest.mark.parametrize("seeds", [2, 3])
def test_consistency_is_zero_for_unrelated_maps(seeds: int) -> None:
    values, covered = [], 0
    for i in range(12):
        rng = np.random.default_rng([seeds, i, 9])
        maps = {224: _maps(rng, 0.5, seeds)[224], 384: _maps(rng, 0.5, seeds)[384]}
        found = consistency(maps, 224, 384, draws=300)
        values.append(found.consistency.value)
        covered += found.consistency.low <= 0 <= found.consistency.high
        assert found.verdict == MORE
    assert abs(np.mean(values)) < 0.03
    assert covered >= 9


def test_maps_that_seeds_do_not_repeat_have_no_answer() -> None:
    found = consistency(_maps(np.random.default_rng(0), 0.0, 3), 224, 384, draws=300)
    assert found.verdict == NOT_REPEATABLE
    assert found.consistency.value is None
    assert found.ceiling.value - found.floor.value < LEAST_GAP


def test_seeds_must_repeat_at_both_resolutions() -> None:
    """Maps that lean to a border give other images a similarity below 0, and so a ceiling of 0 some height."""
    rng = np.random.default_rng(3)
    slope = np.linspace(-1, 1, 49).reshape(7, 7)
    high = _maps(rng, 0.7, 2)[384]
    low = {s: rng.normal(size=(60, 7, 7)) + (-1) ** s * slope for s in range(2)}  # seeds lean to opposite borders
    found = consistency({224: low, 384: {s: m - slope for s, m in high.items()}}, 224, 384, draws=300)
    assert (found.verdict, found.consistency.value) == (NOT_REPEATABLE, None)


def test_one_seed_has_no_ceiling() -> None:
    found = consistency(_maps(np.random.default_rng(0), 0.5, 1), 224, 384)
    assert (found.verdict, found.consistency.value, found.seeds) == (ONE_SEED, None, 1)
    assert 0.2 < found.cross.value < 0.8


@pytest.mark.parametrize("similarity", ["spearman", "ssim", "top_k_iou", "centre_of_mass"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_images_with_empty_maps_do_not_count(similarity: str, seeds: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.random((10, 4, 4))
    maps = {r: {s: base + 0.3 * rng.random(base.shape) for s in range(seeds)} for r in (32, 64)}
    shown = {r: {s: m[:3] for s, m in of.items()} for r, of in maps.items()}
    for of in maps.values():
        for m in of.values():
            m[3:] = 0
    found, alone = (consistency(m, 32, 64, similarity=similarity, draws=50) for m in (maps, shown))
    assert found.images == 3
    assert found.cross.value == pytest.approx(alone.cross.value)
    for of in maps.values():
        for m in of.values():
            m[1:] = 0
    found = consistency(maps, 32, 64, similarity=similarity, draws=50)
    assert (found.images, found.verdict, found.cross.value) == (1, TOO_FEW, None)


def test_only_the_images_asked_for_are_compared() -> None:
    maps = _maps(np.random.default_rng(0), 0.5, 2)
    keep = np.arange(60) < 20
    cut = {side: {s: m[:20] for s, m in of.items()} for side, of in maps.items()}
    assert consistency(maps, 224, 384, draws=200, keep=keep) == consistency(cut, 224, 384, draws=200)


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ("more", "more than a new seed"),
        ("changing the resolution changes the explanation more than reseeding does", "more than a new seed"),
        ("explanations agree better across these resolutions than across seeds", "less than a new seed"),
        ("too_few_images", "fewer than two images to compare"),
        ("of a later version", "of a later version"),
    ],
)
def test_a_verdict_is_told_in_few_words_also_where_its_sentence_was_stored(stored: str, told: str) -> None:
    assert verdict_cell(stored) == told


def test_a_verdict_is_told_in_a_sentence_also_where_that_was_stored() -> None:
    sentence = "changing the resolution changes the explanation no more than reseeding does"
    assert verdict_sentence(AS_RESEEDING) == verdict_sentence(sentence) == sentence
