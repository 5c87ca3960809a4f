"""How an epoch is cut: by hand, and as properties over all sizes and ranks."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.data.epoch_plan import MicroBatch, plan_epoch, smallest_part
from resomap.errors import ConfigError


@st.composite
def epochs(draw: st.DrawFn) -> dict[str, int]:
    effective = draw(st.integers(1, 40))
    return {
        "n": draw(st.integers(1, 200)),
        "effective_batch": effective,
        "micro_batch": draw(st.integers(1, effective)),
        "world_size": draw(st.integers(1, 5)),
    }


def plans(n: int, *, world_size: int, **settings: int) -> list[list[MicroBatch]]:
    return [plan_epoch(n, rank=rank, world_size=world_size, **settings) for rank in range(world_size)]


def spans(plan: list[MicroBatch]) -> list[tuple[int, int, int]]:
    return [(part.update, part.start, part.stop) for part in plan]


def test_plan_epoch_cuts_full_updates_equally_and_leftovers_nearly_so():
    # 10 images, updates of 4 in micro-batches of 2: 4 + 4 + 2.
    plan = plan_epoch(10, effective_batch=4, micro_batch=2)
    assert spans(plan) == [(0, 0, 2), (0, 2, 4), (1, 4, 6), (1, 6, 8), (2, 8, 10)]
    assert [part.share for part in plan] == [0.5, 0.5, 0.5, 0.5, 1.0]
    assert [part.ends_update for part in plan] == [False, True, False, True, True]
    # 11 = 8 + 3: the leftover 3 are cut into 2 + 1.
    assert spans(plan_epoch(11, effective_batch=8, micro_batch=2))[4:] == [(1, 8, 10), (1, 10, 11)]


def test_plan_epoch_joins_a_single_leftover_to_the_update_before():
    # 9 = 4 + 4 + 1: the second update takes 5, in ceil(5 / 4) = 2 parts.
    assert spans(plan_epoch(9, effective_batch=4, micro_batch=4)) == [(0, 0, 4), (1, 4, 6), (1, 6, 9)]
    assert [part.share for part in plan_epoch(9, effective_batch=4, micro_batch=4)] == [1.0, 0.4, 0.6]


def test_plan_epoch_keeps_updates_of_one_where_one_was_asked_for():
    assert spans(plan_epoch(3, effective_batch=1, micro_batch=1)) == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]


def test_plan_epoch_of_one_image_is_one_update():
    assert plan_epoch(1, effective_batch=8, micro_batch=4) == [MicroBatch(0, 0, 1, 1.0, True)]


def test_plan_epoch_gives_part_j_to_rank_j_mod_world_and_pads_with_share_zero():
    # 6 images, one update in 3 micro-batches of 2, two ranks: rank 1 has one part less and repeats the first.
    first, second = plans(6, effective_batch=6, micro_batch=2, world_size=2)
    assert spans(first) == [(0, 0, 2), (0, 4, 6)]
    assert spans(second) == [(0, 2, 4), (0, 0, 2)]
    assert [part.share for part in first] == [1 / 3, 1 / 3]
    assert [part.share for part in second] == [1 / 3, 0.0]
    assert [part.ends_update for part in second] == [False, True]


@given(epochs())
def test_plan_epoch_takes_every_image_once_with_shares_of_one(settings):
    n = settings.pop("n")
    per_update, seen = defaultdict(list), []
    for plan in plans(n, **settings):
        for part in plan:
            if part.share:
                per_update[part.update].append(part)
                seen += range(part.start, part.stop)
    assert sorted(seen) == list(range(n))
    for update, parts in per_update.items():
        size = sum(part.stop - part.start for part in parts)
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert all(part.share == pytest.approx((part.stop - part.start) / size) for part in parts)
        # Only the last update may differ: fewer images, or one more.
        if update < max(per_update):
            assert size == settings["effective_batch"]
        assert size <= settings["effective_batch"] + 1
        assert size > 1 or n == 1 or settings["effective_batch"] == 1


@given(epochs())
def test_plan_epoch_bounds_micro_batches_and_keeps_their_sizes_within_one(settings):
    sizes = defaultdict(set)
    for plan in plans(settings.pop("n"), **settings):
        for part in plan:
            sizes[part.update].add(part.stop - part.start)
    assert len(sizes) > 0
    for seen in sizes.values():
        assert min(seen) >= 1
        assert max(seen) <= settings["micro_batch"]
        assert max(seen) - min(seen) <= 1


@given(epochs())
def test_plan_epoch_keeps_ranks_in_step(settings):
    ranks = plans(settings.pop("n"), **settings)
    steps = [[(part.update, part.ends_update) for part in plan] for plan in ranks]
    assert all(rank == steps[0] for rank in steps)
    ends = [update for update, ends_update in steps[0] if ends_update]
    assert ends == sorted({update for update, _ in steps[0]})


@given(epochs())
def test_plan_epoch_has_the_same_micro_batches_for_any_number_of_ranks(settings):
    n, world = settings.pop("n"), settings.pop("world_size")
    alone = {(p.update, p.start, p.stop, p.share) for p in plan_epoch(n, **settings)}
    shared = {
        (p.update, p.start, p.stop, p.share) for plan in plans(n, world_size=world, **settings) for p in plan if p.share
    }
    assert shared == alone


@pytest.mark.parametrize(("micro", "effective"), [(0, 4), (5, 4), (-1, 4)])
def test_plan_epoch_refuses_micro_batches_beyond_the_update(micro, effective):
    with pytest.raises(ConfigError, match=f"micro_batch: expected 1 to the effective batch {effective}, got {micro}"):
        plan_epoch(10, effective_batch=effective, micro_batch=micro)


def test_plan_epoch_refuses_no_images():
    with pytest.raises(ConfigError, match="no images"):
        plan_epoch(0, effective_batch=4, micro_batch=2)


@given(epochs())
def test_smallest_part_is_that_of_the_plan(epoch: dict[str, int]) -> None:
    settings = {name: epoch[name] for name in ("n", "effective_batch", "micro_batch")}
    assert smallest_part(**settings) == min(part.stop - part.start for part in plan_epoch(**settings))
