"""Images beside those that a study was made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resomap.config.schema import ResoMapConfig
from resomap.errors import DatasetError, StudyError
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.records import Cell, Condition, ImageDataset, Predictions, RunRecord, splits_used
from resomap.serialize import write_json, write_text
from resomap.study import build, cross_resolution
from resomap.study.changed_settings import changes_in_words
from resomap.study.costs.profile import _opened as profile_images
from resomap.study.load import Study
from resomap.study.runs import write_run
from resomap.study.same_images import check_images, open_images
from resomap.study.verdict.gain import matrix_tables

CELLS = (Cell("m", 32, 0), Cell("m", 48, 0))


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[[Path], ResoMapConfig]:
    def make(source: Path) -> ResoMapConfig:
        data = {"source": str(source), "cache_dir": str(tmp_path / "cache")}
        return ResoMapConfig.model_validate(
            {"data": data, "system": {"device": "cpu"}, "study": {"output": str(tmp_path / "study")}}
        )

    return make


@pytest.fixture
def layout(tmp_path: Path, make_images: Callable[..., Path], config_of: Callable[[Path], ResoMapConfig]) -> StudyLayout:
    """A study of data/ (train, val, test of 4, 2, 2 images a class): what check_images and Study read of it."""
    config = config_of(make_images(tmp_path / "data", splits={"train": 4, "val": 2, "test": 2}, size=(8, 8)))
    images = build.dataset(config)
    study, whole = StudyLayout(tmp_path / "study"), build.fingerprint(config, images)
    write_text(study.config_path, f'provenance: {{"data_fingerprint": "{whole}"}}\n')
    counts = {split: len(records) for split, records in images.splits.items()}
    about = {"class_names": images.class_names, "images": counts, "bad_files": {split: [] for split in counts}}
    write_json(study.results_json_path, {"study": about, "runs": []})
    for cell in CELLS:
        write_run(
            study.run_record_path(cell, "f"), RunRecord(cell, "f", "k", {"protocol": {"images": whole}}, "finished")
        )
        for split in ("val", "test"):
            records = images.splits[split]
            answers = Predictions(
                np.array([r.image_id for r in records]), np.array([r.label for r in records]),
                np.tile(np.float32([1, 0]), (len(records), 1)), images.class_names,
            )  # fmt: skip
            condition = Condition(split, cell.resolution, cell.resolution)
            write_predictions(study.predictions_path(cell, condition), answers, cell=cell, condition=condition)
    return study


def test_the_studys_own_images_are_taken_wherever_they_lie(tmp_path, layout, config_of) -> None:
    moved = shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    images, found = open_images(config_of(moved))
    assert (images.root, found) == (moved, layout)
    fresh = StudyLayout(tmp_path / "no study yet")
    check_images(config_of(moved), fresh, images)


def test_other_images_are_refused_and_what_differs_is_said_in_words(tmp_path, layout, config_of, make_images) -> None:
    def said(change: Callable[[Path], object], name: str) -> str:
        other = shutil.copytree(tmp_path / "data", tmp_path / name)
        change(other)
        with pytest.raises(StudyError) as refused:
            open_images(config_of(other), layout)
        assert str(refused.value).endswith(
            ". Restore them, give the study's own images with --data, or start a study of these: `resomap run` with "
            "another --output"
        )
        return str(refused.value).partition("(then -> now): ")[2].partition(". Restore")[0]

    def swap(root: Path) -> None:
        for split in ("train", "val", "test"):
            (root / split / "dark").rename(root / split / "x")
            (root / split / "light").rename(root / split / "dark")
            (root / split / "x").rename(root / split / "light")

    assert said(lambda root: (root / "test/dark/dark000.png").unlink(), "less") == (
        "test: 4 -> 3 images (1 gone, such as test/dark/dark000.png)"
    )
    assert said(swap, "swapped") == (
        "val: 4 -> 4 images (4 new, such as val/dark/light000.png; 4 gone, such as val/dark/dark000.png); "
        "test: 4 -> 4 images (4 new, such as test/dark/light000.png; 4 gone, such as test/dark/dark000.png)"
    )
    assert (
        said(lambda root: [(root / s / "dark").rename(root / s / "mid") for s in ("train", "val", "test")], "named")[
            :47
        ]
        == "classes: 2 -> 2 (mid new; dark gone); val: 4 ->"
    )
    assert said(lambda root: shutil.copy(root / "train/dark/dark000.png", root / "val/dark/dark001.png"), "edited") == (
        "as many images of the same classes, but the contents or names of some differ"
    )


def test_images_that_another_seed_split_otherwise_are_said_to_have_moved(tmp_path, layout, config_of) -> None:
    images = build.dataset(config_of(tmp_path / "data"))
    first, *rest = images.splits["val"]
    moved = replace(images, splits={**images.splits, "train": (*images.splits["train"], first), "val": tuple(rest)})
    assert changes_in_words(["images: '1a' -> '2b'", "training.epochs: 1 -> 2"], layout, moved) == [
        "images: train: 8 -> 9 images; val: 4 -> 3 images (1 in another split now, such as val/dark/dark000.png)",
        "training.epochs: 1 -> 2",
    ]


def test_a_study_file_that_does_not_say_leaves_it_to_the_runs(tmp_path, layout, config_of, make_images) -> None:
    write_text(layout.config_path, "study: {}\n")
    open_images(config_of(tmp_path / "data"), layout)
    other = make_images(tmp_path / "other", splits={"train": 4, "val": 2, "test": 2}, size=(8, 8), seed=1)
    with pytest.raises(StudyError, match="was not made from the images"):
        open_images(config_of(other), layout)
    layout.results_json_path.unlink()
    with pytest.raises(StudyError, match="the contents or names of some differ"):
        open_images(config_of(other), layout)


def test_cost_is_measured_without_images_where_a_finished_study_has_none(tmp_path, layout, config_of) -> None:
    assert profile_images(config_of(tmp_path / "gone"), None) == (None, layout)
    layout.results_json_path.unlink()
    with pytest.raises(DatasetError, match="does not exist"):
        profile_images(config_of(tmp_path / "gone"), None)


def test_results_of_an_earlier_version_are_read_and_damaged_ones_are_named(layout) -> None:
    assert Study(layout).about["notes"] == []
    for damage in ([], {"runs": []}):
        write_json(layout.results_json_path, damage)
        with pytest.raises(StudyError, match=r"results\.json is damaged \(it says nothing about the study"):
            _ = Study(layout).about


def test_answers_to_other_images_count_as_missing_and_are_made_anew(tmp_path, layout, config_of, monkeypatch) -> None:
    """What an earlier version stored of swapped class folders: as many images, the same labels, other names."""
    own = Study(layout).read(CELLS[0], "test")
    foreign = Condition("test", 48, 48)
    other = replace(own, image_ids=np.array([f"other/{name}" for name in own.image_ids]))
    write_predictions(layout.predictions_path(CELLS[0], foreign), other, cell=CELLS[0], condition=foreign)
    kept = Condition("test", 32, 32)
    write_predictions(layout.predictions_path(CELLS[1], kept), own, cell=CELLS[1], condition=kept)
    study = Study(layout)
    assert matrix_tables(study, metric="accuracy")["m"]["values"] == [[0.5, None], [0.5, 0.5]]
    made = []

    def evaluate(config, checkpoint, images, missing, **options):
        made.append(list(missing))
        yield dict.fromkeys(missing, own)

    monkeypatch.setattr(cross_resolution, "load_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr(cross_resolution, "evaluate_conditions", evaluate)
    cross_resolution.run_conditions(config_of(tmp_path / "data"), study, detail=False)
    assert made == [[foreign]]
    assert matrix_tables(study, metric="accuracy")["m"]["values"] == [[0.5, 0.5], [0.5, 0.5]]


def test_the_splits_used_are_val_alone_where_there_is_no_test() -> None:
    assert splits_used({"train": 1, "val": 1, "test": 1}) == ("val", "test")
    assert ImageDataset("d", Path(), ("a", "b"), {"train": (), "val": ()}).splits_used == ("val", "val")
