"""Stores: the same pixels however they are kept, complete or not there, bounded, and safe from one another."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resomap.data import pyramid_levels, store_build, store_files
from resomap.data.augmentation import AugmentationSettings, draw
from resomap.data.decode import decode_rgb
from resomap.data.hashes import content_hashes
from resomap.data.pyramid import CachedStore, OnTheFlyStore, StoreSettings
from resomap.data.randomness import image_keys
from resomap.data.resize import to_square
from resomap.errors import BadImageError, ConfigError, DatasetError, StorageError
from resomap.lease import Leases
from resomap.records import CropBox

WHOLE = CropBox(0.0, 0.0, 1.0, 1.0)
MIB = 2.0**-10
"""In GiB."""


def boxes_of(store, count=3):
    """(index, box) that training would ask for."""
    for i, image in enumerate(store.images):
        size, keys = np.asarray(store.sizes[i : i + 1]), image_keys([image.image_id])
        for epoch in range(count):
            yield i, draw(AugmentationSettings(), size, keys_B=keys, seed=0, epoch=epoch).box(0)


def folders(tmp_path: Path) -> list[Path]:
    """The complete stores in the cache."""
    return sorted(path.parent for path in (tmp_path / "cache" / "pyramid").glob("*/meta.json"))


def leftovers(tmp_path: Path) -> list[str]:
    """What lies in the cache besides stores and locks."""
    known = {folder.name for folder in folders(tmp_path)}
    paths = (tmp_path / "cache" / "pyramid").glob("*")
    return [path.name for path in paths if path.name not in known and path.suffix != ".lease"]


def assert_same_pixels(one, other):
    for resolution in one.settings.resolutions:
        everything = np.arange(len(one))
        np.testing.assert_array_equal(one.squares(resolution, everything), other.squares(resolution, everything))
        for i, box in boxes_of(one):
            np.testing.assert_array_equal(one.crop(i, box, resolution), other.crop(i, box, resolution))


# Pixels


def test_store_knows_images_labels_and_native_sizes(photographs, open_images):
    records = photographs(6)
    store = open_images(records)
    assert isinstance(store, CachedStore)
    assert store.images == tuple(records)
    assert store.labels.dtype == np.int64
    assert store.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert store.sizes.tolist() == [[150, 200], [170, 90], [64, 64], [37, 41], [160, 160], [150, 200]]
    assert store.bad_files == ()


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos", "box"])
def test_squares_equal_to_square(photographs, open_images, kernel):
    records = photographs(5)
    store = open_images(records, kernel=kernel, crop="center", resolutions=(16, 33))
    for resolution in (16, 33):
        expected = np.stack([to_square(decode_rgb(r.path), resolution, kernel=kernel) for r in records])
        np.testing.assert_array_equal(store.squares(resolution, [4, 0, 1, 1]), expected[[4, 0, 1, 1]])
        np.testing.assert_array_equal(store.square(3, resolution), expected[3])


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos", "box"])
def test_on_the_fly_store_gives_the_same_pixels(photographs, open_images, kernel):
    records = photographs(5)
    fly = open_images(records, kernel=kernel, cache_gib=0)
    cached = open_images(records, kernel=kernel)
    assert isinstance(fly, OnTheFlyStore)
    assert isinstance(cached, CachedStore)
    np.testing.assert_array_equal(fly.sizes, cached.sizes)
    assert_same_pixels(fly, cached)


def test_crop_of_everything_from_an_image_of_that_size_is_the_image(photographs, open_images):
    # 32 x 32 pixels asked for at 32: no level is coarse enough, nothing is resized.
    records = photographs(2, sizes_wh=[(32, 32)])
    store = open_images(records, resolutions=(32,))
    np.testing.assert_array_equal(store.crop(0, WHOLE, 32), np.asarray(decode_rgb(records[0].path)))


def test_crop_takes_the_region_that_the_box_names(tmp_path, photographs, open_images):
    # A red square in the lower right quarter of a black image, at sizes for which every level is used.
    records = photographs(2, sizes_wh=[(256, 256)])
    for record in records:
        pixels = np.zeros((256, 256, 3), np.uint8)
        pixels[128:, 128:, 0] = 255
        Image.fromarray(pixels).save(record.path)
    store = open_images(records, resolutions=(8, 64), min_scale=0.25)
    for resolution in (8, 64):
        inside = store.crop(0, CropBox(0.5, 0.5, 0.5, 0.5), resolution)
        assert (inside == [255, 0, 0]).all()
        assert not store.crop(0, CropBox(0.0, 0.5, 0.5, 0.5), resolution).any()
        both = store.crop(0, CropBox(0.5, 0.25, 0.5, 0.5), resolution)
        half = resolution // 2
        assert not both[:, : half - 1].any()
        assert (both[:, half + 1 :, 0] == 255).all()


def test_crops_show_the_same_region_at_every_resolution(photographs, open_images):
    # A horizontal and a vertical ramp give away where a crop was taken: red is x, green is y.
    records = photographs(2, sizes_wh=[(240, 200)])
    y, x = np.mgrid[0:200, 0:240]
    pixels = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)
    for record in records:
        Image.fromarray(pixels).save(record.path)
    store = open_images(records, resolutions=(8, 16, 32, 64, 128))
    assert store.settings.resolutions == (8, 16, 32, 64, 128)
    chosen = list(boxes_of(store))
    assert len(chosen) == 2 * 3  # images, epochs
    for i, box in chosen:
        centre = np.array([(box.left + box.width / 2) * 240, (box.top + box.height / 2) * 200])
        for resolution in store.settings.resolutions:
            seen = store.crop(i, box, resolution).mean(axis=(0, 1))[:2] + 0.5
            # Half a pixel of the level, which has twice the crop's pixels: at most a quarter of a crop's pixel.
            allowed = 0.25 * max(box.width * 240, box.height * 200) / resolution + 0.6
            assert np.abs(seen - centre).max() <= allowed


def test_level_for_keeps_twice_the_pixels():
    # A side of 100 at resolution 10: 100, 50, 25 are at least 20; 12.5 is not.
    assert pyramid_levels.level_for(100, 10) == 2
    assert pyramid_levels.level_for(80, 10) == 2  # 20 pixels in level 2: exactly twice
    assert pyramid_levels.level_for(79, 10) == 1
    assert pyramid_levels.level_for(19, 10) == 0
    assert pyramid_levels.level_for(5, 10) == 0


def test_needed_levels_hold_what_training_asks_for(photographs, open_images):
    store = open_images(photographs(5), resolutions=(8, 16, 64))
    assert store.settings.resolutions == (8, 16, 64)
    chosen = list(boxes_of(store, count=40))
    assert len(chosen) == 5 * 40
    indices = np.array([i for i, _ in chosen])
    sizes = store.sizes[indices].astype(np.int64)
    boxes = np.array([[box.top, box.left, box.height, box.width] for _, box in chosen])
    for resolution in store.settings.resolutions:
        wanted = pyramid_levels.wanted_levels(boxes, sizes, resolution)
        shorter = (boxes[:, 2:] * sizes).min(axis=1)
        assert wanted.tolist() == [pyramid_levels.level_for(side, resolution) for side in shorter.tolist()]
        assert all(level in store.settings.levels_of(tuple(size)) for level, size in zip(wanted, sizes, strict=True))
        np.testing.assert_array_equal(store.level_pixels(indices, wanted)[1], wanted)


def test_edges_are_whole_pixels_inside_the_level():
    # 100 x 60 px in level 1 is 50 x 30. Rows 0.1 to 0.6: 5 to 30. Columns 0.5 to 0.999: 15 to round(29.97) = 30.
    sizes, level = np.array([[100, 60], [5, 5]]), np.array([1, 1])
    boxes = np.array([[0.1, 0.5, 0.5, 0.499], [0.99, 0.0, 0.001, 0.2]])
    # 5 x 5 px in level 1 is 3 x 3 (a last partial block counts): a box thinner than a pixel keeps one.
    assert pyramid_levels.edges(boxes, sizes, level).tolist() == [[5, 15, 25, 15], [2, 0, 1, 1]]


def test_crops_of_a_batch_are_those_of_single_images(photographs, open_images):
    for gib in (0.0, 1.0):
        store = open_images(photographs(7), resolutions=(8, 32), cache_gib=gib)
        chosen = list(boxes_of(store))
        indices = np.array([i for i, _ in chosen])
        boxes = np.array([[box.top, box.left, box.height, box.width] for _, box in chosen])
        for resolution in (8, 32):
            expected = [store.crop(i, box, resolution) for i, box in chosen]
            np.testing.assert_array_equal(store.crops(indices, boxes, resolution), expected)


def test_center_store_keeps_no_levels_and_refuses_crops(photographs, open_images, tmp_path):
    for gib in (0.0, 1.0):
        store = open_images(photographs(2), crop="center", cache_gib=gib)
        with pytest.raises(ConfigError, match=r"crop='center'.*'random_resized'"):
            store.crop(0, WHOLE, 16)
    (folder,) = folders(tmp_path)
    assert (folder / "levels.u8").stat().st_size <= 1


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_store_refuses_resolutions_it_does_not_hold(photographs, open_images, cache_gib):
    store = open_images(photographs(2), cache_gib=cache_gib)
    with pytest.raises(ConfigError, match=r"the store holds \(16, 32\), not 64"):
        store.square(0, 64)
    with pytest.raises(ConfigError, match=r"the store holds \(16, 32\), not 64"):
        store.crop(0, WHOLE, 64)


# Finding and building


def test_open_store_builds_once(photographs, open_images, tmp_path):
    records, calls = photographs(4), []
    first = open_images(records, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    second = open_images(records, progress=lambda *_: pytest.fail("decoded again"))
    assert_same_pixels(first, second)
    assert len(folders(tmp_path)) == 1
    assert leftovers(tmp_path) == []


def test_open_store_tells_contents_orders_and_settings_apart(photographs, open_images, tmp_path):
    records = photographs(4)
    open_images(records)
    open_images(records[::-1])
    open_images(records, kernel="bicubic")
    open_images(records, resolutions=(16,))
    records[0].path.write_bytes(records[1].path.read_bytes())
    open_images(records)
    assert len(folders(tmp_path)) == 5


def test_open_store_does_not_depend_on_labels_or_places(photographs, open_images, tmp_path):
    records = photographs(4)
    open_images(records)
    moved = [type(r)(f"x/{r.image_id}", r.path, 1 - r.label) for r in records]
    store = open_images(moved)
    assert len(folders(tmp_path)) == 1
    assert store.labels.tolist() == [1, 0, 1, 0]
    assert store.images == tuple(moved)


def damage_truncate(folder: Path) -> None:
    os.truncate(folder / "squares-16.u8", 100)


def damage_levels_gone(folder: Path) -> None:
    (folder / "levels.u8").unlink()


def damage_meta_cut(folder: Path) -> None:
    text = (folder / "meta.json").read_text()
    (folder / "meta.json").write_text(text[: len(text) // 2])


def damage_meta_empty(folder: Path) -> None:
    (folder / "meta.json").write_bytes(b"")


def damage_meta_other(folder: Path) -> None:
    (folder / "meta.json").write_text('{"format": 1, "sizes": [[1, 1]], "bad": 3, "bytes": [1]}')


def damage_meta_null(folder: Path) -> None:
    (folder / "meta.json").write_text("null")


def damage_meta_binary(folder: Path) -> None:
    (folder / "meta.json").write_bytes(b"\xff\xfe\x00")


def damage_meta_gone(folder: Path) -> None:
    (folder / "meta.json").unlink()


def damage_table_longer(folder: Path) -> None:
    with open(folder / "levels.i64", "ab") as stream:
        stream.write(bytes(8))


def damage_folder_to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def damage_format(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": -1}))


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_store_is_built_again(photographs, open_images, tmp_path, damage):
    records, calls = photographs(4), []
    open_images(records)
    (folder,) = folders(tmp_path)
    damage(folder)
    again = open_images(records, progress=lambda *_: calls.append(1))
    assert len(calls) == 4
    assert_same_pixels(again, open_images(records, cache_gib=0))
    assert leftovers(tmp_path) == []


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "information"), [("squares-16.u8", None), ("levels.u8", None), ("squares-32.u8", 16), ("levels.u8", 16)]
)
def test_a_changed_bit_of_an_image_is_noticed_when_it_is_read_and_the_image_decoded_again(
    photographs, open_images, tmp_path, caplog, name, information
):
    records = photographs(6)
    fly = open_images(records, cache_gib=0, information=information)
    open_images(records, information=information)
    (folder,) = folders(tmp_path)
    size = (folder / name).stat().st_size
    for position in range(7, size, size // 5):
        flip(folder / name, position)
    damaged = open_images(records, information=information)
    assert isinstance(damaged, CachedStore)
    assert_same_pixels(damaged, fly)
    assert "is damaged; decoding it again" in caplog.text
    calls = []
    again = open_images(records, information=information, progress=lambda *_: calls.append(1))
    assert_same_pixels(again, fly)
    assert len(calls) == 6  # the next start built it anew


@pytest.mark.parametrize("name", ["meta.json", "levels.i64", "levels.u32", "squares-16.u32"])
def test_a_changed_bit_of_what_describes_the_images_is_noticed_at_the_start(photographs, open_images, tmp_path, name):
    records = photographs(4)
    fly = open_images(records, cache_gib=0)
    for position in (3, 50, 77, 200):
        open_images(records)
        (folder,) = folders(tmp_path)
        flip(folder / name, position)
        calls = []
        assert_same_pixels(open_images(records, progress=lambda *_, calls=calls: calls.append(1)), fly)
        assert len(calls) == 4


def test_open_store_survives_the_cache_being_deleted(photographs, open_images, tmp_path):
    records = photographs(4)
    store, expected = open_images(records), open_images(records, cache_gib=0)
    shutil.rmtree(tmp_path / "cache")
    assert_same_pixels(store, expected)
    assert_same_pixels(open_images(records), expected)  # and a new one is built again
    assert len(folders(tmp_path)) == 1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' list of mappings")
def test_images_that_were_read_are_not_kept_in_the_process(photographs, open_images, monkeypatch):
    store = open_images(photographs(40))
    everything = np.arange(len(store))

    def mapped_kib() -> int:
        found, counts = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                counts = str(store.folder) in line
            elif counts and line.startswith("Rss:"):
                found += int(line.split()[1])
        return found

    before, size = store.squares(16, everything), sum(path.stat().st_size for path in store.folder.iterdir())
    store.level_pixels(everything, np.zeros(len(store), dtype=np.int64))[0]
    held = [pixels.sum().item() for pixels in store.level_pixels(everything, np.zeros(len(store), dtype=np.int64))[0]]
    assert mapped_kib() > 0.5 * size / 1024
    monkeypatch.setattr(store_files, "_MAPPED_AT_ONCE", 1000)
    store.squares(16, everything[:2])
    assert mapped_kib() < 0.2 * size / 1024
    np.testing.assert_array_equal(store.squares(16, everything), before)
    again = [pixels.sum().item() for pixels in store.level_pixels(everything, np.zeros(len(store), dtype=np.int64))[0]]
    assert again == held


def test_store_in_a_read_only_cache_is_used(photographs, open_images, tmp_path, monkeypatch):
    # Tests may run as root, for whom nothing is read-only: refuse by hand what the file system would.
    records = photographs(3)
    open_images(records)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    store = open_images(records, progress=lambda *_: pytest.fail("decoded again"))
    assert isinstance(store, CachedStore)


# Bounds


def test_cache_of_zero_decodes_on_the_fly_and_writes_nothing(photographs, open_images, tmp_path, caplog):
    store = open_images(photographs(3), cache_gib=0)
    assert isinstance(store, OnTheFlyStore)
    assert "decoding on the fly" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_cache_that_is_too_small_decodes_on_the_fly(photographs, open_images, tmp_path, caplog):
    store = open_images(photographs(3), cache_gib=0.01 * MIB)
    assert isinstance(store, OnTheFlyStore)
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "decoding on the fly, which is slower" in record.getMessage()
    assert "data.cache_gib is 0.00" in record.getMessage()
    assert folders(tmp_path) == []
    assert leftovers(tmp_path) == []


def test_on_the_fly_store_reports_progress(photographs, open_images):
    calls = []
    open_images(photographs(3), cache_gib=0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def stored_bytes(tmp_path: Path) -> int:
    return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_store_used_longest_ago_is_evicted(photographs, open_images, tmp_path):
    records = photographs(6)
    names = {}
    for kernel in ("bilinear", "bicubic", "lanczos"):
        known = set(folders(tmp_path))
        open_images(records, kernel=kernel)
        (names[kernel],) = set(folders(tmp_path)) - known
    size = stored_bytes(tmp_path) // 3
    for age, kernel in enumerate(("lanczos", "bicubic", "bilinear")):
        os.utime(names[kernel] / "meta.json", (1e9 - age, 1e9 - age))  # bilinear is the oldest
    open_images(records, kernel="bilinear")  # used now
    store = open_images(records, kernel="box", cache_gib=3.5 * size / 2**30)
    assert isinstance(store, CachedStore)
    assert not names["bicubic"].exists()
    assert names["bilinear"].exists()
    assert names["lanczos"].exists()
    assert stored_bytes(tmp_path) <= 3.5 * size


def test_evicted_store_stays_readable(photographs, open_images, tmp_path):
    records = photographs(6)
    store, expected = open_images(records), open_images(records, cache_gib=0)
    size = stored_bytes(tmp_path)
    open_images(records, kernel="bicubic", cache_gib=1.5 * size / 2**30)
    assert len(folders(tmp_path)) == 1
    assert_same_pixels(store, expected)


def test_nothing_is_evicted_for_a_store_that_cannot_fit(photographs, open_images, tmp_path):
    records = photographs(6)
    open_images(records[:1])
    before = stored_bytes(tmp_path)
    assert isinstance(open_images(records, cache_gib=before / 2**30), OnTheFlyStore)
    assert len(folders(tmp_path)) == 1


def test_store_that_is_being_built_is_not_evicted(photographs, open_images, tmp_path, caplog):
    records = photographs(6)
    open_images(records)
    size = stored_bytes(tmp_path)
    (folder,) = folders(tmp_path)
    with Leases(folder.parent).hold(folder.name):
        store = open_images(records, kernel="bicubic", cache_gib=1.5 * size / 2**30)
    assert isinstance(store, OnTheFlyStore)  # and the bound is kept
    assert "decoding on the fly" in caplog.text
    assert folder.exists()


def test_what_a_dead_builder_of_another_store_left_is_removed(photographs, open_images, tmp_path):
    left = tmp_path / "cache" / "pyramid" / f"{'0' * 32}.tmp"
    left.mkdir(parents=True)
    (left / "squares-16.u8").write_bytes(bytes(1000))
    open_images(photographs(2))
    assert leftovers(tmp_path) == []


def test_full_disk_is_one_clear_line_and_leaves_nothing(photographs, open_images, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no space left on the device") as caught:
        open_images(photographs(3))
    assert "\n" not in str(caught.value)
    assert folders(tmp_path) == []
    assert leftovers(tmp_path) == []
    monkeypatch.undo()
    assert isinstance(open_images(photographs(3)), CachedStore)


def test_store_is_built_where_room_cannot_be_reserved(photographs, open_images, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")  # macOS has none
    records = photographs(3)
    assert_same_pixels(open_images(records), open_images(records, cache_gib=1.0))


def test_pixels_handed_out_are_the_callers_own(photographs, open_images):
    # A copy-on-write map larger than memory is refused by Linux, so maps are read-only; what is handed out is not.
    store = open_images(photographs(2))
    for pixels in (store.square(0, 16), store.crop(0, WHOLE, 16)):
        before = pixels.copy()
        pixels[:] = 255 - pixels
        assert not np.array_equal(pixels, before)
    np.testing.assert_array_equal(store.crop(0, WHOLE, 16), before)


def test_cache_folder_that_is_a_file_is_one_clear_line(photographs, open_images, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        open_images(photographs(2))


# Bad files


def spoil(records, *, indices=(1, 4)):
    records[indices[0]].path.write_bytes(b"")
    path = records[indices[1]].path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_bad_files_stop_with_the_whole_list(photographs, open_images, cache_gib):
    records = photographs(6)
    spoil(records)
    for _ in range(2):  # also when the store is there already
        with pytest.raises(DatasetError, match="2 of 6 images cannot be read") as caught:
            open_images(records, cache_gib=cache_gib)
        message = str(caught.value)
        assert "b/1.png: empty (0 bytes)" in message
        assert "a/4.png: " in message
        assert "data.on_bad_file=skip" in message


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_bad_files_skipped_are_recorded_and_shift_nothing(photographs, open_images, cache_gib, caplog):
    records = photographs(6)
    spoil(records)
    store = open_images(records, cache_gib=cache_gib, on_bad_file="skip")
    good = [records[i] for i in (0, 2, 3, 5)]
    assert store.images == tuple(good)
    assert store.labels.tolist() == [r.label for r in good]
    assert [bad.path for bad in store.bad_files] == ["b/1.png", "a/4.png"]
    assert store.bad_files[0].reason == "empty (0 bytes)"
    assert "2 of 6 images cannot be read and are left out" in caplog.text
    for i, record in enumerate(good):
        np.testing.assert_array_equal(store.square(i, 16), to_square(decode_rgb(record.path), 16, kernel="bilinear"))
        assert store.sizes[i].tolist() == [decode_rgb(record.path).height, decode_rgb(record.path).width]
    assert_same_pixels(store, open_images(good, cache_gib=0))


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_class_emptied_by_skipping_is_an_error(photographs, open_images, cache_gib):
    records = photographs(4)
    for record in records[1::2]:
        record.path.write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"no image of .*data/b can be read; a class needs at least one"):
        open_images(records, cache_gib=cache_gib, on_bad_file="skip")


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_all_files_bad_is_an_error(photographs, open_images, cache_gib):
    records = photographs(2)
    for record in records:
        record.path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="2 of 2 images cannot be read"):
        open_images(records, cache_gib=cache_gib)
    with pytest.raises(DatasetError, match="no image of"):
        open_images(records, cache_gib=cache_gib, on_bad_file="skip")


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_header_that_promises_another_size_is_bad(photographs, open_images, cache_gib, monkeypatch):
    # No format that Pillow reads lets its size differ unnoticed: have one promise the wrong size.
    records = photographs(4)
    honest = store_build.native_size

    def lie(path, **options):
        height, width = honest(path, **options)
        return (height + (path == records[2].path), width)

    monkeypatch.setattr(store_build, "native_size", lie)
    store = open_images(records, on_bad_file="skip", cache_gib=cache_gib)
    assert [bad.path for bad in store.bad_files] == ["a/2.png"]
    assert "its header promises another size than it holds" in store.bad_files[0].reason


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_png_header_enlarged_beyond_its_pixels_is_bad(photographs, open_images, cache_gib):
    records = photographs(4)
    content = bytearray(records[2].path.read_bytes())
    content[16:24] = struct.pack(">II", 100, 5000)  # width, height of the IHDR chunk
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    records[2].path.write_bytes(content)
    store = open_images(records, on_bad_file="skip", cache_gib=cache_gib)
    assert [bad.path for bad in store.bad_files] == ["a/2.png"]


def test_file_that_failed_for_a_passing_reason_is_tried_again(photographs, open_images, monkeypatch):
    # Too little memory, a network drive away: the content is what it was, and so is the store's key.
    records = photographs(4)

    def fail(path, **options):
        if path == records[1].path:
            raise BadImageError(path, "not enough memory to decode it")
        return decode_rgb(path, **options)

    monkeypatch.setattr(store_build, "decode_rgb", fail)
    with pytest.raises(DatasetError, match="not enough memory"):
        open_images(records)
    monkeypatch.undo()
    store = open_images(records)
    assert store.bad_files == ()
    assert_same_pixels(store, open_images(records, cache_gib=0))


def test_on_bad_file_refuses_other_words(photographs, open_images):
    with pytest.raises(ConfigError, match="on_bad_file: expected 'stop' or 'skip', got 'ignore'"):
        open_images(photographs(2), on_bad_file="ignore")


# Processes

BUILD = """
import pickle, sys, time
from pathlib import Path
import numpy as np
from resomap.data.pyramid import open_store
records, settings, hashes, cache, go_on = pickle.loads(Path(sys.argv[1]).read_bytes())
calls = []
def progress(done, total):
    calls.append(done)
    if done == 2:
        print("building", flush=True)
        while not go_on.exists():
            time.sleep(0.01)
