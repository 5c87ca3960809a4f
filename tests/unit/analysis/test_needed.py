"""How much more data would tell: by brute force on the bounds that decide, and by the textbook's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from resomap.analysis.needed import NOTHING, Need, for_difference, for_mean, most
from resomap.analysis.statistics.intervals import Estimate, difference_estimate, mean_estimate

LARGE = 1e9
"""Degrees of freedom of a normal distribution."""


def test_a_perfect_score_needs_the_images_with_which_wilsons_bound_reaches_what_is_asked() -> None:
    # Errors are not seen, so that noise adds nothing: the bound alone decides, and reaches 0.99 with 270 images.
    assert [mean_estimate(np.ones((2, n)), level=0.9).low >= 0.99 for n in (269, 270)] == [False, True]
    assert for_mean(mean_estimate(np.ones((2, 20)), level=0.9), 0.99, 0.95) == Need(250, None)


@pytest.mark.parametrize(("share", "least"), [(0.92, 0.9), (0.52, 0.5), (0.88, 0.9)])
def test_a_share_needs_the_images_of_the_usual_formula(share: float, least: float) -> None:
    values = (np.arange(1000) < 1000 * share).astype(float)
    images = for_mean(mean_estimate(values[None], level=0.9), least, 0.95).images
    root = 1.645 * math.sqrt(least * (1 - least)) + 0.842 * math.sqrt(share * (1 - share))
    expected = (root / (share - least)) ** 2  # Fleiss, Levin and Paik 2003, section 2.4
    assert images is not None
    assert images + 1000 == pytest.approx(expected, rel=0.01)


def test_two_that_never_right_need_the_images_with_which_the_added_pair_weighs_little() -> None:
    # A single image says nothing, and 20 of them 0.086: the added pair's error is 1 / N, not 1 / sqrt(N).
    for held in (1, 20):
        found = difference_estimate(np.ones((2, held)), np.ones((2, held)))
        assert for_difference(found, 0.01, 0.95).images == 166 - held
    bounds = [difference_estimate(np.ones((2, n)), np.ones((2, n))).one_sided_high(0.95) for n in (165, 166)]
    assert bounds[0] > 0.01 > bounds[1]


def test_images_and_seeds_each_leave_what_the_other_adds() -> None:
    # 3000 images, 2 seeds: a variance of 5e-5 by seeds and 1.0376e-4 by images.
    found = Estimate(-0.03, -0.06, 0.0, (1.5376e-4 + 1 / 3000**2) ** 0.5, LARGE, 3000, 2, 1e-4)
    need = for_difference(found, 0.03, 0.95)
    wanted = (0.03 / (1.645 + 0.842)) ** 2  # 1.455e-4
    assert need.images == pytest.approx(3000 * 1.0376e-4 / (wanted - 5e-5) - 3000, abs=15)
    assert need.seeds == math.ceil(1e-4 / (wanted - 1.0376e-4) - 2) == 1
    # Where the seeds alone are too much, no number of images would do.
    assert for_difference(found, 0.015, 0.95) == NOTHING


def test_the_images_that_are_named_tell_in_four_of_five_studies() -> None:
    # Equal options, each right in 80 % of images on its own; the first 400 happen to say so exactly.
    found = Estimate(0.0, -1.0, 1.0, math.sqrt(2 * 0.16 / 400), 399.0, 400, 1, 0.0)
    images = for_difference(found, 0.04, 0.95).images
    assert images is not None
    images += 400
    assert images == pytest.approx(2 * 0.16 * ((1.645 + 0.842) / 0.04) ** 2, rel=0.01)
    rng = np.random.default_rng(0)
    right = rng.binomial(images, 0.8, (2, 4000))
    value = (right[0] - right[1]) / images
    told = value - stats.norm.ppf(0.95) * math.sqrt(2 * 0.16 / images) > -0.04
    assert told.mean() == pytest.approx(0.8, abs=0.03)


def test_nothing_tells_that_a_value_is_what_it_is_not() -> None:
    found = difference_estimate(np.eye(10)[:1], np.ones((1, 10)))
    assert for_difference(found, found.value + 0.01, 0.95) == NOTHING
    assert for_mean(mean_estimate(np.ones((1, 5)), level=0.9), 1.0, 0.95) == NOTHING


def test_several_need_what_the_neediest_does() -> None:
    assert most([Need(150, 2), Need(3000, 1)]) == Need(3000, 2)
    assert most([Need(150, None), Need(3000, 1)]) == Need(3000, None)


def test_a_need_is_said_with_two_digits_and_with_the_split() -> None:
    assert Need(146, 12).words("val") == "about 150 more images in val or about 12 more seeds"
    assert Need(1, None).words("val") == "about 1 more image in val"
    assert Need(8776, None).words("val") == "about 8800 more images in val"
    assert Need(398_634, None).words("val") == "more than 100000 more images in val"
    assert Need(None, 1).words("val") == "about 1 more seed"
    assert NOTHING.words("val") == "more images and more seeds together"
