"""Folders become labelled, split images, or one line that says what is wrong with them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resomap.data.sources import open_dataset
from resomap.errors import DatasetError
from resomap.records import ImageDataset


def photograph(seed: int, side: int = 64) -> Image.Image:
    """A smooth random scene, unlike any other seed's."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)


def fill(folder: Path, count: int, *, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        photograph(sum(map(ord, folder.name)) * 10_000 + i).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def opened(tmp_path):
    def run(root: Path | str, **options: object) -> ImageDataset:
        return open_dataset(root, cache_dir=tmp_path / "cache", **options)

    return run


def sizes(dataset: ImageDataset) -> dict[str, dict[str, int]]:
    return {
        split: dict(Counter(dataset.class_names[r.label] for r in records)) for split, records in dataset.splits.items()
    }


def test_open_dataset_takes_the_splits_it_finds(tmp_path, opened):
    for split, count in (("Training", 3), ("valid", 2), ("test", 1)):
        for name in ("cat", "dog"):
            fill(tmp_path / "pets" / split / name, count, start=count * 10)
    dataset = opened(tmp_path / "pets")
    assert dataset.name == "pets"
    assert dataset.class_names == ("cat", "dog")
    assert list(dataset.splits) == ["train", "val", "test"]
    assert sizes(dataset) == {
        "train": {"cat": 3, "dog": 3},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 1, "dog": 1},
    }
    assert dataset.splits["train"][0].image_id == "Training/cat/030.png"
    assert dataset.splits["train"][0].path == tmp_path / "pets" / "Training" / "cat" / "030.png"
    assert dataset.notes == ()


def test_open_dataset_says_that_train_and_val_leave_no_test(tmp_path, opened):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name, 2)
    dataset = opened(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert dataset.notes == ("no test split: results on val are also what the best epoch was chosen by",)


def test_open_dataset_splits_val_off_train_beside_a_test(tmp_path, opened):
    for split, count in (("train", 10), ("test", 4)):
        for name in ("cat", "dog"):
            fill(tmp_path / "pets" / split / name, count, start=count * 10)
    dataset = opened(tmp_path / "pets", val_fraction=0.2)
    assert list(dataset.splits) == ["train", "val", "test"]
    assert sizes(dataset) == {
        "train": {"cat": 8, "dog": 8},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 4, "dog": 4},
    }


def test_open_dataset_splits_class_folders(tmp_path, opened):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 20)
    dataset = opened(tmp_path / "pets", val_fraction=0.2, test_fraction=0.1)
    assert sizes(dataset) == {
        "train": {"cat": 14, "dog": 14},
        "val": {"cat": 4, "dog": 4},
        "test": {"cat": 2, "dog": 2},
    }
    every = [r.image_id for records in dataset.splits.values() for r in records]
    assert len(set(every)) == len(every) == 40
    assert all(ids == sorted(ids) for ids in ([r.image_id for r in p] for p in dataset.splits.values()))
    assert opened(tmp_path / "pets", val_fraction=0.2, test_fraction=0.1) == dataset
    other = opened(tmp_path / "pets", val_fraction=0.2, test_fraction=0.1, split_seed=1)
    assert other.splits != dataset.splits


def test_open_dataset_with_test_fraction_zero_makes_no_test(tmp_path, opened):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 10)
    assert list(opened(tmp_path / "pets", test_fraction=0.0).splits) == ["train", "val"]


def test_open_dataset_takes_a_lone_train_folder_as_the_pool(tmp_path, opened):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / "train" / name, 10)
    dataset = opened(tmp_path / "pets")
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.splits["val"][0].image_id.startswith("train/cat/")


def test_open_dataset_lets_a_class_be_called_train(tmp_path, opened):
    for name in ("bus", "train"):
        fill(tmp_path / "vehicles" / name, 6)
    assert opened(tmp_path / "vehicles").class_names == ("bus", "train")


