"""Latencies are compared in one way to deploy, however many there are and wherever one fails."""

import dataclasses

import numpy as np
import pytest
from torch import nn

from resomap.errors import DeviceError, StudyError
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.profiling import in_turn
from resomap.profiling.modes import deploy
from resomap.profiling.profiler import profile_subjects
from resomap.profiling.records import ProfilingPlan, Rounds, Subject
from resomap.profiling.report import profiling_report
from resomap.records import Cell, Condition, Predictions, RunRecord
from resomap.serialize import read_json, write_json
from resomap.study import probe
from resomap.study.costs.cost import cost_curves, timed_as
from resomap.study.costs.profile import ratios_to_smallest
from resomap.study.load import Study
from resomap.study.runs import write_run
from resomap.study.verdict.verdict import judge, study_options

MS = {"compile": {32: 1.0, 64: 2.0}, "eager": {32: 3.0, 64: 4.0}}


@pytest.fixture
def study(tmp_path, write_profile):
    """study({side: modes}): tiny_cnn at 32 and 64 px, two seeds, timed in these modes; compile fails elsewhere."""
    layout = StudyLayout(tmp_path)
    rng = np.random.default_rng(0)

    def make(modes):
        for side, those in modes.items():
            timed = [
                {
                    "mode": mode,
                    "protocol": "batch1",
                    "median_ms": MS[mode][side],
                    "block_medians_ms": [MS[mode][side]] * 2,
                }
                for mode in those
            ]
            unavailable = {} if "compile" in those else {"compile": "no compiler"}
            write_profile(layout, "tiny_cnn", side, timed, unavailable=unavailable)
            for seed in (0, 1):
                cell = Cell("tiny_cnn", side, seed)
                write_run(layout.run_record_path(cell, "cnn"), RunRecord(cell, "cnn", "k", {}, "finished"))
                for split in ("val", "test"):
                    condition = Condition(split, side, side)
                    answers = Predictions(np.array([f"{i}" for i in range(40)]), np.arange(40) % 2,
                                          rng.dirichlet([1, 1], 40).astype(np.float32), ("a", "b"))  # fmt: skip
                    path = layout.predictions_path(cell, condition)
                    write_predictions(path, answers, cell=cell, condition=condition)
        about = {"class_names": ["a", "b"], "images": {"test": 40}, "notes": []}
        write_json(layout.results_json_path, {"study": about})
        return Study(layout)

    return make


def latencies(study, **options):
    return [option.latency_ms for option in study_options(study, metric="accuracy", **options)]


def test_the_first_mode_that_all_have_is_compared_and_the_other_named(study):
    assert latencies(study({32: ["compile", "eager"], 64: ["compile", "eager"]})) == [1.0, 2.0]
    failing = study({32: ["compile", "eager"], 64: ["eager"]})
    assert latencies(failing) == [3.0, 4.0]
    (warning,) = [line for line in judge(failing, metric="accuracy").warnings if "mode" in line]
    assert warning == ("latency in mode compile is not compared, since it was not timed at tiny_cnn @64: no compiler")


def test_where_no_mode_is_everywhere_the_line_says_what_failed_where_and_why(study):
    cases = (({32: ["compile"], 64: ["eager"]}, {}), ({32: ["compile", "eager"], 64: ["eager"]}, {"mode": "compile"}),
             ({32: ["compile"], 64: []}, {}))  # fmt: skip
    for modes, options in cases:
        with pytest.raises(StudyError, match="compile was not timed at tiny_cnn @64: no compiler") as refused:
            latencies(study(modes), **options)
        assert "resomap profile --config" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.fixture
def profiled(monkeypatch):
    """profiled(modes, ...): profiles at 16, 32 and 48 px, where compile works below 48 only."""

    def deployed(model, mode, *, device):
        ready = deploy(model, "eager", device=device)

        def prepared(images):
            if mode == "compile" and images.shape[-1] == 48:
                raise DeviceError("no compiler")
            return ready(images)

        return prepared

    monkeypatch.setattr(in_turn, "deploy", deployed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()

    def make(*modes):
        plan = ProfilingPlan(modes=modes, rounds=Rounds(10), max_batch=1)
        return profile_subjects([Subject("m", network, side) for side in (16, 32, 48)], plan)

    return make


def test_curves_and_ratios_are_of_one_mode(profiled):
    records = profiled("compile", "eager")
    assert {row["mode"] for row in ratios_to_smallest(records)} == {"eager"}
    eager = [record.at("batch1", "eager") for record in records]
    expected = np.median(np.divide(eager[2].block_medians_ms, eager[0].block_medians_ms))
    assert ratios_to_smallest(records)[1]["value"] == pytest.approx(expected, rel=0.5)
    assert {row["mode"] for row in cost_curves(records)} <= {"eager"}
    assert "no compiler (m @48)" in profiling_report(records)
    apart = [dataclasses.replace(r, latency=tuple(t for t in r.latency if t.mode == mode))
             for r, mode in zip(records, ("compile", "compile", "eager"), strict=True)]  # fmt: skip
    assert ratios_to_smallest(apart) == []
    assert cost_curves(apart) == []


def test_probe_compares_in_one_mode(profiled):
    records = profiled("compile", "eager")
    assert {timed.mode for timed in probe._compared(records).values()} == {"eager"}
    assert probe._modes_left_out(records) == [
        "latency in mode compile is not compared, since it was not timed at m @48: no compiler"
    ]
    with pytest.raises(DeviceError, match="not timed at m @48: no compiler"):
        probe._compared(profiled("compile"))


def test_a_stored_latency_is_found_by_protocol_and_mode(study):
    profile = read_json(study({32: ["compile", "eager"]}).layout.profile_path("tiny_cnn", 32), error=ValueError)
    assert timed_as(profile, "batch1", "eager")["median_ms"] == 3.0
