"""Our statistics beside what R 4.2.2 printed: statistics.R made statistics.txt. The tests need no R."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resomap.analysis.saturation import fit_saturation
from resomap.analysis.scaling import fit_cost_curve
from resomap.analysis.statistics.intervals import difference_estimate, two_sided_p
from resomap.analysis.statistics.paired import cochran_q, holm, mcnemar
from resomap.analysis.statistics.seed_variance import mean_squares
from resomap.metrics.classification import wilson_interval

PRINTED = {
    name: [float(value) for value in values]
    for name, *values in map(str.split, Path(__file__).with_name("statistics.txt").read_text("utf-8").splitlines())
}


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (7, 10), (432, 500), (9731, 10000)])
def test_wilson(right: int, images: int) -> None:
    assert wilson_interval(right, images) == pytest.approx(PRINTED[f"wilson_{right}_{images}"], abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [(9, 3), (0, 6), (40, 25), (5, 5)])
def test_mcnemar(first: int, second: int) -> None:
    a = np.array([1] * first + [0] * second + [1] * 20, bool)
    b = np.array([0] * first + [1] * second + [1] * 20, bool)
    assert mcnemar(a, b, mid_p=False) == pytest.approx(PRINTED[f"mcnemar_exact_{first}_{second}"][0])
    assert mcnemar(a, b) == pytest.approx(PRINTED[f"mcnemar_mid_{first}_{second}"][0])


def test_cochran_q_and_that_with_two_groups_it_is_mcnemar_s() -> None:
    right = np.array(
        [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1],
         [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]], bool
    )  # fmt: skip
    statistic, _, p = PRINTED["cochran_q"]
    assert cochran_q(right) == pytest.approx((statistic, p))
    assert statistic == pytest.approx(PRINTED["cochran_q_by_formula"][0])
    two = np.array([[1, 0]] * 40 + [[0, 1]] * 25 + [[1, 1]] * 30 + [[0, 0]] * 5, bool)
    assert cochran_q(two) == pytest.approx(PRINTED["mcnemar_chi_40_25"])


def test_holm() -> None:
    assert holm([0.04, 0.001, 0.02, 0.3, 0.02, 0.6]) == pytest.approx(PRINTED["holm"])


def test_the_saturating_power_law() -> None:
    sides = (64, 96, 128, 192, 256, 384)
    values = np.array([0.612, 0.758, 0.821, 0.874, 0.897, 0.911])
    law = fit_saturation(sides, values, se_R=np.full(6, 0.003), df=100, delta=0.01)
    assert law is not None
    assert (law.top, law.drop, law.rate) == pytest.approx(PRINTED["power_law"], rel=0.01)
    assert law.at(160) == pytest.approx(PRINTED["power_law_at_160"][0], abs=2e-4)
    assert law.worst_residual == pytest.approx(PRINTED["power_law_worst_residual"][0], abs=3e-4)


def test_the_cost_curve() -> None:
    sides, ms = (64, 96, 128, 192, 256, 384), [6.1, 9.2, 13.9, 26.4, 45.8, 98.7]
    curve = fit_cost_curve(sides, [[value] for value in ms])
    assert curve is not None
    fixed, scale, exponent = PRINTED["cost_curve"]
    assert curve.exponent == pytest.approx(exponent, abs=0.01)
    assert curve.fixed == pytest.approx(fixed, abs=0.05)
    assert curve.scale * 384**curve.exponent == pytest.approx(scale, rel=0.005)


def test_the_two_way_layout() -> None:
    answers = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1], float)
    values_SN = answers.reshape(8, 3).T
    images, seeds, rest = PRINTED["mean_squares_image_seed_rest"]
    found = mean_squares(values_SN)
    assert (found.of_images, found.of_seeds, found.of_rest) == pytest.approx((images, seeds, rest))


def test_a_difference_of_one_seed_is_the_paired_t_test_with_one_more_image_on_either_side() -> None:
    a = np.array([1, 1, 0, 1, 0, 1, 1, 1, 1, 0] * 10, float)
    b = np.array([1, 0, 0, 1, 0, 1, 1, 1, 0, 0] * 5 + [1, 1, 0, 1, 1, 1, 1, 1, 1, 0] * 5, float)
    value, error, df, p = PRINTED["paired_t"]
    found = difference_estimate(a, b)
    assert (found.value, found.df) == pytest.approx((value, df))
    assert found.se**2 - 1 / 100**2 == pytest.approx(error**2)
    assert two_sided_p(found) == pytest.approx(p, rel=0.1)
