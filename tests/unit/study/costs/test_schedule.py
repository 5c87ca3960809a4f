"""Longest first: worked-out schedules, the bound of list scheduling, and the default grid on many workers."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.config.schema import ResoMapConfig
from resomap.errors import ResolutionError
from resomap.profiling import complexity
from resomap.records import Cell
from resomap.study import build
from resomap.study.costs.schedule import longest_first, lower_bound, makespan, predicted_cost, seed_by_seed


def test_makespan_of_a_schedule_worked_out_by_hand() -> None:
    assert makespan([3, 3, 2, 2, 2], 2) == 7  # both free at 3 and at 5; one ends the last at 7
    assert makespan([5, 1, 1, 1, 1, 1], 2) == 5
    assert makespan([1, 1, 1, 1, 1, 5], 2) == 7  # the long one is left alone: 5 short ones until 2 and 3, then 5
    assert lower_bound([5, 1, 1, 1, 1, 1], 2) == 5


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_longest_first_keeps_grahams_bound(costs: list[float], workers: int) -> None:
    ended = makespan(sorted(costs, reverse=True), workers)
    bound = lower_bound(costs, workers)
    # Graham's 4/3 is against the best schedule; against the lower bound, which may be below it, list scheduling
    # ends within (sum / W) + longest.
    assert bound <= ended * (1 + 1e-9)
    assert ended <= sum(costs) / workers + max(costs)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 3))
def test_longest_first_is_within_four_thirds_of_the_best(costs: list[int], workers: int) -> None:
    best = min(
        max(sum(c for c, w in zip(costs, where, strict=True) if w == worker) for worker in range(workers))
        for where in product(range(workers), repeat=len(costs))
    )
    assert makespan(sorted(costs, reverse=True), workers) <= best * (4 / 3 - 1 / (3 * workers)) + 1e-9


def test_seed_by_seed_finishes_a_seed_before_the_next() -> None:
    cells = [Cell("a", side, seed) for seed in (7, 2) for side in (32, 64)]
    ordered = seed_by_seed(cells, cost=lambda cell: cell.resolution)
    assert [(c.seed, c.resolution) for c in ordered] == [(7, 64), (7, 32), (2, 64), (2, 32)]
    assert longest_first(cells, cost=lambda cell: cell.resolution)[:2] == [cells[1], cells[3]]


@pytest.fixture(scope="module")
def default_grid() -> tuple[list[Cell], dict[Cell, float]]:
    config = ResoMapConfig()
    cost = predicted_cost(config, num_classes=2)
    cells = build.cells(config)
    return cells, {cell: cost(cell) for cell in cells}


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 64])
def test_default_grid_ends_within_a_tenth_of_the_lower_bound(default_grid, workers: int) -> None:
    cells, cost = default_grid
    assert len(cells) == 13 * 5 * 3
    ordered = [cost[cell] for cell in longest_first(cells, cost.__getitem__)]
    assert makespan(ordered, workers) <= 1.10 * lower_bound(ordered, workers)


def test_predicted_cost_follows_counted_operations(default_grid) -> None:
    _, cost = default_grid
    # resnet18: 1,813.6 M and mobilenet_v3_small 55.5 M multiply-accumulates at 224 px (published, two classes).
    ratio = cost[Cell("resnet18", 224, 0)] / cost[Cell("mobilenet_v3_small", 224, 0)]
    assert ratio == pytest.approx(1813.6 / 55.5, rel=0.01)
    # resnet18 at 512 px: 9,474.9 M, in proportion to the pixels.
    assert cost[Cell("resnet18", 512, 0)] / cost[Cell("resnet18", 224, 0)] == pytest.approx(9474.9 / 1813.6, rel=0.01)


def test_model_that_cannot_be_counted_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ResolutionError("needs values")

    config = ResoMapConfig()
    known = predicted_cost(config, num_classes=2)(Cell("vgg16", 512, 0))
    monkeypatch.setattr(complexity, "get_model_complexity", refuse)
    assert predicted_cost(config, num_classes=2)(Cell("tiny_cnn", 224, 0)) > known


def test_predicted_cost_counts_the_epochs() -> None:
    config = ResoMapConfig.model_validate({"sweep": {"models": ["tiny_cnn"], "resolutions": [32, 64], "seeds": [0]}})
    cost = predicted_cost(config, num_classes=2, epochs=lambda cell: 12 if cell.resolution == 32 else 2)
    assert cost(Cell("tiny_cnn", 32, 0)) == 1.5 * cost(Cell("tiny_cnn", 64, 0))
