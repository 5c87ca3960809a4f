"""Stored maps: what is written comes back, damage is named, and images are drawn by class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resomap.errors import StudyError
from resomap.explainability.store import StoredMaps, choose_images, read_maps, seen_boxes, write_maps
from resomap.records import Cell


@pytest.fixture
def stored() -> StoredMaps:
    return StoredMaps(
        cell=Cell("tiny_cnn", 32, 0),
        method="gradcam",
        key="k",
        image_ids=("test/a/1.png", "test/b/ü\n.png"),
        maps=np.arange(8, dtype=np.float32).reshape(2, 2, 2),
        boxes=np.array([[0.0, 0.125, 1.0, 0.75], [0.0, 0.0, 1.0, 1.0]]),
        labels=np.array([0, 1]),
        targets=np.array([0, 1]),
        predicted=np.array([0, 0]),
        confidence=np.array([0.75, 0.5], dtype=np.float32),
        notes={"layer": "features.2", "completeness_error": [0.1, None]},
    )


def test_maps_come_back_as_they_were_written(tmp_path: Path, stored: StoredMaps) -> None:
    write_maps(tmp_path / "gradcam.npz", stored)
    back = read_maps(tmp_path / "gradcam.npz")
    assert back is not None
    assert (back.cell, back.method, back.key, back.image_ids) == (stored.cell, "gradcam", "k", stored.image_ids)
    assert back.notes == {"layer": "features.2", "completeness_error": [0.1, None]}
    np.testing.assert_array_equal(back.maps, stored.maps)
    np.testing.assert_array_equal(back.boxes, stored.boxes)
    assert back.correct.tolist() == [True, False]


def test_maps_that_are_not_there_are_none(tmp_path: Path) -> None:
    assert read_maps(tmp_path / "none.npz") is None


@pytest.mark.parametrize("kept", [0, 40, 400])
def test_damaged_maps_are_named(tmp_path: Path, stored: StoredMaps, kept: int) -> None:
    path = tmp_path / "gradcam.npz"
    write_maps(path, stored)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StudyError, match=r"gradcam\.npz is damaged .*resomap explain"):
        read_maps(path)


def test_maps_with_one_changed_bit_are_refused_or_mean_the_same(tmp_path: Path, stored: StoredMaps) -> None:
    path = tmp_path / "gradcam.npz"
    write_maps(path, stored)
    data, refused = path.read_bytes(), 0
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        try:
            back = read_maps(path)
        except StudyError:
            refused += 1
            continue
        assert back is None or back.maps.tobytes() == stored.maps.tobytes()
        assert back is None or (back.cell, back.image_ids, back.notes) == (stored.cell, stored.image_ids, stored.notes)
    assert refused > len(data) / 6


def test_pickled_arrays_are_refused(tmp_path: Path, stored: StoredMaps) -> None:
    path = tmp_path / "gradcam.npz"
    write_maps(path, replace(stored, labels=np.array([object()], dtype=object)))
    with pytest.raises(StudyError, match="damaged"):
        read_maps(path)


def test_images_are_drawn_class_by_class() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2])
    chosen = choose_images(labels, count=7, seed=0)
    # In turn 0 1 2, 0 1, 0 1: three of class 0, three of class 1, the only one of class 2.
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 1]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert choose_images(labels, count=7, seed=0).tolist() == chosen.tolist()
    assert choose_images(labels, count=7, seed=1).tolist() != chosen.tolist()


def test_all_images_are_taken_where_there_are_fewer() -> None:
    assert choose_images([1, 0, 1], count=64, seed=3).tolist() == [0, 1, 2]


def test_seen_boxes_are_the_centre_squares() -> None:
    # 480 x 640: the square is 480 wide, 80 pixels from the left: 80/640 = 0.125, 480/640 = 0.75.
    np.testing.assert_allclose(
        seen_boxes(np.array([[480, 640], [100, 50], [7, 7]])),
        [[0, 0.125, 1, 0.75], [0.25, 0, 0.5, 1], [0, 0, 1, 1]],
    )
