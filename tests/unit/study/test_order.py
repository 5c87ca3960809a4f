"""In which order one process runs the cells of a study."""

from __future__ import annotations

import pytest

from resomap.study.claimed_cells import Work

MATCHED = {"epochs": 20, "budget": "compute_matched"}


@pytest.fixture
def order(make_context):
    def of(*, is_shared: bool, models=("tiny_cnn",), resolutions=(32,), seeds=(0,), **training):
        sweep = {"models": list(models), "resolutions": list(resolutions), "seeds": list(seeds)}
        context = make_context(sweep=sweep, training=training)
        cells = sorted(context.cells, key=lambda cell: cell.resolution)
        cells.sort(key=lambda cell: seeds.index(cell.seed))
        found = Work(context, before={}, tracker=None, stop=None).in_order(cells, is_shared=is_shared)
        return [(cell.model, cell.resolution, cell.seed) for cell in found]

    return of


@pytest.mark.parametrize("is_shared", [False, True])
def test_what_is_halved_begins_with_the_largest_whatever_it_costs(order, is_shared) -> None:
    """Compute-matched runs cost the same up to the rounding of their epochs, which would be the order."""
    sides = (224, 256, 320, 384, 512)
    found = order(is_shared=is_shared, resolutions=sides, successive_halving=True, **MATCHED)
    assert [side for _, side, _ in found] == sorted(sides, reverse=True)


def test_the_largest_of_all_models_come_before_any_smaller(order) -> None:
    asked = {"models": ("tiny_cnn", "resnet18"), "resolutions": (64, 96), "seeds": (1, 0)}
    largest_first = [("resnet18", 96), ("tiny_cnn", 96), ("resnet18", 64), ("tiny_cnn", 64)]
    found = order(is_shared=False, successive_halving=True, **asked)
    assert found == [(model, side, seed) for seed in (1, 0) for model, side in largest_first]
    found = order(is_shared=True, successive_halving=True, **asked)
    assert found == [(model, side, seed) for model, side in largest_first for seed in (1, 0)]
    # Without it the longest come first: resnet18 at 64 px takes longer than tiny_cnn at 96 px.
    found = order(is_shared=False, **asked)
    assert [(model, side) for model, side, seed in found if seed == 1] == [
        ("resnet18", 96), ("resnet18", 64), ("tiny_cnn", 96), ("tiny_cnn", 64)
    ]  # fmt: skip
