"""The common frame by hand, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.errors import ConfigError
from resomap.explainability.frame import coarsest_grid, support, to_common_frame

WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])


def test_pooling_by_area_by_hand() -> None:
    maps = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_allclose(to_common_frame(maps, WHOLE, grid=2), [[[2.5, 4.5], [10.5, 12.5]]])


def test_a_region_keeps_its_place() -> None:
    # Seen: the middle half of the width. A constant 1 covers cells 1 and 2 of 4 columns.
    boxes = np.array([[0.0, 0.25, 1.0, 0.5]])
    framed = to_common_frame(np.ones((1, 3, 3)), boxes, grid=4)
    np.testing.assert_allclose(framed, np.broadcast_to([0, 1, 1, 0], (1, 4, 4)))
    assert support(boxes, grid=4)[0, 0].tolist() == [False, True, True, False]
    assert support(boxes, grid=2)[0, 0].tolist() == [True, True]  # half of each is seen


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.5), st.floats(0.1, 0.5), st.integers(0, 1000))
def test_mass_is_kept(cells: int, grid: int, start: float, length: float, seed: int) -> None:
    maps = np.random.default_rng(seed).random((2, cells, cells))
    boxes = np.array([[start, 0.0, length, 1.0], [0.0, start, 1.0, length]])
    framed = to_common_frame(maps, boxes, grid=grid)
    np.testing.assert_allclose(framed.mean(axis=(1, 2)), maps.mean(axis=(1, 2)) * length)


def test_the_coarsest_grid() -> None:
    assert coarsest_grid([(5, 7, 7), (5, 12, 12)]) == 7


@pytest.mark.parametrize("boxes", [np.zeros((2, 4)), np.array([[0.5, 0.0, 0.6, 1.0]]), np.array([[-0.1, 0, 1, 1]])])
def test_regions_that_do_not_fit_are_refused(boxes: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="expected"):
        to_common_frame(np.ones((1, 2, 2)), boxes, grid=2)
