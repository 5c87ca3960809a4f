"""JSON that parses and holds something else than its stage stored: one line that names file and place, no traceback."""

from __future__ import annotations

import json

import pytest

from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.records import Cell, RunRecord
from resomap.serialize import write_json
from resomap.study.costs.cost import stored_profiles
from resomap.study.export import chosen_run
from resomap.study.halving import read_rung
from resomap.study.load import Study
from resomap.study.runs import read_run, write_run
from resomap.study.shared_micro_batch import shared_limit
from resomap.study.stages import stored_sentence
from resomap.study.status import study_status
from resomap.study.stored_files import About, Explanations, Plan, Profile, Run, checked

CELL = Cell("tiny_cnn", 32, 0)
TIMED = {"mode": "eager", "protocol": "batch1", "median_ms": 1.0, "block_medians_ms": [1.0]}
EXPLAINED = {"images": 2, "split": "test", "similarity": "spearman", "methods": ["gradcam"], "has_masks": False}
WRONG = ["{}", "[]", "null", "3", '"x"', '{"x": 1}', "[{}]"]
READERS = {
    "profiles/tiny_cnn/32.json": [stored_profiles, lambda layout: Study(layout).latency],
    "analysis/plan.json": [lambda layout: Study(layout).plan],
    "analysis/explanations.json": [lambda layout: Study(layout).explanations],
    "analysis/verdict.json": [stored_sentence, lambda layout: chosen_run(Study(layout), metric="accuracy")],
    "results.json": [lambda layout: Study(layout).about, lambda layout: Study(layout).splits],
    "study.yaml": [lambda layout: study_status(layout.root)],
    "micro_batches/tiny_cnn.json": [lambda layout: shared_limit(layout, "tiny_cnn")],
    "checkpoints/cnn/tiny_cnn/32/seed0/run.json": [lambda layout: read_run(layout.run_record_path(CELL, "cnn"))],
}


@pytest.fixture
def layout(tmp_path, write_profile):
    """Every file that a study stores as JSON, as small as it can be."""
    study = StudyLayout(tmp_path)
    write_profile(study, "tiny_cnn", 32, [TIMED])
    write_json(study.plan_path, {"cells": []})
    lists = {name: [] for name in ("consistency", "spread", "faithfulness", "spectral")}
    write_json(study.explanations_path, EXPLAINED | lists)
    write_json(study.verdict_path, {"recommendation": {"sentence": "Ship it.", "model": "tiny_cnn", "resolution": 32}})
    write_json(study.results_json_path, {"study": {"class_names": ["a", "b"], "images": {"val": 2}}})
    study.config_path.write_text(json.dumps({"provenance": {"cells": [["tiny_cnn", 32, 0]]}}))
    write_json(study.micro_batch_path("tiny_cnn"), {"micro_batch": 4})
    write_run(study.run_record_path(CELL, "cnn"), RunRecord(CELL, "cnn", "k", {}, "finished"))
    return study


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(layout, name):
    for read in READERS[name]:
        assert read(layout) is not None


@pytest.mark.parametrize("content", WRONG)
@pytest.mark.parametrize("name", READERS)
def test_other_content_is_named_in_one_line(layout, name, content):
    (layout.root / name).write_text(content)
    for read in READERS[name]:
        with pytest.raises(StudyError, match=rf"{name} is damaged \(.+\); ") as refused:
            read(layout)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", WRONG)
def test_another_run_s_answers_are_passed_over(layout, content):
    path = layout.rung_path(CELL, "cnn", 4)
    path.write_text(content)
    assert read_rung(path, CELL, "k") is None


@pytest.mark.parametrize(
    ("shape", "value", "said"),
    [
        (Plan, {"cells": [{"model": "m", "resolution": "32", "seconds_per_run": 1}]},
         "cells.0.resolution: expected a valid integer, got '32'"),
        (Plan, {"cells": [{"model": "m", "resolution": 32}]}, "expected a value of cells.0.seconds_per_run, got none"),
        (Plan, [], "the whole: expected a valid dictionary or instance of Plan, got []"),
        (Explanations, {"methods": []}, "expected a value of images, got none"),
        (Explanations, EXPLAINED | {"has_masks": True, "consistency": [], "faithfulness": [], "spectral": [], "spread":
            [{"model": "m", "method": "gradcam", "resolution": 3, "entropy": {"value": 1}, "gini": {"value": 1}}]},
         "spread: expected energy_in_mask and pointing_game in each row, since has_masks"),
        (Profile, {"model": None}, "model: expected a valid string, got None"),
        (About, {"class_names": ["a"], "images": {"val": 1.5}}, "images.val: expected a valid integer, got 1.5"),
        (Run, {"cell": {"model": "m", "resolution": 3, "seed": True}}, "cell.seed: expected a valid integer, got True"),
    ],
)  # fmt: skip
def test_the_first_place_is_named_with_what_was_expected(shape, value, said):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        checked(value, shape)
    assert str(refused.value) == said


def test_a_whole_number_will_do_for_a_figure_and_null_for_nan():
    plan = {"cells": [{"model": "m", "resolution": 32, "seconds_per_run": None, "more": [1]}]}
    assert checked(plan, Plan) is plan
    plan["cells"][0]["seconds_per_run"] = 3
    assert checked(plan, Plan) is plan


def test_profiles_of_an_earlier_version_are_read(layout):
    path = layout.profile_path("tiny_cnn", 32)
    earlier = json.loads(path.read_text())
    for later in ("device", "device_name", "threads", "rounds"):
        del earlier[later]
    write_json(path, earlier)
    assert stored_profiles(layout) == [earlier]
