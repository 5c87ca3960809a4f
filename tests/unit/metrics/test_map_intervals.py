"""Intervals of maps' energy and hits, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from resomap.metrics.classification import wilson_interval
from resomap.metrics.map_intervals import pooled_energy, share_interval


def test_pooled_by_hand() -> None:
    inside, total = np.array([[4.0, 0.0]]), np.array([[1.0, 1.0]])
    found = pooled_energy(inside, total, draws=200)
    # Both images: 4 of 2. Drawn anew: the first twice 4, the second twice 0.
    assert (found.value, found.low, found.high) == (2, 0, 4)
    assert pooled_energy(inside, total, over=(inside, total), draws=200).value == 1
    assert pooled_energy(0 * inside, 0 * total, draws=200).value is None


def test_two_networks_that_differ_leave_it_open_by_hand() -> None:
    # Figures 2 and 4, the same in all images: 1/3 either side of 3. Two networks' mean has the variance (2/9) / 2, and
    # Student's t with one degree of freedom is 12.706.
    inside = np.array([[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    found = pooled_energy(inside, np.ones((2, 3)))
    half = 12.7062 / 3
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 * np.exp(-half), 3 * np.exp(half)), rel=1e-3)
    # Networks that agree add nothing to the images: figures 1 and 3, variance (1/2) / 4 of the relative mean.
    alike = pooled_energy(np.array([[1.0, 3.0]] * 3), np.ones((3, 2)))
    assert alike.high == pytest.approx(2 * np.exp(12.7062 / 2), rel=1e-3)
    assert pooled_energy(0 * inside, np.ones((2, 3))).low is None


def test_maps_that_all_hit_do_not_prove_that_all_will() -> None:
    # Wilson's low end is n / (n + z^2), n being 16 (1.960 / 2.131)^2 for Student's t with 15 degrees of freedom.
    found = share_interval(np.array([1.0] * 16 + [np.nan]), networks=1)
    assert (found.value, found.low, found.high) == pytest.approx((1, 13.53 / (13.53 + 3.841), 1), abs=1e-3)
    # 3 of 4 hit: the variance of the mean is (1/4) / 4, so 3 trials times (1.960 / 3.182)^2.
    found = share_interval(np.array([1.0, 1.0, 1.0, 0.0]), networks=1)
    expected = wilson_interval(0.75 * 3 * 0.3794, 3 * 0.3794)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-3)
    assert share_interval(np.array([np.nan]), networks=2).value is None
