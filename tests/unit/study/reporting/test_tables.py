"""Tables of the report from stored values: what was predicted beside what was measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resomap.analysis.per_class import critical_resolutions
from resomap.analysis.recommend import recommend
from resomap.analysis.records import Budget, Option
from resomap.records import Cell
from resomap.report.html import interval_cell, metric_cell
from resomap.serialize import plain
from resomap.study.costs.circumstances import circumstances
from resomap.study.reporting.cost_tables import cost_table, files_table, memory_table
from resomap.study.reporting.map_tables import agreement_table, consistency_table, masks_table
from resomap.study.reporting.provenance_table import provenance_table
from resomap.study.reporting.verdict_tables import (
    class_detail_table,
    classes_table,
    comparisons_table,
    options_table,
    over_limit_words,
    reference_words,
    saturation_table,
)

MACHINE = {"device": "cpu", "processes": 1, "runs_at_once": 1, "cpu_count": 2}
PROTOCOL = {"training": {"epochs": 4, "batch_size": 8}}
IMAGES = {"train": 64, "val": 8}
PLANNED = circumstances(
    {"protocol": PROTOCOL | {"images": ""}, "cell": {"resolution": 64, "seed": 0}}, images=IMAGES, provenance=MACHINE
)


def _figure(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None}


def _study(**given: Any) -> Any:
    profile = {
        "model": "tiny_cnn", "resolution": 64, "complexity": {"macs": 2e9, "parameters": 3e6},
        "predicted_inference_mib": 10.0, "inference_memory": {"peak_mib": 10.1},
        "predicted_training_mib": 40.0,
        "training_memory": {"peak_mib": 40.2, "batch": 8, "method": "device allocator", "precision": "bf16"},
    }  # fmt: skip
    runs = [
        SimpleNamespace(
            cell=Cell("tiny_cnn", 64, seed), seconds=seconds, provenance=MACHINE,
            determinants={"protocol": PROTOCOL | {"images": "a hash"}, "cell": {"resolution": 64, "seed": seed}},
        )
        for seed, seconds in enumerate((10, 14))
    ]  # fmt: skip
    about = {"images": IMAGES}
    return SimpleNamespace(
        **{"profiles": [profile], "runs": runs, "plan": None, "explanations": None, "about": about} | given
    )


def test_precision_that_was_tuned_is_told_for_each_model() -> None:
    def told(*precisions: tuple[str, str]) -> str:
        runs = [SimpleNamespace(cell=Cell(model, 32, 0), provenance={"device": "cpu", "precision": precision})
                for model, precision in precisions]  # fmt: skip
        about = {"data": "data", "images": {"val": 2}, "class_names": ["a", "b"]}
        rows = provenance_table(_study(runs=runs, about=about)).rows
        return dict(rows)["precision"]

    assert told(("resnet18", "bf16"), ("tiny_cnn", "no")) == "bf16: resnet18; float32: tiny_cnn"
    assert told(("resnet18", "bf16"), ("resnet18", "bf16"), ("tiny_cnn", "bf16")) == "bf16"


def test_provenance_is_told_as_people_write_it() -> None:
    about = {"data": "d", "images": {}, "class_names": []}
    provenance = {"command": ["resomap", "run", "--data", "my photos"], "versions": {"torch": "2", "timm": "1"}}
    runs = [SimpleNamespace(cell=Cell("m", 32, 0), provenance=provenance)]
    told = dict(provenance_table(_study(runs=runs, about=about)).rows)
    assert (told["command"], told["versions"]) == ("resomap run --data 'my photos'", "torch 2, timm 1")


def test_figures_have_the_digits_of_their_interval_and_nothing_reads_minus_zero() -> None:
    tiny = {"value": -0.0000013, "low": -0.016, "high": 0.0159}
    assert interval_cell(tiny)["text"] == "0.000 (-0.016 to 0.016)"
    assert interval_cell({"value": -0.0041, "low": -0.052, "high": 0.0002}, digits=2)["text"] == "0.00 (-0.05 to 0.00)"
    assert interval_cell({"value": 1.003, "low": 0.94, "high": 1.066}, digits=2)["text"] == "1.00 (0.94 to 1.07)"
    assert metric_cell({"value": 0.9996, "low": 0.9, "high": 0.99996})["text"] == "0.9996 (0.900 to 0.99996)"


def test_a_law_that_fails_says_by_what() -> None:
    law: dict[str, Any] = {"model": "m", "top": 1.0, "drop": 0.8, "rate": 3, "rate_low": 2, "rate_high": 4}
    law |= {"resolutions": [32, 96], "worst_residual": 0.153, "holds": False, "sufficient_px": None}
    verdict = {"recommendation": {"delta": 0.05, "report_split": "test"}, "metrics": [{"images": 9, "seeds": 1}]}

    def told(fit_p: float) -> str:
        table = saturation_table(verdict | {"saturation": [law | {"fit_p": fit_p}]}, "accuracy")
        assert table is not None
        return dict(zip(table.columns, table.rows[0], strict=True))["law holds"]

    assert told(0.0459) == "no (misses a point by 0.153)"
    assert told(0.00999) == "no (p 0.00999)"


@pytest.mark.parametrize("seconds", [11.5, None])
def test_a_planned_study_shows_its_time_beside_what_it_took(seconds: float | None) -> None:
    plan = {"cells": [{"model": "tiny_cnn", "resolution": 64, "seconds_per_run": seconds, "circumstances": PLANNED}]}
    table = memory_table(_study(plan=plan))
    assert table.columns[-2:] == ["one run s predicted", "measured"]
    predicted, measured = table.rows[0][-2:]
    assert measured["value"] == 12  # the mean of two seeds
    assert predicted == "–" if seconds is None else predicted["value"] == 11.5
    assert "left out" not in table.caption
    table = memory_table(_study())
    assert table.columns[-1] == "training batch"
    assert "(device allocator). Inference: one image, in float32" in table.caption
    assert "one update in bf16, of so many images as column training batch says" in table.caption
    assert memory_table(_study(profiles=[])).rows == []


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"protocol": {"training": {"epochs": 30, "batch_size": 8}}}, "training.epochs: 30 -> 4"),
        ({"images": {"train": 100, "val": 8}}, "data.images.train: 100 -> 64"),
        ({"machine": MACHINE | {"runs_at_once": 2}}, "machine.runs_at_once: 2 -> 1"),
    ],
)
def test_a_plan_made_for_other_settings_does_not_stand_beside_the_runs(made: dict[str, Any], told: str) -> None:
    other = circumstances(
        {"protocol": made.get("protocol", PROTOCOL) | {"images": ""}, "cell": {"resolution": 64, "seed": 0}},
        images=made.get("images", IMAGES),
        provenance=made.get("machine", MACHINE),
    )
    plan = {"cells": [{"model": "tiny_cnn", "resolution": 64, "seconds_per_run": 11.5, "circumstances": other}]}
    table = memory_table(_study(plan=plan))
    assert table.rows[0][-2] == "–"
    assert table.rows[0][-1]["value"] == 12
    assert table.caption.endswith(f"planned for other settings are left out (planned -> run: {told})")
    del plan["cells"][0]["circumstances"]  # of an earlier version: for what it was made is not known
    table = memory_table(_study(plan=plan))
    assert table.rows[0][-2] == "–"
    assert table.caption.endswith("left out (planned -> run: the plan does not say for which)")


def test_consistency_stands_beside_that_of_images_right_at_both() -> None:
    row = {"model": "tiny_cnn", "method": "gradcam", "low_resolution": 32, "high_resolution": 64, "verdict": "?",
           "similarity": "spearman", "floor": _figure(0.1), "cross": _figure(0.5), "ceiling": _figure(0.9),
           "images": 4, "seeds": 2}  # fmt: skip
    rows = [row | {"subset": "all", "consistency": _figure(0.5)},
            row | {"subset": "right at both", "consistency": _figure(0.75)},
            row | {"subset": "all", "similarity": "pearson", "consistency": _figure(0.1)}]  # fmt: skip
    found = {"consistency": rows, "similarity": "spearman", "images": 4, "split": "test"}
    table = consistency_table(_study(explanations=found))
    assert table is not None
    assert table.caption == "Spearman of maps on test (4 images, 2 seeds), 95 % intervals over images of these networks"
    three = consistency_table(_study(explanations=found | {"consistency": [r | {"seeds": 3} for r in rows]}))
    assert three is not None
    assert three.caption == "Spearman of maps on test (4 images, 3 seeds), 95 % intervals over images and seeds"
    assert len(table.rows) == 1
    named = dict(zip(table.columns, table.rows[0], strict=True))
    assert named["C"]["value"] == 0.5
    assert named["C of images right at both"]["value"] == 0.75


def test_every_measure_of_agreement_stands_between_its_ends_and_overlap_beside_chance() -> None:
    row = {"model": "tiny_cnn", "method": "gradcam", "low_resolution": 32, "high_resolution": 64, "subset": "all",
           "floor": _figure(0.1), "cross": _figure(0.5), "chance": None, "images": 4, "seeds": 2}  # fmt: skip
    rows = [row | {"similarity": "spearman", "ceiling": _figure(0.9)},
            row | {"similarity": "top_k_iou", "cross": _figure(0.4), "ceiling": None, "chance": 0.25},
            row | {"similarity": "ssim", "subset": "right at both", "ceiling": _figure(0.9)}]  # fmt: skip
    table = agreement_table(_study(explanations={"split": "test", "consistency": rows}))
    assert table is not None
    assert table.columns == ["maps", "spearman", "top k iou (chance 0.25)"]
    assert [cell["text"] for cell in table.rows[0][1:]] == ["0.50 (0.10 to 0.90)", "0.40 (0.10 to ?)"]
    # Wide images leave no window of structural similarity in a map of 4 x 4: there is no figure, and there are others.
    rows.append(row | {"similarity": "ssim", "floor": None, "cross": _figure(None), "ceiling": None})
    table = agreement_table(_study(explanations={"split": "test", "consistency": rows}))
    assert [cell["text"] for cell in table.rows[0][1:]] == ["0.50 (0.10 to 0.90)", "0.40 (0.10 to ?)", ""]
    assert (
        agreement_table(_study(explanations={"split": "test", "consistency": rows[:1]})) is None
    )  # stands in the other table


def test_energies_stand_beside_chance_and_random_weights() -> None:
    spread = {"model": "tiny_cnn", "method": "gradcam", "resolution": 64, "energy_in_mask": _figure(12.0),
              "energy_in_other_masks": _figure(1.0), "pointing_game": _figure(0.9)}  # fmt: skip
    beside = {"model": "tiny_cnn", "method": "gradcam", "resolution": 64,
              "random_weights_energy_in_mask": _figure(1.2), "energy_over_random_weights": _figure(10.0)}  # fmt: skip
    for faithfulness, expected in (([beside], [12, 1, 1.2, 10, 0.9]), ([], [12, 1, "", "", 0.9])):
        found = {"has_masks": True, "spread": [spread], "faithfulness": faithfulness}
        table = masks_table(_study(explanations=found))
        assert table is not None
        assert [value["value"] for value in table.rows[0][1:]] == expected


HERE = {"model": "tiny_cnn", "resolution": 64, "device": "cpu", "device_name": "a processor", "threads": 2,
        "keeps_freed_memory": True, "latency": [], "end_to_end": None}  # fmt: skip


def test_file_to_answer_stands_apart_with_the_mode_that_it_was_measured_in() -> None:
    end = {"images": 8, "decode_ms": 1.0, "resize_ms": 2.0, "model_ms": 3.0, "total_ms": 6.5}
    stored = [HERE | {"end_to_end": end | {"mode": "eager"}}, HERE | {"end_to_end": end}, HERE]  # the second: earlier
    table = files_table(_study(profiles=stored))
    assert table is not None
    assert table.caption.endswith("on a processor (cpu), 2 threads, freed memory kept")
    assert table.columns == ["option", "mode", "files", "decode ms", "resize and normalise ms", "model ms",
                             "file to answer ms"]  # fmt: skip
    assert [row[:3] for row in table.rows] == [["tiny_cnn at 64 px", "eager", 8]] * 2
    assert [value["value"] for value in table.rows[0][3:]] == [1.0, 2.0, 3.0, 6.5]
    assert files_table(_study(profiles=[HERE])) is None
    assert "file to answer ms" not in cost_table(_study(profiles=stored)).columns


def test_throughput_is_at_least_and_percentiles_are_of_calls_enough() -> None:
    timed = {"mode": "eager", "protocol": "saturated", "batch_size": 64, "median_ms": 20.0, "median_low_ms": 19.0,
             "median_high_ms": 21.0, "p95_ms": 25.0, "p99_ms": 30.0, "images_per_s": 3200.0}  # fmt: skip
    shown = {}
    for calls, more in ((19, {}), (20, {"at_least": False}), (100, {"at_least": True})):
        table = cost_table(_study(profiles=[HERE | {"latency": [timed | more | {"calls": calls}]}]))
        row = dict(zip(table.columns, table.rows[0], strict=True))
        shown[calls] = [getattr(row[c], "get", lambda _, v=row[c]: v)("text") for c in ("p95 ms", "p99 ms", "images/s")]
        assert ("at least" in table.caption) == (calls == 100)
    assert shown == {19: ["–", "–", "3200.0"], 20: ["25.00", "–", "3200.0"], 100: ["25.00", "30.00", "at least 3200.0"]}


def test_latency_says_where_it_was_measured_row_by_row_unless_in_one_place() -> None:
    numbers = ("median_ms", "median_low_ms", "median_high_ms", "p95_ms", "p99_ms", "images_per_s")
    timed = dict.fromkeys(numbers, 1.0) | {"mode": "eager", "protocol": "batch1", "batch_size": 1, "calls": 100}
    here = HERE | {"latency": [timed]}
    there = here | {"resolution": 32, "device": "cuda:0", "device_name": "a card"}
    table = cost_table(_study(profiles=[here, here]))
    assert table.caption == "Latency on a processor (cpu), 2 threads, freed memory kept"
    assert "measured on" not in table.columns
    for other in (there, here | {"threads": 1}, here | {"keeps_freed_memory": False}):
        table = cost_table(_study(profiles=[here, other]))
        assert table.caption == "Latency on several kinds of hardware: not to be compared"
        where = [dict(zip(table.columns, row, strict=True))["measured on"] for row in table.rows]
        assert where[0] == "a processor (cpu), 2 threads, freed memory kept"
        assert where[1] != where[0]


def test_a_class_of_few_images_has_a_critical_resolution_and_no_interval() -> None:
    right = np.zeros((3, 1, 41), bool)
    right[1:, :, :20], right[2, :, 20:] = True, True
    needs = critical_resolutions(right, np.repeat([0, 1, 2], [20, 20, 1]), (64, 96, 128), ("many", "late", "rare"))
    table = classes_table({"classes": [{"model": "tiny_cnn"} | plain(need) for need in needs]})
    assert "an interval needs 20 images" in table.caption
    shown = {row[0]: (row[2], row[3]["text"], row[3]["value"]) for row in table.rows}
    assert shown == {"many": (20, "96 (96 to 96)", 96), "late": (20, "128 (128 to 128)", 128), "rare": (1, "128", 128)}


def test_a_gain_that_may_be_anything_is_not_shown_as_one_and_comes_last() -> None:
    """One image: its gain of 1 has an interval of all that a gain may be."""
    one = {"value": 1.0, "low": -1.0, "high": 1.0, "seeds": 1}
    many = {"value": 0.2, "low": 0.1, "high": 0.3, "seeds": 1}
    step = {"model": "a", "low_resolution": 32, "high_resolution": 64}
    rows = [
        step | {"name": name, "images": images, "total": found, "size": found, "detail": found}
        for name, images, found in (("rare", 1, one), ("common", 100, many))
    ]
    table = class_detail_table({"detail_classes": rows, "recommendation": {"report_split": "test"}})
    assert table is not None
    assert table.caption.startswith(
        "Gain of recall of each class on test (1 seed) and its two parts, 95 % intervals over"
    )
    assert [row[0] for row in table.rows] == ["common", "rare"]
    assert [row[3]["text"] for row in table.rows] == ["0.200 (0.100 to 0.300)", "no information"]


def _answer(*, models: int, max_latency_ms: float) -> dict[str, Any]:
    """Each model at 64 px, right in all of 100 images of which it takes 5 ms or, in some rounds, 5.2."""
    options = [
        Option(f"m{k}", 64, np.ones((1, 100)), np.ones((1, 100)), 4.99 + k, (4.9 + k, 4.98 + k, 5.2 + k), 8.0)
        for k in range(models)
    ]
    return plain(recommend(options, budget=Budget(max_latency_ms=max_latency_ms), delta=0.5, draws=2000))


def test_the_bound_of_each_option_says_at_which_level_it_holds() -> None:
    for models, level in ((1, "95 % lower bound"), (2, "97.5 % lower bound"), (3, "98.3 % lower bound")):
        assert level in options_table(_answer(models=models, max_latency_ms=9.0), "accuracy").columns


def test_the_difference_is_also_shown_on_the_split_that_did_not_decide() -> None:
    """Ten of 100 images more are right at 96 px on val, twenty more on test; where val alone decides, one column."""
    right = np.arange(100)[None] < np.array([[70], [80], [60]])
    options = [
        Option("m", side, select[None].astype(float), report[None].astype(float), 5.0, (5.0, 5.0), 8.0)
        for side, select, report in ((64, right[0], right[2]), (96, right[1], right[1]))
    ]
    table = options_table(plain(recommend(options, draws=50)), "accuracy")
    places = [table.columns.index(f"difference on {split}") for split in ("val", "test")]
    small, best = table.rows
    assert [small[k]["value"] for k in places] == pytest.approx([-0.1, -0.2])
    assert [best[k] for k in places] == [{"text": "best", "value": 0.0}, "–"]
    table = options_table(plain(recommend(options, splits=("val", "val"), draws=50)), "accuracy")
    assert [name for name in table.columns if name.startswith("difference")] == ["difference on val"]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_report_says_what_the_best_is_and_what_limit_may_be_exceeded() -> None:
    near = _answer(models=2, max_latency_ms=5.0)  # two or three of three rounds above: 7 / 27 of draws
    assert options_table(near, "accuracy").caption.startswith("Every option beside the best within the budget; 100")
    assert reference_words(near) == "the best within the budget"
    assert over_limit_words(near).startswith("median latency exceeds the limit of 5 ms with a probability of 2")
    far = _answer(models=2, max_latency_ms=9.0)
    assert (reference_words(far), over_limit_words(far)) == ("the best", "")


def test_one_option_has_no_table_of_differences() -> None:
    assert comparisons_table({"comparisons": []}, "accuracy") is None
