"""The order in which options are tested, by hand, and how often any passes wrongly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from resomap.analysis.statistics.noninferiority import fallback, fixed_sequence

MODELS, SIDES = ["a", "a", "b", "a"], [64, 256, 96, 128]


def test_the_sequence_ends_at_the_first_that_fails() -> None:
    # a at 128 px is the reference; 256 px is no step, 64 px follows. b's only one fails.
    passed = fixed_sequence(MODELS, SIDES, [-0.005, -0.02, -0.03, 0.0], reference=3, margin=0.01)
    assert passed.tolist() == [True, False, False, True]
    # b at 96 px is the reference: a at 256 px fails, and what comes after it with it.
    passed = fixed_sequence(MODELS, SIDES, [-0.005, -0.02, 0.0, -0.005], reference=2, margin=0.01)
    assert passed.tolist() == [False, False, True, False]


def test_error_is_shared_out_by_model_and_handed_on_by_what_passes() -> None:
    asked: dict[int, float] = {}

    def passes(i: int, error: float) -> bool:
        asked[i] = error
        return i != 3  # a at 128 px fails

    passed, errors = fallback(MODELS, SIDES, np.ones(4, bool), passes, error=0.04)
    # a has 0.02: half of it for 256 px, a quarter for each of the others; 64 px gets nothing from 128 px.
    assert asked == pytest.approx({1: 0.01, 3: 0.015, 0: 0.005, 2: 0.02})
    assert errors.tolist() == pytest.approx([asked[i] for i in range(4)])
    assert passed.tolist() == [True, True, True, False]
    # What does not fit is not tested: all of the error is a's, and 128 px its largest.
    _, errors = fallback(MODELS, SIDES, np.array([True, False, False, True]), lambda i, error: True, error=0.04)
    assert errors.tolist() == pytest.approx([0.04, 0, 0, 0.02])


@pytest.mark.parametrize("together", [0.0, 0.9])
def test_where_none_reaches_it_any_passes_in_5_percent_at_most(together: float) -> None:
    # 20 options whose test statistics are at the border, independent or alike.
    rng = np.random.default_rng(0)
    models, sides = [m for m in "abcd" for _ in range(5)], [32, 48, 64, 96, 128] * 4
    any_passes = 0
    for _ in range(2000):
        z = together**0.5 * rng.standard_normal() + (1 - together) ** 0.5 * rng.standard_normal(20)
        passed, _ = fallback(models, sides, np.ones(20, bool), lambda i, e, z=z: z[i] > -special.ndtri(e), error=0.05)
        any_passes += passed.any()
    assert any_passes <= 0.05 * 2000 + 20  # two standard errors
