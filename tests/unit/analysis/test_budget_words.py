"""What the recommendation says where the budget is too small, and where runs were stopped before their end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resomap.analysis.recommend import recommend
from resomap.analysis.records import CANNOT_TELL, NONE_FITS, RECOMMEND, Budget, Option, Recommendation, StoppedOption

SIDES = (32, 64, 128)
SMALL = StoppedOption("m", 16, 0.11, 0.1)


def _options(
    *right: int, latency: tuple[float, ...] = (1, 2, 4), memory: tuple[float, ...] = (1, 2, 4)
) -> list[Option]:
    """100 images, one seed, of which so many are right."""
    values = [(np.arange(100) < count).astype(float)[None] for count in right]
    costs = zip(SIDES, values, latency, memory, strict=False)
    return [Option("m", side, v, v, ms, (ms, 1.01 * ms), mib) for side, v, ms, mib in costs]


def _recommend(options: list[Option], **about: Any) -> Recommendation:
    return recommend(options, draws=50, **{"delta": 0.05, "stopped": [SMALL], "stopped_margin": 0.05} | about)


def test_nothing_is_said_to_be_cheaper_only_where_nothing_is() -> None:
    found = _recommend(_options(95))
    assert (found.status, found.resolution) == (RECOMMEND, 32)
    assert found.sentence.endswith(
        "; nothing cheaper was trained to its end (m at 16 px was stopped early, shown to be worse than the best run "
        "by more than 0.05)."
    )
    assert _recommend(_options(95), stopped=[]).sentence.endswith("; nothing is cheaper.")
    dearer = StoppedOption("m", 48, 1.5, 1.5)
    assert _recommend(_options(95), stopped=[dearer]).sentence.endswith("; nothing is cheaper.")
    unknown = StoppedOption("m", 16, None, None)
    assert "nothing cheaper was trained to its end" in _recommend(_options(95), stopped=[unknown]).sentence


@pytest.mark.parametrize(
    ("right", "about"),
    [
        ((95,), {"delta": 0.9}),  # worse by more than 0.05 may be worse by less than 0.9
        ((60, 95), {"budget": Budget(max_latency_ms=1.5)}),  # worse than 95 %, and who knows whether than 60 %
    ],
)
def test_an_option_that_was_stopped_for_less_than_it_may_lose_keeps_the_choice_open(
    right: tuple[int, ...], about: dict[str, Any]
) -> None:
    found = _recommend(_options(*right), **about)
    assert (found.status, found.resolution) == (CANNOT_TELL, 32)
    assert found.sentence.startswith(
        "Cannot tell whether m at 16 px would do: stopped early, shown to be worse than the best run by more than 0.05 "
        "(training to the end would tell). The safe choice until then is m at 32 px: "
    )
    assert found.would_change == (
        "m at 16 px was stopped early, shown to be worse than the best run by more than 0.05: training it to its end "
        "would show whether it does.",
    )
    large = StoppedOption("m", 16, 1.7, 0.1)  # neither cheaper nor within the limit
    assert _recommend(_options(*right), **about, stopped=[large]).status == RECOMMEND


def test_a_stopped_option_that_fits_is_named_where_no_other_does() -> None:
    found = _recommend(_options(95), budget=Budget(max_latency_ms=0.2))
    assert (found.status, found.reference) == (NONE_FITS, "m at 32 px")
    assert found.sentence == (
        "No option that was trained to its end fits the budget of 0.2 ms: the fastest is m at 32 px with 1.00 ms; m at "
        "16 px was stopped early, and may fit."
    )
    assert _recommend(_options(95), budget=Budget(max_latency_ms=0.1)).sentence.endswith("with 1.00 ms.")
    reached = _recommend(_options(60), budget=Budget(min_metric=0.9)).sentence
    assert reached.startswith("No option that was trained to its end fits: the best within the budget, m at 32 px, has")


def test_a_budget_that_none_fits_is_named_with_what_each_costs_of_it() -> None:
    options = _options(90, 95, latency=(1, 8), memory=(20, 5))
    found = _recommend(options, stopped=[], budget=Budget(max_latency_ms=5, max_memory_mib=10))
    assert (found.status, found.reference) == (NONE_FITS, "m at 64 px")
    assert found.sentence == (
        "No option fits the budget of 5 ms and 10 MiB: the fastest is m at 32 px with 1.00 ms and 20.0 MiB, the "
        "smallest m at 64 px with 8.00 ms and 5.0 MiB."
    )
    only_memory = _recommend(options, stopped=[], budget=Budget(max_memory_mib=4.99)).sentence
    assert only_memory == "No option fits the budget of 4.99 MiB: the smallest is m at 64 px with 5.0 MiB."


def test_figures_do_not_read_as_the_limit_that_they_miss() -> None:
    near = _options(95, latency=(5.004,))
    found = _recommend(near, stopped=[], budget=Budget(max_latency_ms=5))
    assert found.sentence == "No option fits the budget of 5 ms: the fastest is m at 32 px with 5.004 ms."
    images = (np.arange(10_000) < 9496).astype(float)[None]
    option = Option("m", 32, images, images, 1, (1, 1.01), 1)
    found = _recommend([option], stopped=[], budget=Budget(min_metric=0.95))
    assert "has accuracy 0.9496 on val" in found.sentence


def test_an_option_beyond_the_budget_that_beats_chance_is_named() -> None:
    chance = (0.5, "always answering bees")
    found = _recommend(_options(50, 95), stopped=[], budget=Budget(max_latency_ms=1.5), chance=chance)
    assert found.status == CANNOT_TELL
    assert found.sentence.startswith(
        "Cannot tell: no option within the budget is shown to be better than chance (accuracy 0.500, always answering "
        "bees). The best so far there, m at 32 px, has 0.500 on val (at least "
    )
    assert found.sentence.endswith(": raise the budget (m at 64 px is), train longer, or on more images.")
    neither = _recommend(_options(50, 55), stopped=[], budget=Budget(max_latency_ms=1.5), chance=chance).sentence
    assert neither.startswith("Cannot tell: no option is shown")