def test_open_dataset_keeps_copies_on_one_side(tmp_path, opened):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 20)
    for i in range(8):  # byte-identical, smaller, and re-encoded copies
        original = tmp_path / "pets" / "cat" / f"{i:03d}.png"
        shutil.copy(original, original.with_name(f"copy{i}.png"))
        Image.open(original).resize((40, 40)).save(original.with_name(f"small{i}.png"))
        Image.open(original).save(original.with_name(f"again{i}.jpg"), quality=60)
    for seed in range(5):
        dataset = opened(tmp_path / "pets", split_seed=seed, val_fraction=0.3, test_fraction=0.3)
        side = {Path(r.image_id).stem: split for split, rs in dataset.splits.items() for r in rs if r.label == 0}
        for i in range(8):
            assert len({side[f"{i:03d}"], side[f"copy{i}"], side[f"small{i}"], side[f"again{i}"]}) == 1
        assert any("near-identical images were kept on one side" in note for note in dataset.notes)


def test_open_dataset_gives_up_near_identity_where_everything_looks_alike(tmp_path, opened):
    base = np.asarray(photograph(0)).astype(int)
    for k, name in enumerate(("good", "scratched")):  # a fixed camera: the same scene, small differences
        (tmp_path / "parts" / name).mkdir(parents=True)
        for i in range(12):
            noise = np.random.default_rng([k, i]).normal(0, 3, base.shape)
            Image.fromarray((base + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "parts" / name / f"{i}.png")
    dataset = opened(tmp_path / "parts")
    assert any("splits may share scenes" in note for note in dataset.notes)
    assert sizes(dataset)["val"] == {"good": 2, "scratched": 2}


def test_open_dataset_counts_deeper_folders_and_leaves_out_the_rest(tmp_path, opened):
    root = tmp_path / "pets"
    for split in ("train", "val", "test"):
        fill(root / split / "cat", 1, start=ord(split[0]))
        fill(root / split / "dog" / "big" / "brown", 1, start=ord(split[1]))
    (root / "train" / "cat" / "Thumbs.db").touch()
    (root / "train" / "cat" / ".DS_Store").touch()
    (root / "train" / "cat" / "._116.png").touch()
    (root / "train" / "cat" / "labels.csv").touch()
    (root / "train" / "cat" / ".hidden").mkdir()
    (root / "train" / "__MACOSX").mkdir()
    (root / "masks").mkdir()
    photograph(1).save(root / "cover.png")
    dataset = opened(root)
    assert sizes(dataset)["train"] == {"cat": 1, "dog": 1}
    assert set(dataset.notes) == {
        "left out folders beside the splits (1): masks",
        "left out images outside class folders (1): cover.png",
        "left out files that are not images (1): train/cat/labels.csv",
    }


def test_open_dataset_takes_a_file_with_an_image_suffix_for_an_image(tmp_path, opened):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            fill(tmp_path / "pets" / split / name, 1)
    (tmp_path / "pets" / "train" / "cat" / "text.JPG").write_text("hello")
    (tmp_path / "pets" / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert sizes(opened(tmp_path / "pets"))["train"] == {"cat": 3, "dog": 1}


def test_open_dataset_survives_bad_files_while_looking_for_copies(tmp_path, opened):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 6)
    (tmp_path / "pets" / "cat" / "empty.png").touch()
    (tmp_path / "pets" / "cat" / "loop.png").symlink_to(tmp_path / "pets" / "cat" / "loop.png")
    os.mkfifo(tmp_path / "pets" / "dog" / "pipe.png")
    assert sum(len(records) for records in opened(tmp_path / "pets").splits.values()) == 15


def test_open_dataset_is_not_caught_in_loops_of_links(tmp_path, opened):
    root = tmp_path / "pets"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            fill(root / split / name, 2)
    (root / "train" / "cat" / "up").symlink_to(root)
    (root / "train" / "cat" / "self").symlink_to(root / "train" / "cat")
    (root / "train" / "dog" / "more").symlink_to(fill(tmp_path / "elsewhere" / "dog", 3, start=50))
    dataset = opened(root)
    assert sizes(dataset)["train"] == {"cat": 2, "dog": 5}
    assert any("links to folders already read (2): train/cat/self, train/cat/up" in n for n in dataset.notes)


def test_open_dataset_takes_strange_names(tmp_path, opened):
    root = tmp_path / "pets"
    for name in ("-rf", "ünï 猫", "a\nb"):
        fill(root / name, 4)
    shutil.move(root / "-rf" / "000.png", os.fsencode(root / "-rf") + b"/\xff.png")
    dataset = opened(root)
    assert dataset.class_names == ("-rf", "a\nb", "ünï 猫")
    ids = [r.image_id for records in dataset.splits.values() for r in records]
    assert "-rf/\\xff.png" in ids
    assert all(record.path.exists() for records in dataset.splits.values() for record in records)
    assert "".join(ids).encode()


def broken_no_images(root: Path) -> None:
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "readme.txt").touch()


