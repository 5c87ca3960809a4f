"""Sentences and warnings of the verdict."""

from __future__ import annotations

import numpy as np

from resomap.analysis.wording import few_images, over_limit, the_best
from resomap.printable import apart, share


def test_classes_with_few_images_are_named_and_the_rest_counted() -> None:
    labels = np.repeat(np.arange(9), [5, 4, 1, 3, 2, 2, 2, 2, 0])
    (line,) = few_images(labels, list("abcdefghi"), "test")
    assert line.startswith("fewer than 5 images in test: i (0), c (1), e (2), f (2), g (2) and 3 more;")
    assert list(few_images(np.repeat([0, 1], 5), ["a", "b"], "val")) == []


def test_a_share_is_shown_as_0_or_1_only_where_it_is() -> None:
    assert [share(value) for value in (1.0, 0.9996, 0.99996, 0.9994, 0.0, -0.0004, 1e-12)] == [
        "1.000", "0.9996", "0.99996", "0.999", "0.000", "-0.0004", "0.000",
    ]  # fmt: skip


def test_a_figure_does_not_read_as_the_limit_that_it_misses() -> None:
    assert [apart(value, 5, digits=2) for value in (5.004, 5.0, 5.1, 4.99999, 5 + 1e-9)] == [
        "5.004", "5.00", "5.10", "4.99999", "5.00",
    ]  # fmt: skip
    assert apart(-0.05001, -0.05, digits=3, sign="+") == "-0.05001"
    assert (apart(0.05, 0.1, digits=3, sign="+"), apart(0.05, None, digits=1)) == ("+0.050", "0.1")


def test_the_best_is_the_best_of_all_or_of_those_within_the_budget() -> None:
    assert the_best([(True, -0.1), (True, 0.0)]) == "the best"
    assert the_best([(False, -0.1), (True, 0.0)]) == "the best within the budget"
    assert the_best([(False, -0.1), (False, 0.0)]) == "the best"  # none is within the budget
    assert the_best([(True, 0.1), (True, 0.0)]) == "the best within the budget"  # better, but not shown to reach enough


def test_a_risk_of_less_than_half_a_percent_is_not_named() -> None:
    assert over_limit(0.21, 5.0) == "median latency exceeds the limit of 5 ms with a probability of 21 %"
    assert over_limit(0.004, 5.0) == over_limit(0.0, None) == ""
