"""What all runs of a study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.config.load import differences
from resomap.config.schema import ResoMapConfig
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.records import Cell, ImageDataset, RunRecord, TunedSettings
from resomap.serialize import digest, plain
from resomap.study import build
from resomap.study.progress import StudyProgress
from resomap.study.shared_micro_batch import Limit, shared_limit
from resomap.training.ranks import Ranks

if TYPE_CHECKING:
    from resomap.data.pyramid import ImageStore


@dataclass(frozen=True, slots=True)
class StudyContext:
    """A study that was checked and is ready to run."""

    config: ResoMapConfig
    name: str
    layout: StudyLayout
    images: ImageDataset
    stores: Mapping[str, ImageStore]
    fingerprint: str
    """Hash of all images, labels and splits."""
    cells: tuple[Cell, ...]
    device_type: str
    precision: str
    """Of evaluation, and of training where nothing else was tuned."""
    ranks: Ranks
    leases: Leases
    """Which process works on which cell."""
    progress: StudyProgress
    notes: tuple[str, ...] = ()
    """What a reader of the results must know."""
    limit: Limit | None = None
    """Of the one run that this context is for; None: what the study says at the time."""
    tuned: Mapping[str, TunedSettings] = field(default_factory=dict)
    """model -> how it is trained, where that was searched for."""
    runs_at_once: int = 1
    """Runs that this process and its helpers do side by side."""
    budget_reference: int | None = None
    """The resolution that trains training.epochs; others are given its computation. None: all train the same."""

    @property
    def image_counts(self) -> dict[str, int]:
        """split -> images; before they are decoded, with those that cannot be."""
        listed = {split: len(records) for split, records in self.images.splits.items()}
        return listed | {split: len(store.images) for split, store in self.stores.items()}

    def micro_batch_limit(self, model: str) -> int | None:
        """The micro-batch that the model's runs share since one ran out of memory; None: as configured."""
        return shared_limit(self.layout, model)

    def limit_of(self, cell: Cell) -> Limit:
        """How many images at once the cell takes at most."""
        return self.limit or Limit(self.micro_batch_limit(cell.model))

    def config_of(self, cell: Cell) -> ResoMapConfig:
        """The configuration with what is the cell's own put in: epochs, what was tuned, what memory allows.

        Stored runs that are not planned are compared by it too. For their epochs their model would have to be built,
        and whatever a study's folder names must not be: they have none of their own.
        """
        reference = self.budget_reference if cell in self.cells else None
        budgeted = build.with_budget(self.config, cell.model, cell.resolution, reference=reference)
        chosen = build.with_choice(budgeted, self.tuned.get(cell.model), cell.resolution)
        return build.with_micro_batch_limit(chosen, self.limit_of(cell).images)

    def epochs(self, cell: Cell) -> int:
        """Of the cell's training."""
        return build.training_length(self.config_of(cell))[0]

    def training_precision(self, cell: Cell) -> str:
        """Of the cell's training."""
        return build.precision_of(self.config_of(cell), self.precision)

    def run_dir(self, cell: Cell) -> Path:
        """Where the cell's checkpoints and its record lie."""
        return self.layout.run_dir(cell, build.family(self.config, cell.model))

    def record_path(self, cell: Cell) -> Path:
        """Of the cell's run.json."""
        return self.layout.run_record_path(cell, build.family(self.config, cell.model))

    def determinants(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """What the cell's weights depend on."""
        return build.determinants(
            self.config_of(cell),
            cell,
            whole=self.config,
            reference=self.budget_reference,
            fingerprint=self.fingerprint,
            precision=self.training_precision(cell),
            evaluation=self.precision,
            ranks=self.ranks,
        )

    def changes(self, record: RunRecord) -> list[str]:
        """What the run was made with and would not be now: 'training.epochs: 2 -> 3'."""
        now, stored = self.determinants(record.cell), record.determinants
        parts = ("protocol", "cell") if record.cell in self.cells else ("protocol",)
        return [line for part in parts for line in differences(stored.get(part, {}), plain(now[part]))]

    def key(self, cell: Cell) -> str:
        """Equal keys, equal weights."""
        return digest(self.determinants(cell))