print("started", flush=True)
store = open_store(records, settings=settings, cache_dir=cache, cache_gib=1, content_hashes=hashes, workers=1,
                   progress=progress)
print(len(calls), int(store.squares(16, np.arange(len(store))).astype(np.int64).sum()), flush=True)
"""


@pytest.fixture
def start_build(tmp_path):
    """start_build(records): a process that builds their store, and waits in the middle for tmp_path / 'go-on'."""
    started = []

    def start(records) -> subprocess.Popen[str]:
        settings = StoreSettings((16, 32), crop="random_resized", min_scale=0.35)
        hashes = content_hashes(records, cache_dir=tmp_path / "hashes")
        job = tmp_path / "job"
        job.write_bytes(pickle.dumps((records, settings, hashes, tmp_path / "cache", tmp_path / "go-on")))
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_store_whose_builder_was_killed_is_built_again(photographs, open_images, tmp_path, start_build):
    records = photographs(5)
    process = start_build(records)
    assert [process.stdout.readline() for _ in range(2)] == ["started\n", "building\n"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [name[-4:] for name in leftovers(tmp_path)] == [".tmp"]
    assert folders(tmp_path) == []
    store = open_images(records)
    assert_same_pixels(store, open_images(records, cache_gib=0))
    assert leftovers(tmp_path) == []


def test_two_processes_that_need_one_store_build_it_once(photographs, open_images, tmp_path, start_build):
    records = photographs(5)
    first = start_build(records)
    assert [first.stdout.readline() for _ in range(2)] == ["started\n", "building\n"]
    second = start_build(records)
    assert second.stdout.readline() == "started\n"
    time.sleep(0.2)  # the second waits for the lock by now
    assert second.poll() is None
    (tmp_path / "go-on").touch()
    said = []
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        said.append(out.split())
    total = str(open_images(records, cache_gib=0).squares(16, np.arange(5)).astype(np.int64).sum())
    assert said == [["5", total], ["0", total]]


def test_process_that_waits_takes_over_from_a_killed_builder(photographs, open_images, tmp_path, start_build):
    records = photographs(5)
    first = start_build(records)
    assert [first.stdout.readline() for _ in range(2)] == ["started\n", "building\n"]
    second = start_build(records)
    assert second.stdout.readline() == "started\n"
    time.sleep(0.2)  # the second waits for the lock by now
    os.kill(first.pid, signal.SIGKILL)
    (tmp_path / "go-on").touch()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    total = open_images(records, cache_gib=0).squares(16, np.arange(5)).astype(np.int64).sum()
    assert out.split() == ["building", "5", str(total)]
    assert leftovers(tmp_path) == []


def read_square(store, index: int) -> np.ndarray:
    return store.square(index, 16)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_store_pickles_without_its_pixels(photographs, open_images, cache_gib):
    store = open_images(photographs(5), cache_gib=cache_gib, resolutions=(16, 128))
    pickled = pickle.dumps(store)
    assert len(pickled) < 10_000  # one square of 128 x 128 alone has 49,152
    assert_same_pixels(pickle.loads(pickled), store)


def test_store_works_in_a_spawned_process(photographs, open_images):
    store = open_images(photographs(5))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(read_square, store, 3).result(), store.square(3, 16))


def test_pickled_store_whose_files_are_gone_says_so(photographs, open_images, tmp_path):
    pickled = pickle.dumps(open_images(photographs(2)))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(StorageError, match=r"the decoded images .* are gone"):
        pickle.loads(pickled).square(0, 16)


def test_store_can_be_read_by_several_threads(photographs, open_images):
    store = open_images(photographs(5))
    expected = [store.crop(i, box, 16) for i, box in boxes_of(store)]
    wrong = []

    def read() -> None:
        wrong.extend(
            i
            for (i, box), pixels in zip(boxes_of(store), expected, strict=True)
            if not np.array_equal(store.crop(i, box, 16), pixels)
        )

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
