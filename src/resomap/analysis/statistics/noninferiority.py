"""Which of many options pass a test, so that any passes wrongly in no more than the error of one test.

Options are models at resolutions. Each model gets an equal part of the error (Bonferroni), and its sizes are tested
from the largest down: an order that does not depend on what they achieve.

Legend: C options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def largest_first(models: Sequence[str], resolutions: Sequence[int], model: str) -> list[int]:
    """Positions of a model's options."""
    return sorted((i for i, name in enumerate(models) if name == model), key=lambda i: -resolutions[i])


def fixed_sequence(
    models: Sequence[str], resolutions: Sequence[int], bounds: Sequence[float], *, reference: int, margin: float
) -> np.ndarray:
    """(C,) bool: shown not to be inferior to the reference. Down each model's resolutions, up to the first that fails.

    Args:
        bounds: lower ones of the differences from the reference.
    Reference: Maurer, Hothorn and Lehmacher 1995.
    """
    passed = np.zeros(len(models), bool)
    for model in set(models):
        order = largest_first(models, resolutions, model)
        if model == models[reference]:
            # Larger ones than the reference cost more and are no better: they are no step of the sequence.
            for i in order:
                passed[i] = resolutions[i] > resolutions[reference] and bounds[i] > -margin
            order = [i for i in order if resolutions[i] <= resolutions[reference]]
        for i in order:
            if i != reference and not bounds[i] > -margin:
                break
            passed[i] = True
    return passed


def fallback(
    models: Sequence[str],
    resolutions: Sequence[int],
    allowed_C: np.ndarray,
    passes: Callable[[int, float], bool],
    *,
    error: float,
) -> tuple[np.ndarray, np.ndarray]:
    """((C,) bool: passed, (C,) the error at which each was tested, 0 where it was not).

    Half of a model's part of the error is its largest size's, the rest that of the others in equal parts, and each that
    passes hands its own on to the next smaller one. So a largest size that fails, as one may that is too large for the
    network, does not keep the others from passing, and where all pass the smallest is tested at the model's whole part.

    Args:
        allowed_C: bool, those to be tested; must not depend on the data of the test.
        passes: (position, error) -> whether the option passes a test that errs at most so often.
        error: of all tests together.
    Reference: Wiens 2003, Pharmaceutical Statistics 2, 211-215 (the fallback procedure).
    """
    passed, errors = np.zeros(len(models), bool), np.zeros(len(models))
    tested = {model for model, allowed in zip(models, allowed_C, strict=True) if allowed}
    for model in tested:
        order = [i for i in largest_first(models, resolutions, model) if allowed_C[i]]
        others = len(order) - 1
        handed_on = 0.0
        for step, i in enumerate(order):
            part = 1.0 if not others else 0.5 if step == 0 else 0.5 / others
            errors[i] = handed_on + part * error / len(tested)
            passed[i] = passes(i, errors[i])
            handed_on = errors[i] if passed[i] else 0.0
    return passed, errors