def broken_empty_class(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / name, 4)
    (root / "eel").mkdir()


def broken_empty_class_in_val(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / "train" / name, 4)
        (root / "val" / name).mkdir(parents=True)
    fill(root / "val" / "cat", 1)


def broken_one_class(root: Path) -> None:
    fill(root / "cat", 4)


def broken_one_image_per_class(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / name, 1)


def broken_copies_only(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / name, 4)
    for i in range(1, 4):
        shutil.copy(root / "cat" / "000.png", root / "cat" / f"{i:03d}.png")


def broken_other_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / "train" / name, 2)
    for name in ("cat", "dig"):
        fill(root / "val" / name, 2)


def broken_no_train(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / "val" / name, 2)


def broken_two_vals(root: Path) -> None:
    for split in ("train", "val", "valid"):
        for name in ("cat", "dog"):
            fill(root / split / name, 2)


def broken_one_level_up(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / "photos" / name, 2)


def broken_file(root: Path) -> None:
    root.write_text("not a folder")


def broken_missing(root: Path) -> None:
    assert not root.exists()


BROKEN = [
    (broken_no_images, r"no images found; expected"),
    (broken_empty_class, r"no images in class folder eel; add images or remove"),
    (broken_empty_class_in_val, r"no images in class folder val/dog"),
    (broken_one_class, r"expected two classes \(folders\) or more, got only cat"),
    (broken_one_image_per_class, r"needs 3 images of each class; cat has 1, dog has 1"),
    (broken_copies_only, r"too few different images are left in cat \(4 images, none left for"),
    (broken_other_classes, r"val: expected the class folders of train; this one lacks dog and adds dig"),
    (broken_no_train, r"expected a train folder beside val; got none"),
    (broken_two_vals, r"expected one folder for val, got val and valid; keep one"),
    (broken_one_level_up, r"got only photos; did you mean .*pets/photos\?"),
    (broken_file, r"is a file; expected the folder"),
    (broken_missing, r"pets does not exist; expected a folder of images"),
]


@pytest.mark.parametrize(("build", "message"), BROKEN, ids=[b.__name__[7:] for b, _ in BROKEN])
def test_open_dataset_refuses(tmp_path, opened, build, message):
    build(tmp_path / "pets")
    with pytest.raises(DatasetError, match=message) as caught:
        opened(tmp_path / "pets")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("torchvison:EuroSAT", r"did you mean torchvision\?"),
        ("acutiy", r"did you mean acuity\?"),
        ("", "expected a folder"),
        ("torchvision:Flower102", r"did you mean Flowers102\?"),
        ("acuity:nul", "expected one of standard, null, shortcut"),
    ],
)
def test_open_dataset_refuses_an_unknown_source(opened, data, message):
    with pytest.raises(DatasetError, match=message):
        opened(data)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction: expected a share"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "sum below 1"),
        ({"test_fraction": -0.1}, "test_fraction: expected a share"),
    ],
)
def test_open_dataset_refuses_impossible_fractions(tmp_path, opened, fractions, message):
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 8)
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path / "pets", **fractions)


def test_open_dataset_makes_acuity_once(opened):
    options = {"train": 8, "val": 4, "test": 4, "size": 96, "bands": (8.0, 16.0), "native_dprime": 20.0}
    dataset = opened("acuity", acuity_options=options)
    assert dataset.name == "acuity"
    assert {split: len(records) for split, records in dataset.splits.items()} == {
        "train": 8,
        "val": 4,
        "test": 4,
    }
    assert len(dataset.class_names) == 4
    assert opened("acuity", acuity_options=options) == dataset
    null = opened("acuity:null", acuity_options=options)
    assert null.name == "acuity-null"
    assert null.root != dataset.root
