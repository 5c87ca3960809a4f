"""Where everything lies inside a study. The only module that spells an output path.

<study>/
  study.yaml                                          resolved configuration + provenance
  checkpoints/{family}/{model}/{resolution}/seed{n}/  best_model.safetensors, last.pt, metadata.json, run.json
  model_summaries/{model}/{resolution}/summary.{txt,json}
  predictions/{model}/{resolution}/seed{n}/{condition}.parquet
  profiles/{model}/{resolution}.json
  micro_batches/{model}.json                          only where a model ran out of memory: what its runs share since
  explanations/{model}/{resolution}/seed{n}/{method}.npz   raw maps of the explained images
  analysis/{plan,explanations,verdict}.json   analysis/{images,conditions}.csv   summary.txt
  report/index.html   report/table.tex   report/figures/
  audit.json   results.csv   results.json   tuning.json   budget.json   finished.json   mlflow.db   logs/
  .locks/                                             leases: which process works on which cell (lease.py)
  .incoming/                                          files on their way from a Ray cluster, while one is used
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from resomap.records import Cell, Condition

BEST_WEIGHTS = "best_model.safetensors"
LAST_STATE = "last.pt"
METADATA = "metadata.json"
RUN_RECORD = "run.json"
ONNX_MODEL, EXPORTED_RECIPE = "model.onnx", "preprocessing.json"
"""Of `resomap export`, beside BEST_WEIGHTS and METADATA."""
VERDICT = "verdict.json"
"""In analysis/, and in the folder that `resomap probe` writes."""

TABLES_LEASE, STAGES_LEASE, TUNING_LEASE, MICRO_BATCHES_LEASE = "study", "stages", "tuning", "micro_batches"
"""Leases in locks_dir besides those of cells: of results.csv, of what follows the last run, of what a study chooses
once (tuning.json, budget.json), of micro_batches/."""


def folder_name(name: str) -> str:
    """A file-system-safe name for a model or class; unchanged for [A-Za-z0-9._-], hashed otherwise.

    'pkg.module:Net' -> 'pkg.module_Net-1a2b3c4d'. Never '', '.', '..', nor a path.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80]
    if name and safe == name:
        return name
    return f"{safe or 'x'}-{hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class StudyLayout:
    """Paths of one study; creates nothing."""

    root: Path

    @property
    def config_path(self) -> Path:
        return self.root / "study.yaml"

    @property
    def results_csv_path(self) -> Path:
        return self.root / "results.csv"

    @property
    def results_json_path(self) -> Path:
        return self.root / "results.json"

    @property
    def tuning_path(self) -> Path:
        return self.root / "tuning.json"

    @property
    def budget_path(self) -> Path:
        return self.root / "budget.json"

    @property
    def finished_path(self) -> Path:
        return self.root / "finished.json"

    def finished_parts(self) -> tuple[Path, ...]:
        """Files and folders that are what a study came to, and its configuration: not its bookkeeping."""
        folders = ("checkpoints", "predictions", "profiles", "explanations", "analysis", "report", "model_summaries")
        files = (self.config_path, self.results_csv_path, self.results_json_path, self.tuning_path)
        return (*(self.root / folder for folder in folders), *files, self.summary_text_path)

    @property
    def mlflow_db_path(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts_dir(self) -> Path:
        return self.root / "mlflow-artifacts"

    @property
    def locks_dir(self) -> Path:
        return self.root / ".locks"

    @property
    def incoming_dir(self) -> Path:
        """What workers elsewhere have sent and the study has not taken in yet; gone when no process runs."""
        return self.root / ".incoming"

    @property
    def checkpoints_dir(self) -> Path:
        return self.root / "checkpoints"

    def lease_name(self, cell: Cell) -> str:
        """What a cell is called in locks_dir."""
        return f"{folder_name(cell.model)}-{cell.resolution}-seed{cell.seed}"

    def run_dir(self, cell: Cell, family: str) -> Path:
        """checkpoints/{family}/{model}/{resolution}/seed{n}"""
        return self.checkpoints_dir / folder_name(family) / _cell_part(cell)

    def run_record_path(self, cell: Cell, family: str) -> Path:
        return self.run_dir(cell, family) / RUN_RECORD

    def rung_path(self, cell: Cell, family: str, rung: int) -> Path:
        """A run's validation answers on the way, at 1 / rung of its training."""
        return self.run_dir(cell, family) / f"rung{rung}.json"

    def summary_dir(self, model: str, resolution: int) -> Path:
        return self.root / "model_summaries" / folder_name(model) / str(resolution)

    def predictions_dir(self, cell: Cell) -> Path:
        return self.root / "predictions" / _cell_part(cell)

    @property
    def micro_batches_dir(self) -> Path:
        return self.root / "micro_batches"

    def micro_batch_path(self, model: str) -> Path:
        """The largest micro-batch of a model that ran out of memory."""
        return self.micro_batches_dir / f"{folder_name(model)}.json"

    @property
    def profiles_dir(self) -> Path:
        return self.root / "profiles"

    def profile_path(self, model: str, resolution: int) -> Path:
        return self.profiles_dir / folder_name(model) / f"{resolution}.json"

    def maps_path(self, cell: Cell, method: str) -> Path:
        return self.root / "explanations" / _cell_part(cell) / f"{folder_name(method)}.npz"

    @property
    def analysis_dir(self) -> Path:
        return self.root / "analysis"

    @property
    def explanations_path(self) -> Path:
        return self.analysis_dir / "explanations.json"

    @property
    def plan_path(self) -> Path:
        return self.analysis_dir / "plan.json"

    @property
    def verdict_path(self) -> Path:
        return self.analysis_dir / VERDICT

    @property
    def image_needs_path(self) -> Path:
        return self.analysis_dir / "images.csv"

    @property
    def conditions_path(self) -> Path:
        return self.analysis_dir / "conditions.csv"

    @property
    def report_path(self) -> Path:
        return self.root / "report" / "index.html"

    @property
    def latex_path(self) -> Path:
        """The table for a paper."""
        return self.root / "report" / "table.tex"

    @property
    def summary_text_path(self) -> Path:
        return self.root / "summary.txt"

    @property
    def figures_dir(self) -> Path:
        return self.root / "report" / "figures"

    def predictions_path(self, cell: Cell, condition: Condition) -> Path:
        return self.predictions_dir(cell) / predictions_name(condition.name)

    def stored_predictions(self, cell: Cell) -> list[Path]:
        """Of all conditions that a run was evaluated under."""
        return sorted(self.predictions_dir(cell).glob("*.parquet"))


def predictions_name(condition: str) -> str:
    """File name of the predictions under a condition, by its name."""
    return f"{folder_name(condition)}.parquet"


def study_of(path: Path) -> StudyLayout | None:
    """The study in whose checkpoints/ a path lies; None where it lies in none's."""
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        study = StudyLayout(folder.parent)
        if folder == study.checkpoints_dir and study.config_path.is_file():
            return study
    return None


def _cell_part(cell: Cell) -> Path:
    return Path(folder_name(cell.model)) / str(cell.resolution) / f"seed{cell.seed}"
