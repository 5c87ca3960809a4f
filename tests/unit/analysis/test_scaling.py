"""Cost curves: planted ones come back."""

from __future__ import annotations

import numpy as np
import pytest

from resomap.analysis.scaling import fit_cost_curve

SIDES = [128, 224, 288, 384, 512]


@pytest.mark.parametrize(("fixed", "exponent"), [(0.0, 2.0), (5.0, 2.2), (2.0, 1.4)])
def test_a_planted_curve_comes_back(fixed: float, exponent: float) -> None:
    times = fixed + 20 * (np.array(SIDES) / 512) ** exponent
    curve = fit_cost_curve(SIDES, np.repeat(times[:, None], 4, axis=1))
    assert curve.exponent == pytest.approx(exponent, abs=0.02)
    assert curve.fixed == pytest.approx(fixed, abs=0.15)
    assert curve.worst_relative_error < 0.01
    assert curve.at(224) == pytest.approx(times[1], rel=0.01)


def test_the_interval_holds_the_planted_exponent_under_noise() -> None:
    rng = np.random.default_rng(0)
    clean = 5 + 20 * (np.array(SIDES) / 512) ** 2
    held = 0
    for _ in range(10):
        curve = fit_cost_curve(SIDES, clean[:, None] * rng.lognormal(0, 0.05, (len(SIDES), 25)), draws=100)
        held += curve.exponent_low - 0.01 <= 2.0 <= curve.exponent_high + 0.01
    assert held >= 7


def test_two_resolutions_have_no_curve() -> None:
    assert fit_cost_curve([64, 128], [[1.0], [2.0]]) is None
