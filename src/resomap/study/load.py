"""A finished study as tables: what notebooks, the verdict and the report read. Nothing is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resomap.analysis.statistics.pseudo import heaviest_image, pseudo_values
from resomap.errors import StudyError
from resomap.evaluation.store import read_answers, read_predictions
from resomap.layout import StudyLayout
from resomap.models.names import as_listed
from resomap.printable import printable
from resomap.records import Cell, Condition, Predictions, RunRecord, information_at, splits_used
from resomap.study.costs.cost import stored_profiles
from resomap.study.runs import assessed_runs, grid_in_words, stopped_in_words, stopped_options
from resomap.study.shared_micro_batch import comparable_runs
from resomap.study.status import run_states
from resomap.study.stored_files import read_about, read_explanations, read_plan
from resomap.study.verdict.shared_seeds import shared_seeds


@dataclass(frozen=True)
class Study:
    """A study's directory."""

    layout: StudyLayout
    _stacks: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `stack` has read: answers, not probabilities, so a large study stays small."""
    _answers: dict[tuple[Cell, Condition], tuple[np.ndarray, np.ndarray, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `_read_answers` has read."""

    def __repr__(self) -> str:
        grid = grid_in_words(record.cell for record in self.runs)
        failed = sum(record.status == "failed" for record in comparable_runs(self.layout))
        name, root = printable(self.about.get("name")), printable(self.layout.root)
        return f"<{type(self).__name__} {name!r} in {root}: {grid}; runs: {len(self.runs)} finished, {failed} failed>"

    @cached_property
    def about(self) -> dict[str, Any]:
        """What results.json says about the study as a whole: data, classes, image counts, notes."""
        return {"name": self.layout.root.name, "data": "not stored", "notes": [], "bad_files": {}} | read_about(
            self.layout
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return tuple(self.about["class_names"])

    @cached_property
    def runs(self) -> tuple[RunRecord, ...]:
        """Finished runs that may be compared."""
        return tuple(record for record in comparable_runs(self.layout) if record.status == "finished")

    @cached_property
    def stopped(self) -> dict[tuple[str, int], str]:
        """(model, resolution) that is not assessed, since training was stopped -> how many of its runs."""
        return stopped_options(self.runs)

    @cached_property
    def results(self) -> pd.DataFrame:
        """results.csv: one row for each run and split, at the run's own size."""
        return pd.read_csv(self.layout.results_csv_path)

    @property
    def conditions(self) -> pd.DataFrame:
        """analysis/conditions.csv: runs at other sizes, on less detail, repaired; empty where none was evaluated so."""
        path = self.layout.conditions_path
        return pd.read_csv(path) if path.exists() else pd.DataFrame()

    @cached_property
    def profiles(self) -> list[dict[str, Any]]:
        """profiles/*.json."""
        return stored_profiles(self.layout)

    @cached_property
    def latency(self) -> pd.DataFrame:
        """One row for each model, resolution, mode and protocol; milliseconds and images per second."""
        rows = [
            {"model": p["model"], "resolution": p["resolution"], "device": p["device_name"]}
            | {k: v for k, v in timed.items() if k != "block_medians_ms"}
            for p in self.profiles
            for timed in p["latency"]
        ]
        return pd.DataFrame(rows)

    @cached_property
    def plan(self) -> dict[str, Any] | None:
        """analysis/plan.json; None where nothing was planned."""
        return read_plan(self.layout)

    @cached_property
    def explanations(self) -> dict[str, Any] | None:
        """analysis/explanations.json; None where nothing was explained."""
        return read_explanations(self.layout)

    @property
    def splits(self) -> tuple[str, str]:
        """(split that decides, split that is reported)."""
        return splits_used(self.about["images"])

    def predictions(
        self, model: str, resolution: int, seed: int, split: str | None = None, *, condition: Condition | None = None
    ) -> pd.DataFrame:
        """One row an image: image_id, label, prediction, and a probability for each class.

        Args:
            split: None: the one that is reported, which is val where the study has no test.
            condition: None: as it was trained for; another one, instead of a split, where it was evaluated so
                (`resomap matrix`).
        Raises:
            StudyError: no such run, split or condition, or its predictions are gone or damaged.
        """
        splits = tuple(dict.fromkeys(self.splits))
        if split is not None and split not in splits:
            raise StudyError(f"split: expected one of {', '.join(splits)}, got {printable(repr(split))}")
        model = as_listed(model, {record.cell.model for record in self.runs})
        wanted, left = (model, resolution, seed), [astuple(record.cell) for record in self.runs]
        for position, name in enumerate(("model", "resolution", "seed")):
            known = dict.fromkeys(cell[position] for cell in left)
            if wanted[position] not in known:
                raise StudyError(
                    f"{name}: expected one of the finished runs', {', '.join(map(str, sorted(known)))}; got "
                    f"{printable(repr(wanted[position]))}"
                )
            left = [cell for cell in left if cell[position] == wanted[position]]
        cell = Cell(model, resolution, seed)
        if condition is None:
            condition = self.own_condition(cell, split or self.splits[1])
        elif self.answers(cell, condition) is None:
            raise StudyError(f"{cell} was not evaluated under {printable(condition.name)}; `resomap matrix` may do so")
        stored = read_predictions(self.layout.predictions_path(cell, condition))
        frame = pd.DataFrame({"image_id": stored.image_ids, "label": stored.labels, "prediction": stored.predicted})
        return frame.join(pd.DataFrame(stored.probabilities, columns=[f"p_{name}" for name in stored.class_names]))

    def information(self, resolution: int) -> int:
        """Information resolution of the study's own images at an input resolution (data.information_resolution)."""
        return information_at(resolution, self.about.get("information_resolution"))

    def read(self, cell: Cell, split: str) -> Predictions:
        """The stored predictions of a run at its own resolution."""
        return read_predictions(self.layout.predictions_path(cell, self.own_condition(cell, split)))

    def answers(self, cell: Cell, condition: Condition) -> tuple[np.ndarray, np.ndarray] | None:
        """(labels (N,), predictions (N,)) of a run under a condition.

        None where it was not evaluated so, or on other images or classes than under its own condition.
        """
        found = self._read_answers(cell, condition)
        own = self._read_answers(cell, self.own_condition(cell, condition.split))
        if found is None or own is None:
            return None
        if found[2] != own[2]:
            del self._answers[cell, condition]  # to be read again when it was made anew
            return None
        return found[:2]

    def _read_answers(self, cell: Cell, condition: Condition) -> tuple[np.ndarray, np.ndarray, str] | None:
        if (cell, condition) not in self._answers:
            path = self.layout.predictions_path(cell, condition)
            if not path.exists():
                return None
            labels, predicted, whose = read_answers(path)
            self._answers[cell, condition] = labels.astype(np.int32), predicted.astype(np.int32), whose
        return self._answers[cell, condition]

    def own_condition(self, cell: Cell, split: str) -> Condition:
        """What a run was trained for."""
        return Condition(split, cell.resolution, self.information(cell.resolution))

    @cached_property
    def unfinished(self) -> dict[Cell, str]:
        """Runs that were planned or begun and have no result -> their state, as `resomap status` names it."""
        return {cell: state for cell, state in run_states(self.layout) if state != "finished"}

    @cached_property
    def seeds(self) -> dict[str, dict[int, frozenset[int]]]:
        """model -> resolution -> seeds whose runs are assessed."""
        seeds: dict[str, dict[int, frozenset[int]]] = {}
        for record in assessed_runs(self.runs):
            cell = record.cell
            sides = seeds.setdefault(cell.model, {})
            sides[cell.resolution] = sides.get(cell.resolution, frozenset()) | {cell.seed}
        return {model: dict(sorted(sides.items())) for model, sides in seeds.items()}

    @cached_property
    def grid(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """model -> (resolutions, seeds) of the complete grid with the most runs, as shared_seeds counts them.

        At least two resolutions, unless the model has one; a model without a seed at two of its resolutions is not in
        it. Nor are resolutions of which a run was stopped: everything that is assessed is. What else is left out for
        want of runs, left_out.py names.
        """
        chosen = {model: shared_seeds(sides, least=2) for model, sides in self.seeds.items()}
        return {model: grid for model, grid in chosen.items() if grid[1]}

    @cached_property
    def compared(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """(models, seeds) that are compared with each other: again those with the most runs.

        Raises:
            StudyError: there is no model to compare, or no two share a seed.
        """
        if not self.grid:
            stopped = f" (stopped, not assessed: {stopped_in_words(self.stopped)})" if self.stopped else ""
            raise StudyError(
                f"no model has a seed that is finished at two of its resolutions{stopped}; run the study to its end"
            )
        own = {model: frozenset(seeds) for model, (_, seeds) in self.grid.items()}
        sizes = {model: len(resolutions) for model, (resolutions, _) in self.grid.items()}
        models, seeds = shared_seeds(own, sizes=sizes)
        if len(own) > 1 and all(own[a].isdisjoint(own[b]) for a, b in combinations(own, 2)):
            raise StudyError("the models share no seed, so they cannot be compared; run them with the same seeds")
        return models, seeds

    def stack(self, model: str, split: str, *, seeds: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(labels (N,), predictions (R, S, N)) of a model, the same images throughout.

        Raises:
            StudyError: runs were evaluated on different images.
        """
        if (model, split) not in self._stacks:
            self._stacks[model, split] = self._read_stack(model, split)
        labels, predicted = self._stacks[model, split]
        shared = self.grid[model][1]
        return labels, predicted[:, [shared.index(seed) for seed in (shared if seeds is None else seeds)]]

    def values(self, model: str, split: str, metric: str, *, seeds: Sequence[int] | None = None) -> np.ndarray:
        """(R, S, N) of a model's runs: numbers by image whose mean is the metric (analysis.statistics.pseudo)."""
        labels, predicted_RSN = self.stack(model, split, seeds=seeds)
        options: dict[str, Any] = {"metric": metric, "num_classes": len(self.class_names)}
        return np.array([[pseudo_values(labels, one, **options) for one in of_side] for of_side in predicted_RSN])

    def heaviest(self, model: str, split: str, metric: str) -> float:
        """Weight of an image of the rarest class over that of the mean one (analysis.statistics.pseudo)."""
        labels_N, _ = self.stack(model, split)
        return heaviest_image(labels_N, metric=metric, num_classes=len(self.class_names))

    def _read_stack(self, model: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        resolutions, seeds = self.grid[model]
        first: Predictions | None = None
        rows = []
        for side in resolutions:
            of_side = []
            for seed in seeds:
                stored = self.read(Cell(model, side, seed), split)
                first = first or stored
                if not np.array_equal(stored.image_ids, first.image_ids):
                    raise StudyError(
                        f"{model} @{side} seed {seed} was evaluated on other images than the rest; run the study again"
                    )
                of_side.append(stored.predicted)
            rows.append(of_side)
        assert first is not None
        return first.labels, np.array(rows)


def load_study(path: str | Path) -> Study:
    """Open a study's directory.

    Raises:
        StudyError: it is none, or no run is finished.
    """
    layout = StudyLayout(Path(path))
    if not layout.results_json_path.exists():
        raise StudyError(f"{printable(path)} is no study (it has no results.json); give the folder that `run` wrote")
    study = Study(layout)
    if not study.runs:
        raise StudyError(f"{printable(path)} has no finished run; run `resomap run` again")
    return study
