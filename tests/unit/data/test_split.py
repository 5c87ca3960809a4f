"""The stratified split: right shares, groups kept whole, a pure function of seed and image ids."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resomap.data.split import split_images
from resomap.errors import DatasetError
from resomap.records import ImageRecord

NAMES = [f"class{k}" for k in range(5)]


def images(*counts: int) -> list[ImageRecord]:
    return [
        ImageRecord(f"{label}/{i:04d}.png", Path(f"/data/{label}/{i:04d}.png"), label)
        for label, count in enumerate(counts)
        for i in range(count)
    ]


def split(records, *, groups=(), seed=0, **fractions):
    return split_images(records, class_names=NAMES, fractions=fractions, seed=seed, groups=groups)


def test_split_images_takes_each_class_by_its_share():
    # 100 and 20 images: test 0.1 -> 10 and 2; val 0.2 -> 20 and 4
    parts = split(images(100, 20), test=0.1, val=0.2)
    assert {name: Counter(r.label for r in part) for name, part in parts.items()} == {
        "train": {0: 70, 1: 14},
        "test": {0: 10, 1: 2},
        "val": {0: 20, 1: 4},
    }


def test_split_images_gives_a_small_class_one_image_everywhere():
    parts = split(images(3, 100), test=0.1, val=0.1)
    assert {name: sum(r.label == 0 for r in part) for name, part in parts.items()} == {
        "train": 1,
        "test": 1,
        "val": 1,
    }


def test_split_images_leaves_something_for_train():
    # round(3 * 0.5) = 2 and round(3 * 0.4) = 1 would leave nothing
    parts = split(images(3, 3), val=0.5, test=0.4)
    assert all(Counter(r.label for r in part) == {0: 1, 1: 1} for part in parts.values())


def test_split_images_does_not_depend_on_the_order_it_is_given():
    records = images(30, 30)
    shuffled = random.Random(1).sample(records, len(records))
    assert split(shuffled, val=0.2) == split(records, val=0.2)


def test_split_images_hardly_moves_when_images_are_added():
    before = split(images(200, 200), val=0.2, test=0.2)
    after = split(images(201, 200), val=0.2, test=0.2)
    side = {r.image_id: name for name, part in before.items() for r in part}
    moved = sum(side.get(r.image_id, name) != name for name, part in after.items() for r in part)
    assert moved <= 2


def test_split_images_keeps_its_test_when_val_changes():
    assert split(images(50, 50), test=0.2, val=0.1)["test"] == split(images(50, 50), test=0.2, val=0.3)["test"]


def test_split_images_refuses_classes_that_are_too_small():
    with pytest.raises(DatasetError, match="needs 3 images of each class; class1 has 2; add images"):
        split(images(10, 2), val=0.1, test=0.1)


def test_split_images_refuses_groups_that_leave_a_class_out():
    records = images(10, 10)
    with pytest.raises(DatasetError, match=r"left in class0 \(10 images, none left for val and test\)"):
        split(records, groups=[records[:10]], val=0.2, test=0.2)


def test_split_images_moves_a_group_where_a_class_would_be_missing():
    # Class 0 consists of three groups of 4, too large for its share of 2, yet every split needs one.
    records = images(12, 12)
    groups = [records[0:4], records[4:8], records[8:12]]
    parts = split(records, groups=groups, val=0.15, test=0.15)
    assert [sum(r.label == 0 for r in part) for part in parts.values()] == [4, 4, 4]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(12, 40), min_size=2, max_size=5),
    sizes=st.lists(st.integers(2, 5), max_size=4),
    shares=st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4)),
    seed=st.integers(0, 2**32),
)
def test_split_images_is_a_partition_that_keeps_groups_whole(counts, sizes, shares, seed):
    records = images(*counts)
    rest = random.Random(seed).sample(records, len(records))
    groups = [[rest.pop() for _ in range(size)] for size in sizes]
    try:
        parts = split(records, groups=groups, seed=seed, val=shares[0], test=shares[1])
    except DatasetError:
        assert groups  # without groups every class of 3 or more can be split
        return
    assert sorted(r.image_id for part in parts.values() for r in part) == sorted(r.image_id for r in records)
    side = {r.image_id: name for name, part in parts.items() for r in part}
    assert all(len({side[r.image_id] for r in group}) == 1 for group in groups)
    assert all({r.label for r in part} == set(range(len(counts))) for part in parts.values())
