"""An audit counts, measures and names: on images whose sizes, copies and faults are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resomap.data import audit
from resomap.data.audit import AuditReport, CopyGroup, audit_dataset
from resomap.data.audit_text import format_audit
from resomap.data.hashes import content_hashes
from resomap.data.signatures import read_signatures, signature_index
from resomap.data.sources import open_dataset
from resomap.records import BadFile, ImageRecord
from resomap.serialize import plain, to_json


def scene(path: Path, seed: int, width: int, height: int) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path)
    return image


def audited(root: Path, cache: str | Path, **options: object) -> AuditReport:
    dataset = open_dataset(root, cache_dir=cache)
    return audit_dataset(dataset, resolutions=(64, 32), cache_dir=cache, **options)


def records_of(root: Path, cache: Path) -> list[ImageRecord]:
    return [record for split in open_dataset(root, cache_dir=cache).splits.values() for record in split]


@pytest.fixture
def pets(tmp_path) -> Path:
    """Short sides 32, 40, 48, 64 in train, 64 and 100 in val; one image twice as long as high."""
    root = tmp_path / "pets"
    for i, (name, width, height) in enumerate([("cat", 32, 32), ("cat", 80, 40), ("cat", 48, 48), ("dog", 64, 128)]):
        scene(root / "train" / name / f"{i}.png", i, width, height)
    scene(root / "val" / "cat" / "a.png", 10, 64, 64)
    scene(root / "val" / "dog" / "b.png", 11, 100, 100)
    return root


def test_audit_counts_and_measures(pets, tmp_path):
    report = audited(pets, tmp_path / "cache")
    assert (report.name, report.root, report.images) == ("pets", str(pets), 6)
    assert report.counts == {"train": {"cat": 3, "dog": 1}, "val": {"cat": 1, "dog": 1}}
    assert report.imbalance_ratio == {"train": 3.0, "val": 1.0}
    # short sides 32 40 48 64 64 100: two at least 64 are not upsampled to 64, none is to 32
    assert report.upsampled_share == {32: 0.0, 64: 0.5}
    assert list(report.upsampled_share) == [32, 64]
    assert report.short_side_px["min"] == 32
    assert report.short_side_px["median"] == 56  # between 48 and 64
    assert report.short_side_px["max"] == 100
    assert report.height_px["max"] == 128
    assert report.aspect_ratio["max"] == 2.0
    # 80 x 40 and 64 x 128 lose half, the four squares nothing: 1 / 6 on average
    assert report.crop_loss["mean"] == pytest.approx(1 / 6)
    # dogs 64 and 100; cats 32, 40, 48, 64
    assert report.median_short_side_px == {"cat": 44.0, "dog": 82.0}
    assert report.bad_files == ()
    assert report.copies == ()
    assert report.notes == ("no test split: results on val are also what the best epoch was chosen by",)


def test_audit_names_every_bad_file(pets, tmp_path):
    (pets / "train" / "cat" / "empty.jpg").touch()
    (pets / "val" / "dog" / "text.png").write_text("no image")
    photograph = (pets / "train" / "dog" / "3.png").read_bytes()
    (pets / "train" / "dog" / "cut.png").write_bytes(photograph[: len(photograph) // 2])
    report = audited(pets, tmp_path / "cache")
    assert [(Path(bad.path).name, bad.reason.split(" (")[0]) for bad in report.bad_files] == [
        ("empty.jpg", "empty"),
        ("cut.png", "image file is truncated"),
        ("text.png", "not an image in a format that Pillow reads"),
    ]
    assert report.images == 9
    assert report.upsampled_share == {32: 0.0, 64: 0.5}  # of the readable ones


def test_audit_respects_max_pixels(pets, tmp_path):
    report = audited(pets, tmp_path / "cache", max_pixels=100 * 100 - 1)
    assert [Path(bad.path).name for bad in report.bad_files] == ["b.png"]


def test_audit_finds_copies_across_splits_and_classes(pets, tmp_path):
    cat = pets / "train" / "cat"
    (pets / "val" / "cat" / "same.png").write_bytes((cat / "0.png").read_bytes())
    (pets / "train" / "dog" / "also.png").write_bytes((cat / "1.png").read_bytes())
    Image.open(cat / "2.png").resize((96, 96), Image.Resampling.BICUBIC).save(cat / "large.png")
    assert audited(pets, tmp_path / "cache").copies == (
        CopyGroup(True, ("train/cat/0.png", "val/cat/same.png"), ("train", "val"), ("cat",)),
        CopyGroup(True, ("train/cat/1.png", "train/dog/also.png"), ("train",), ("cat", "dog")),
        CopyGroup(False, ("train/cat/2.png", "train/cat/large.png"), ("train",), ("cat",)),
    )


def test_audit_and_split_share_what_copies_are_recognised_by(pets, tmp_path, monkeypatch):
    (pets / "val" / "cat" / "same.png").write_bytes((pets / "train" / "cat" / "0.png").read_bytes())
    cache = tmp_path / "cache"
    first = audited(pets, cache)
    monkeypatch.setattr(audit, "signature", lambda image: pytest.fail("computed again"))
    assert audited(pets, cache).copies == first.copies
    assert len(first.copies) == 1
    paths = {key: Path("gone") for key in content_hashes(records_of(pets, cache), cache_dir=cache).values()}
    index = signature_index(records_of(pets, cache)[0], cache_dir=cache)
    assert read_signatures(paths, index=index).keys() == paths.keys()  # the files are not read


def test_audit_of_nothing_readable_has_no_sizes(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            (tmp_path / "pets" / split / name / "x.png").touch()
    report = audited(tmp_path / "pets", tmp_path / "cache")
    assert len(report.bad_files) == 4
    assert report.height_px == report.upsampled_share == report.crop_loss == {}
    assert report.copies == ()
    assert "unreadable files: 4" in format_audit(report)


def test_audit_reports_progress_and_does_not_depend_on_workers(pets, tmp_path):
    calls: list[tuple[int, int]] = []
    one = audited(pets, tmp_path / "cache", workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)]
    assert audited(pets, tmp_path / "cache", workers=4) == one


def test_audit_is_strict_json(pets, tmp_path):
    report = audited(pets, tmp_path / "cache")
    read = json.loads(to_json(report))
    assert read == plain(report)
    assert read["upsampled_share"] == {"32": 0.0, "64": 0.5}


def test_format_audit_says_what_was_found(pets, tmp_path):
    (pets / "val" / "dog" / "same.png").write_bytes((pets / "train" / "cat" / "0.png").read_bytes())
    (pets / "train" / "cat" / "empty.jpg").touch()
    text = format_audit(audited(pets, tmp_path / "cache"))
    lines = text.splitlines()
    assert lines[0] == "pets: 8 images, 2 classes"
    assert lines[2:7] == [
        "class               train   val  all",
        "cat                     4     1    5",
        "dog                     1     2    3",
        "all                     5     3    8",
        "largest / smallest   4.00  2.00",
    ]
    assert "copies across splits (these make test results too good): 1 group, 2 images" in lines
    assert "  identical: train/cat/0.png, val/dog/same.png" in lines
    assert "unreadable files: 1" in lines
    assert "at 32 px, 0.0% of the images are upsampled" in lines
    assert "empty.jpg: empty (0 bytes)" in " ".join(text.split())


def test_format_audit_stays_within_80_columns_and_one_line_a_name():
    names = ["a\nb" + "x" * 60, *(f"class {i}" for i in range(200))]
    quantiles = dict.fromkeys(("min", "p5", "p25", "median", "p75", "p95", "max"), 12_345.0)
    report = AuditReport(
        name="p\x1bets",
        root="/data/pets",
        images=1_234_567,
        counts={split: {name: 5_000 + i for i, name in enumerate(names)} for split in ("train", "val", "test")},
        imbalance_ratio={"train": 1.04, "val": 1.04, "test": 1.04},
        height_px=quantiles,
        width_px=quantiles,
        short_side_px=quantiles,
        aspect_ratio=dict.fromkeys(quantiles, 12.34),
        median_short_side_px={names[0]: 100.0, "class 1": 900.0},
        crop_loss={"mean": 0.2, "p95": 0.9},
        upsampled_share={224: 0.5},
        bad_files=tuple(BadFile(f"/data/pets/{i}\n.jpg", "image file is truncated " * 6) for i in range(80)),
        copies=tuple(
            CopyGroup(True, tuple(f"train/cat/{i}_{j}.png" for j in range(9)), ("train", "val"), ("cat",))
            for i in range(30)
        ),
        notes=("left out many things, each of which has a name: " * 4,),
    )
    text = format_audit(report)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "(181 more)" in text
    assert "and 30 more" in text  # bad files: 50 of 80 are shown
    assert "and 20 more groups" in text
    assert "and 6 more" in text  # of 9 images in a group 3 are shown
    assert "blur may give the class away" in " ".join(text.split())


def test_the_cache_may_be_named_by_text(tmp_path):
    pool = tmp_path / "pool"  # without splits: their copies are looked for, and remembered in the cache
    for i in range(8):
        scene(pool / ("cat", "dog")[i % 2] / f"{i}.png", i, 40, 40)
    assert audited(pool, str(tmp_path / "text")) == audited(pool, tmp_path / "path")
    assert [path.name for path in (tmp_path / "text" / "hashes").iterdir()]
