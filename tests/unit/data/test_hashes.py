"""Content hashes: right, remembered, and indifferent to what happens to their index."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from resomap.data import hashes
from resomap.data.hashes import content_hashes, fingerprint
from resomap.records import ImageDataset, ImageRecord


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> ImageDataset:
    monkeypatch.setattr(hashes, "_SETTLE_NS", -(10**9))  # files made a moment ago count as settled
    root = tmp_path / "data"
    splits = {}
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        records = []
        for i in range(4):
            path = root / split / f"{i}.png"
            path.write_bytes(f"{split} {i}".encode())
            records.append(ImageRecord(f"{split}/{i}.png", path, i % 2))
        splits[split] = tuple(records)
    return ImageDataset("data", root, ("a", "b"), splits)


@pytest.fixture
def read_files(monkeypatch) -> list[Path]:
    """Paths of the files that were hashed anew."""
    seen: list[Path] = []
    original = hashes._hash_file
    monkeypatch.setattr(hashes, "_hash_file", lambda record: seen.append(record.path) or original(record))
    return seen


def test_content_hashes_are_equal_exactly_for_equal_content(dataset, tmp_path):
    records = dataset.splits["train"]
    records[1].path.write_bytes(records[0].path.read_bytes())
    found = content_hashes(records, cache_dir=tmp_path / "cache")
    assert list(found) == [record.image_id for record in records]
    assert found[records[0].image_id] == found[records[1].image_id]
    assert len(set(found.values())) == 3


def test_content_hashes_read_a_file_once(dataset, tmp_path, read_files):
    first = content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache")
    assert len(read_files) == 4
    assert content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache") == first
    fingerprint(dataset, cache_dir=tmp_path / "cache")
    assert len(read_files) == 8  # the four of val; both splits share one index


def test_content_hashes_notice_a_change_of_equal_size_and_time(dataset, tmp_path):
    record = dataset.splits["train"][0]
    before = content_hashes([record], cache_dir=tmp_path / "cache")
    status = os.stat(record.path)
    record.path.write_bytes(b"TRAIN 0")
    os.utime(record.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hashes([record], cache_dir=tmp_path / "cache") != before


def test_content_hashes_do_not_remember_files_that_may_still_change(dataset, tmp_path, read_files, monkeypatch):
    monkeypatch.setattr(hashes, "_SETTLE_NS", 2_000_000_000)
    for _ in range(2):
        content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache")
    assert len(read_files) == 8


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "files": {"x": 3}}', b"\xff"])
def test_content_hashes_survive_a_damaged_index(dataset, tmp_path, content):
    first = content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache")
    (index,) = (tmp_path / "cache" / "hashes").glob("*.json")
    index.write_bytes(content)
    assert content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache") == first
    assert index.read_bytes() != content


def test_content_hashes_survive_a_cache_that_cannot_be_written(dataset, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert len(content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache")) == 4
    assert "not remembered" in caplog.text


def test_content_hashes_tell_unreadable_files_apart(dataset, tmp_path):
    first, second = dataset.splits["train"][:2]
    first.path.unlink()
    second.path.unlink()
    os.mkfifo(second.path)
    found = content_hashes([first, second], cache_dir=tmp_path / "cache")
    assert all(value.startswith("unreadable-") for value in found.values())
    assert len(set(found.values())) == 2


def test_content_hashes_of_several_callers_end_in_one_index(dataset, tmp_path, read_files):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda r: content_hashes([r], cache_dir=tmp_path / "cache"), dataset.splits["train"]))
    content_hashes(dataset.splits["train"], cache_dir=tmp_path / "cache")
    assert len(read_files) == 4


def test_content_hashes_of_nothing_are_empty(tmp_path):
    assert content_hashes([], cache_dir=tmp_path) == {}


def test_fingerprint_depends_on_images_labels_and_splits_but_not_on_the_place(dataset, tmp_path):
    cache = tmp_path / "cache"
    original = fingerprint(dataset, cache_dir=cache)
    moved_root = dataset.root.rename(tmp_path / "moved")
    moved = {
        split: tuple(replace(r, path=moved_root / r.image_id) for r in records)
        for split, records in dataset.splits.items()
    }
    dataset = replace(dataset, root=moved_root, splits=moved, name="another")
    assert fingerprint(dataset, cache_dir=cache) == original

    train, val = moved["train"], moved["val"]
    relabelled = (replace(train[0], label=1), *train[1:])
    variants = [
        replace(dataset, splits={"train": relabelled, "val": val}),
        replace(dataset, splits={"train": val, "val": train}),
        replace(dataset, splits={"train": train[1:], "val": val}),
        replace(dataset, class_names=("a", "c")),
    ]
    assert len({original, *(fingerprint(v, cache_dir=cache) for v in variants)}) == 5
    train[0].path.write_bytes(b"other pixels")
    assert fingerprint(dataset, cache_dir=cache) != original
