"""Energy on the evidence: 1 for whoever does not know where it is, also where many maps are empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from resomap.explainability.agreement import TOO_FEW
from resomap.explainability.map_comparisons import compare_maps, energy_of
from resomap.explainability.store import StoredMaps
from resomap.metrics.map_intervals import pooled_energy
from resomap.records import Cell

IMAGES, GRID = 48, 8
WHOLE = np.tile([0.0, 0.0, 1.0, 1.0], (IMAGES, 1))


def _masks(rng: np.random.Generator) -> list[np.ndarray]:
    """A soft square of a sixteenth of the area or so, anywhere in the image."""
    masks = []
    for _ in range(IMAGES):
        mask = np.zeros((GRID, GRID))
        top, left = rng.integers(GRID - 1, size=2)
        mask[top : top + 2, left : left + 2] = rng.uniform(0.5, 1, (2, 2))
        masks.append(mask)
    return masks


def _energies(maps_SNhw: np.ndarray, masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    parts = [energy_of(maps, WHOLE, masks) for maps in maps_SNhw]
    return np.array([p[0] for p in parts]), np.array([p[1] for p in parts])


def _networks(
    rng: np.random.Generator, masks: list[np.ndarray], count: int, *, evidence: float, head: str = "random"
) -> np.ndarray:
    """(S, N, g, g) maps relu(w0 + w1 z + w2 evidence) of linear heads over an offset, noise and evidence features."""
    z = rng.normal(size=(count, IMAGES, GRID, GRID))
    weights = (
        rng.normal(size=(count, 3, 1, 1, 1)) if head == "random" else np.tile([[-0.5], [0.5], [3.0]], (count, 1, 1))
    )
    w = weights.reshape(count, 3, 1, 1, 1)
    return np.maximum(0, w[:, 0] + w[:, 1] * z + w[:, 2] * evidence * np.array(masks))


def test_unrelated_maps_have_one_and_their_intervals_cover_it() -> None:
    values, covered = [], 0
    for repetition in range(40):
        rng = np.random.default_rng(repetition)
        masks = _masks(rng)
        # Heads with a negative offset leave most maps nearly empty: they must not be left out, nor count in full.
        found = pooled_energy(*_energies(_networks(rng, masks, 20, evidence=0), masks), draws=300)
        values.append(found.value)
        covered += found.low <= 1 <= found.high
    assert abs(np.mean(values) - 1) < 3 * np.std(values) / np.sqrt(40)
    assert abs(np.mean(values) - 1) < 0.02
    assert covered >= 33  # nominally 38 of 40


def test_random_heads_over_visible_evidence_are_a_sample_of_one_each() -> None:
    """Contrast that any filter responds to: single networks disagree wildly, many together agree and say how well."""
    rng = np.random.default_rng(1)
    masks = _masks(rng)
    inside, total = _energies(_networks(rng, masks, 240, evidence=1.0), masks)
    some = total.sum(axis=1) > 0
    single = inside[some].sum(axis=1) / total[some].sum(axis=1)
    assert single.min() < 0.6
    assert single.max() > 3
    expected = inside.sum() / total.sum()
    groups = [pooled_energy(inside[i : i + 20], total[i : i + 20], draws=300) for i in range(0, 240, 20)]
    assert np.std([g.value for g in groups]) < 0.5 * np.std(single)
    assert sum(g.low <= expected <= g.high for g in groups) >= 9  # nominally 11 of 12
    # A network that is one more draw stands above the others no more than they do.
    shown = np.flatnonzero(some[40:]) + 40
    over = inside[:40], total[:40]
    ratios = [pooled_energy(inside[i : i + 1], total[i : i + 1], over=over, draws=200).value for i in shown]
    assert np.average(ratios, weights=total[shown].sum(axis=1)) == pytest.approx(1, abs=0.15)


def test_a_network_that_knows_stands_out_with_its_interval() -> None:
    rng = np.random.default_rng(2)
    masks = _masks(rng)
    random = _energies(_networks(rng, masks, 20, evidence=1.0), masks)
    trained = _energies(_networks(rng, masks, 1, evidence=1.0, head="trained"), masks)
    found = pooled_energy(*trained, over=random, draws=300)
    assert found.low > 2
    level = energy_of(_networks(rng, masks, 1, evidence=1.0, head="trained")[0], WHOLE, masks, others=True)
    by_chance = pooled_energy(level[0][None], level[1][None], draws=300)
    assert by_chance.low < 1.05
    assert by_chance.value == pytest.approx(1, abs=0.25)


def _stored(resolution: int, seed: int, maps_Nhw: np.ndarray) -> StoredMaps:
    images = len(maps_Nhw)
    zeros = np.zeros(images, dtype=np.int64)
    return StoredMaps(
        Cell("tiny_cnn", resolution, seed), "gradcam", "k", tuple(map(str, range(images))), maps_Nhw, WHOLE[:images],
        zeros, zeros, zeros, np.ones(images, dtype=np.float32), {},
    )  # fmt: skip


def test_one_image_has_an_energy_but_no_other_image_to_be_held_against() -> None:
    lone = np.zeros((1, 4, 4), dtype=np.float32)
    lone[0, 1, 1] = 1
    mask = np.zeros((4, 4), dtype=np.float32)
    mask[:2, :2] = 1
    tables = compare_maps([_stored(side, s, lone) for side in (32, 64) for s in (0, 1)], masks=[mask], draws=50)
    for row in tables["spread"]:
        assert row["energy_in_mask"]["value"] == pytest.approx(4)  # all of it in a quarter of the area
        assert row["energy_in_other_masks"] == {"value": None, "low": None, "high": None}
    assert {row["verdict"] for row in tables["consistency"]} == {TOO_FEW}


@pytest.mark.filterwarnings("error")
def test_maps_that_are_constant_in_every_run_point_at_nothing() -> None:
    """Of the second image one of two seeds has a map: its hit is that of the image."""
    maps = np.zeros((2, 2, 4, 4), dtype=np.float32)  # seeds, images
    maps[0, 1, 0, 0] = 1
    mask = np.zeros((4, 4), dtype=np.float32)
    mask[:2, :2] = 1
    stored = [_stored(32, seed, of_seed) for seed, of_seed in enumerate(maps)]
    empty = [replace(one, maps=np.zeros_like(one.maps)) for one in stored]
    other = [replace(one, method="saliency") for one in empty]
    tables = compare_maps([*stored, *other], masks=[mask, mask], draws=50)
    games = {row["method"]: row["pointing_game"]["value"] for row in tables["spread"]}
    assert games == {"gradcam": 1.0, "saliency": None}
    assert tables["between_methods"] == [
        {"model": "tiny_cnn", "resolution": 32, "first": "gradcam", "second": "saliency", "spearman": None}
    ]
