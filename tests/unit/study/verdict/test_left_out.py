"""What is compared where runs are missing, and that the verdict names all that it does not rest on."""

from itertools import combinations

import numpy as np
import pytest

from resomap.analysis.records import Option
from resomap.errors import StudyError
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.records import Cell, Condition, Predictions, RunRecord
from resomap.serialize import to_json, write_json
from resomap.study.load import Study
from resomap.study.runs import write_run
from resomap.study.verdict.shared_seeds import shared_seeds
from resomap.study.verdict.verdict import analyse_study, judge


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({64: 5, 128: 5, 256: 1}, ((64, 128), 5)),  # one run is worth less than four seeds of two resolutions
        ({64: 3, 128: 3, 256: 2}, ((64, 128, 256), 2)),  # a seed less, a resolution more
        ({64: 10, 128: 10, 256: 4}, ((64, 128, 256), 4)),  # seeds beyond three do not outweigh a resolution
        ({64: 2, 128: 2, 256: 1}, ((64, 128), 2)),
        ({64: 5, 128: 1}, ((64, 128), 1)),  # one resolution would answer nothing
        ({64: 4}, ((64,), 4)),
    ],
)
def test_the_grid_with_the_most_runs_is_compared(counts, expected):
    options, seeds = shared_seeds({side: frozenset(range(count)) for side, count in counts.items()}, least=2)
    assert (options, len(seeds)) == expected


def test_no_two_options_share_a_seed():
    assert shared_seeds({64: frozenset([0, 1]), 128: frozenset([2])}, least=2) == ((), ())


