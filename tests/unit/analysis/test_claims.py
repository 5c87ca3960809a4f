"""What the sentence claims: least metric, latency, budget, and how much more data would tell, each by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from resomap.analysis.recommend import recommend
from resomap.analysis.records import CANNOT_TELL, RECOMMEND, Budget, Option

SIDES = (64, 96, 128, 192)
COSTS = (1.0, 2.0, 4.0, 8.0)


def _by_hand(*right: slice) -> list[Option]:
    """100 images, one seed, each option right on a stretch of them; each twice as dear as the one before."""
    values = np.zeros((len(right), 1, 100))
    for row, stretch in zip(values, right, strict=True):
        row[0, stretch] = 1
    costs = zip(values, SIDES, COSTS, strict=False)
    return [Option("m", side, v, v, cost, (cost, 1.01 * cost), cost) for v, side, cost in costs]


def test_what_is_asked_for_is_held_against_all_options_together() -> None:
    # 93 of 100 are at least 0.875 with 95 %: enough for 0.87 alone. Of two sizes the largest is held to 97.5 %, from
    # 0.861, and does not pass; what is left to the smaller is 97.5 % too.
    alone = recommend(_by_hand(slice(0, 93)), budget=Budget(min_metric=0.87), draws=50)
    assert (alone.status, alone.resolution) == (RECOMMEND, 64)
    both = recommend(_by_hand(slice(0, 93), slice(0, 93)), budget=Budget(min_metric=0.87), draws=50)
    assert (both.status, both.resolution) == (CANNOT_TELL, None)
    # 98 of 100 are at least 0.929: they pass, and leave 95 % to the smaller one.
    handed_on = recommend(_by_hand(slice(0, 93), slice(0, 98)), budget=Budget(min_metric=0.87), delta=0.2, draws=50)
    assert (handed_on.status, handed_on.resolution) == (RECOMMEND, 64)
    # A largest size that is too large for the network keeps nothing smaller from passing.
    beyond = recommend(_by_hand(slice(0, 98), slice(0, 60)), budget=Budget(min_metric=0.87), delta=0.2, draws=50)
    assert (beyond.status, beyond.resolution) == (RECOMMEND, 64)


def test_the_option_that_is_named_is_one_that_may_reach_what_is_asked() -> None:
    # a's 800 of 1000 are 0.822 at most, b's two seeds 0.96 and 0.6: b alone may have the 0.83 that is asked for.
    same = np.arange(1000) < 800
    wide = np.arange(1000) < np.array([[960], [600]])
    options = [
        Option(name, 64, values.astype(float), values.astype(float), cost, (cost, 1.01 * cost), 1.0)
        for name, values, cost in (("a", np.stack([same, same]), 1.0), ("b", wide, 2.0))
    ]
    found = recommend(options, budget=Budget(min_metric=0.83), draws=50)
    assert found.status == CANNOT_TELL
    assert found.sentence.startswith("Cannot tell: b at 64 px has accuracy 0.780 on val, and its interval contains")


def test_a_perfect_score_is_told_how_many_images_it_lacks() -> None:
    # Wilson's one-sided bound reaches 0.99 with 270 images; 20 are there.
    option = Option("m", 64, np.ones((2, 20)), np.ones((2, 20)), 1.0, (1.0, 1.01), 1.0)
    found = recommend([option], budget=Budget(min_metric=0.99), draws=50)
    assert found.sentence == (
        "Cannot tell: m at 64 px has accuracy 1.000 on val, and its interval contains the 0.99 that is asked for; "
        "about 250 more images in val would tell."
    )


def test_several_cheaper_options_need_what_the_neediest_of_them_does() -> None:
    # Of 400 images 64 px loses one, 96 px two: 96 px is tested first, so that 64 px needs what 96 px does.
    right = np.ones((3, 1, 400))
    right[0, 0, 0] = right[1, 0, 1] = right[1, 0, 2] = 0
    options = [
        Option("m", side, v, v, cost, (cost, 1.01 * cost), 1.0)
        for side, v, cost in zip(SIDES, right, COSTS, strict=False)
    ]
    found = recommend(options, delta=0.0075, draws=50)
    counts = [re.findall(r"about (\d+) more images in val", line) for line in (found.sentence, *found.would_change)]
    assert found.sentence.startswith("Cannot tell whether m at 64 px, m at 96 px would do")
    assert counts[0] == counts[1] == counts[2]
    alone = recommend([options[0], options[2]], delta=0.0075, draws=50)
    (of_64,) = re.findall(r"about (\d+) more images in val", alone.sentence)
    assert int(of_64) < int(counts[0][0])


def test_of_options_that_are_not_shown_to_differ_in_latency_the_better_is_shipped() -> None:
    rng = np.random.default_rng(0)
    better, worse = (np.arange(1000)[None] < right for right in (960, 950))

    def ship(latency: tuple[float, float], noise: float) -> tuple[str | None, str]:
        rounds = np.array(latency) * (1 + noise * rng.standard_normal((20, 2)))
        rounds *= np.array(latency) / np.median(rounds, axis=0)
        options = [
            Option(name, 64, v.astype(float), v.astype(float), ms, tuple(rounds[:, i]), 1.0)
            for i, (name, v, ms) in enumerate(zip("wb", (worse, better), latency, strict=True))
        ]
        found = recommend(options, delta=0.03, draws=50)
        return found.model, found.sentence

    assert ship((1.0, 1.0), 0.0)[0] == "b"
    assert ship((1.0, 1.002), 0.01)[0] == "b"
    assert ship((1.0, 1.002), 0.01)[1].endswith("; nothing is measurably cheaper.")
    assert ship((1.0, 1.04), 0.01)[0] == "w"
    assert ship((1.0, 1.4), 0.5)[0] == "w"  # disturbed rounds hide it, but make it no less likely


def test_the_best_is_said_to_be_that_of_the_budget_where_another_is_better_or_does_not_fit() -> None:
    values = (slice(0, 90), slice(0, 91), slice(0, 99))
    inside = recommend(_by_hand(*values), budget=Budget(max_latency_ms=3), delta=0.2, draws=50)
    assert "2.0 times as fast as the best within the budget (m at 96 px)" in inside.sentence
    assert "4.0 times as fast as the best (m at 128 px)" in recommend(_by_hand(*values), delta=0.3, draws=50).sentence


def test_nothing_is_said_not_to_be_within_the_margin_that_is() -> None:
    # 64 px answers as the best, but the 96 px that are tested before it do not; then, it takes too much memory.
    held = recommend(_by_hand(slice(0, 90), slice(0, 60), slice(0, 91)), delta=0.05, draws=50)
    assert held.sentence.endswith("; nothing cheaper is recommended.")
    large = [replace(option, memory_mib=1 / option.memory_mib) for option in _by_hand(slice(0, 90), slice(0, 90))]
    found = recommend(large, budget=Budget(max_memory_mib=0.6), delta=0.1, draws=50)
    assert found.sentence.endswith("; nothing cheaper is recommended.")
    assert recommend(_by_hand(slice(0, 50), slice(0, 90)), delta=0.1, draws=50).sentence.endswith(
        "; nothing cheaper is shown to stay within 0.1 of it."
    )


def test_a_limit_that_may_be_exceeded_stands_beside_the_sentence() -> None:
    rounds = 4.99 * (1 + 0.04 * np.linspace(-1, 1, 11))
    values = np.ones((1, 100))
    options = [Option("m", 64, values, values, 4.99, tuple(rounds), 1.0)]
    found = recommend(options, budget=Budget(max_latency_ms=5.0), draws=500)
    chance = found.options[0].over_budget_probability
    assert 0.2 < chance < 0.5
    risk = f"Its median latency exceeds the limit of 5 ms with a probability of {100 * chance:.0f} %."
    assert found.sentence.endswith(f"; nothing is cheaper. {risk}")
    assert "exceeds" not in recommend(options, budget=Budget(max_latency_ms=6.0), draws=500).sentence