def test_no_choice_has_more_runs():
    """Against every subset of options, on drawn sets of seeds."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        drawn = {side: frozenset(np.flatnonzero(rng.random(6) < 0.6).tolist()) for side in range(5)}
        seeds_of = {side: seeds for side, seeds in drawn.items() if seeds}
        sizes = {side: int(rng.integers(1, 4)) for side in seeds_of}

        def value(options, seeds, sizes=sizes):
            runs = sum(sizes[option] for option in options)
            return runs * min(len(seeds), 3), runs * len(seeds), len(options)

        subsets = [c for k in range(1, len(seeds_of) + 1) for c in combinations(seeds_of, k)]
        best = max(value(c, frozenset.intersection(*(seeds_of[side] for side in c))) for c in subsets)
        assert value(*shared_seeds(seeds_of, sizes=sizes)) == best


@pytest.fixture
def study(tmp_path, write_profile):
    """study({(model, side): seeds}, failed=[cells], waiting=[cells]): as a run would have left it."""
    layout = StudyLayout(tmp_path)
    rng = np.random.default_rng(0)

    def make(finished, *, failed=(), waiting=()):
        cells = [Cell(model, side, seed) for (model, side), seeds in finished.items() for seed in seeds]
        for cell in cells:
            timed = {"mode": "eager", "protocol": "batch1", "median_ms": 1.0, "block_medians_ms": [1.0, 1.0]}
            write_profile(layout, cell.model, cell.resolution, [timed])
            write_run(layout.run_record_path(cell, "cnn"), RunRecord(cell, "cnn", "k", {}, "finished"))
            for split in ("val", "test"):
                condition = Condition(split, cell.resolution, cell.resolution)
                answers = Predictions(np.array([f"{i}" for i in range(40)]), np.arange(40) % 2,
                                      rng.dirichlet([1, 1], 40).astype(np.float32), ("a", "b"))  # fmt: skip
                write_predictions(layout.predictions_path(cell, condition), answers, cell=cell, condition=condition)
        for cell in failed:
            write_run(
                layout.run_record_path(cell, "cnn"), RunRecord(cell, "cnn", "k", {}, "failed", error="CUDA error")
            )
        planned = [(c.model, c.resolution, c.seed) for c in (*cells, *failed, *waiting)]
        layout.config_path.write_text(f"provenance: {to_json({'cells': planned}, indent=None)}\n")
        about = {"class_names": ["a", "b"], "images": {"test": 40}, "notes": []}
        write_json(layout.results_json_path, {"study": about})
        return Study(layout)

    return make


def warned(study):
    about_data = "tell differences"
    return [line for line in judge(study, metric="accuracy").warnings if about_data not in line]


def test_a_class_without_images_in_a_split_is_named(study):
    made = study({("a", 32): [0], ("a", 64): [0]})
    made.about["class_names"].append("c")
    named = [line.split(";")[0] for line in warned(made) if "images in" in line]
    assert named == ["fewer than 5 images in val: c (0)", "fewer than 5 images in test: c (0)"]


def test_failed_and_unfinished_runs_are_named_and_the_seeds_that_they_cost(study):
    lines = warned(
        study(
            {("a", 32): [0, 1, 2], ("a", 64): [0, 1]},
            failed=[Cell("a", 64, 2)],
            waiting=[Cell("a", 96, 0), Cell("b", 32, 0)],
        )
    )
    assert lines == [
        "1 run failed and not assessed (`resomap status` says more): a @64 seed 2",
        "2 runs not finished and not assessed (`resomap status` says more): a @96 seed 0, b @32 seed 0",
        "left out, since no run of them is finished: a @96, b @32",
        "a: seed 2 left out, not finished by @64",
    ]


def test_a_resolution_with_one_of_five_seeds_is_left_out_and_named(study):
    five = study({("a", 64): range(5), ("a", 128): range(5), ("a", 256): [0]})
    assert judge(five, metric="accuracy").seeds == 5
    assert warned(five) == ["a @256 is left out: it has seed 0; without it seeds 0, 1, 2, 3, 4 are compared"]


def test_one_seed_and_one_run_are_spoken_of_as_one(study):
    one = study({("a", 64): [0], ("a", 128): [0], ("a", 256): [1]})
    first = Cell("a", 64, 0)
    write_run(one.layout.run_record_path(first, "cnn"),
              RunRecord(first, "cnn", "k", {}, "finished", still_improving=True))  # fmt: skip
    lines = warned(Study(one.layout))
    assert "a @256 is left out: it has seed 1; without it seed 0 is compared" in lines
    assert any(line.startswith("1 of 3 runs was best in its last epochs (a @64 seed 0)") for line in lines)


def test_models_that_would_cost_the_others_their_seeds_are_left_out_and_named(study):
    three = {("a", 32): [0, 1, 2], ("a", 64): [0, 1, 2]}
    left = study(three | {("b", 32): [0], ("b", 64): [0], ("c", 32): [0], ("c", 64): [1]})
    lines = warned(left)
    assert lines == [
        "c is left out: none of its seeds is finished at two resolutions (32, 64 px)",
        "b is left out of the recommendation: it has seed 0; without it seeds 0, 1, 2 are compared",
    ]
    analysed = analyse_study(left, metric="accuracy", delta=0.1)
    assert {option["model"] for option in analysed["recommendation"]["options"]} == {"a"}
    assert {row["model"] for row in analysed["metrics"]} == {"a", "b"}  # by itself it is shown


def test_models_are_compared_with_the_seeds_that_they_share(study):
    three = {("a", 32): [0, 1, 2], ("a", 64): [0, 1, 2]}
    both = study(three | {("b", 32): [0, 1], ("b", 64): [0, 1]})
    assert judge(both, metric="accuracy").seeds == 2
    assert warned(both) == ["models together: seed 2 left out, not finished by b"]


def test_models_that_share_no_seed_are_refused(study):
    apart = study({("a", 32): [0], ("b", 32): [1]})
    with pytest.raises(StudyError, match="the models share no seed"):
        judge(apart, metric="accuracy")
    assert warned(study({("a", 32): [0, 1, 2], ("b", 32): [0, 1, 2]})) == []


def told_apart(study, metric, options):
    lines = judge(study, metric=metric, options=options).warnings
    return [line for line in lines if "tell differences" in line]


def test_what_images_tell_apart_is_of_the_metric_and_of_all_seeds(study):
    """By hand, one seed: of 100 images 20 turn right and 10 wrong. Their variance is (30 - 100 x 0.1^2) / 99 = 0.2929,
    with a pair more the standard error is sqrt(0.002929 + 0.0001) = 0.05504, and (1.984 + 0.845) times that is 0.156.
    """
    made = study({("a", 32): [0, 1], ("a", 64): [0, 1]})
    low, high, shown = np.ones((1, 100)), np.ones((1, 100)), np.ones((1, 40))
    low[0, :20], high[0, 20:30] = 0, 0

    def options(low_SN, high_SN):
        report_SN = np.repeat(shown, len(low_SN), axis=0)
        return [Option("a", side, values, report_SN, 1.0, (1.0, 1.0), 1.0)
                for side, values in ((32, low_SN), (64, high_SN))]  # fmt: skip

    assert told_apart(made, "accuracy", options(low, high)) == [
        "100 images in val and 1 seed tell differences of accuracy of about 0.16 apart (80 % power), not 0.01"
    ]
    # Values of a macro average spread more than right and wrong: twice as far, about twice the difference.
    (of_f1,) = told_apart(made, "macro_f1", options(2 * low, 2 * high))
    assert of_f1.startswith("100 images in val and 1 seed tell differences of macro F1 of about 0.31 apart")
    # A second seed that turns ten images more right: what seeds do counts too.
    (two,) = told_apart(made, "accuracy", options(np.concatenate([low, low]), np.concatenate([high, low])))
    assert two.startswith("100 images in val and 2 seeds tell differences of accuracy of about ")
    assert float(two.split("about ")[1].split()[0]) > 0.16
    assert told_apart(made, "accuracy", options(low, high)[1:]) == []
