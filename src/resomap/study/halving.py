"""Stopping runs that are clearly dominated: successive halving with a statistical guard.

At a quarter and at half of its epochs a run is compared with the best run of the study at the same point of training
(same seed; the largest resolutions run first). It stops where its validation accuracy is shown to be lower by more than
delta: an exact paired bound over the validation images, at a level shared out among all comparisons that the study's
runs can make, those of earlier starts too, so that the chance of stopping any run wrongly, as far as images go, is
below 5 %. Runs at a model's largest resolution never stop. Reference: Jamieson and Talwalkar 2016, arXiv:1502.07943;
the guard is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resomap.errors import StudyError
from resomap.records import Cell, EpochRecord, Predictions
from resomap.serialize import digest, read_record, write_json
from resomap.training.callbacks import Callback

if TYPE_CHECKING:
    from resomap.training.trainer import Trainer

log = logging.getLogger(__name__)

RUNGS = (4, 2)
"""A run is looked at after epochs / 4 and epochs / 2."""
ERROR = 0.05


@dataclass(frozen=True, slots=True)
class Rung:
    """Which validation images a run has right at one point of its training."""

    cell: Cell
    key: str
    """Of everything that determines the run."""
    images: str
    """Of the images' ids, in order."""
    right_N: np.ndarray


def rung_epochs(epochs: int) -> dict[int, int]:
    """epoch (from 1) -> rung, for a training of that length; too short a one has none."""
    return {epochs // part: part for part in RUNGS if epochs // part >= 1 and epochs // part < epochs}


class DominatedStopping(Callback):
    """Stops its run at a rung where another run of the study dominates it.

    Args:
        epochs: of the whole training.
        key: the run's; another run's answers count only while its own record holds.
        protected: never stop, only leave answers for others.
        comparisons: that the study can make at most; the guard's error is shared out among them.
        answer: the validation answers of the network as it now is; called on every rank.
        path_of: cell and rung -> file of its answers.
        others: cells that this one may be compared with.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        epochs: int,
        key: str,
        protected: bool,
        comparisons: int,
        delta: float,
        answer: Callable[[], Predictions],
        path_of: Callable[[Cell, int], Path],
        others: Callable[[], list[tuple[Cell, str]]],
    ) -> None:
        self._cell, self._key, self._protected = cell, key, protected
        self._rungs, self._delta, self.level = rung_epochs(epochs), delta, 1 - ERROR / max(1, comparisons)
        self._answer, self._path_of, self._others = answer, path_of, others
        self.reason: str | None = None

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        rung = self._rungs.get(record.epoch)
        if rung is None:
            return
        answers = self._answer()
        self.reason = trainer.on_main(lambda: self._judge(answers, rung, epoch=record.epoch))
        if self.reason is not None:
            trainer.stop_early()

    def _judge(self, answers: Predictions, rung: int, *, epoch: int) -> str | None:
        """Leave the answers for others; why the run stops, or None."""
        from resomap.analysis.dominance import difference_bound  # brings scipy: not before it is needed

        ours = Rung(self._cell, self._key, digest(answers.image_ids), answers.predicted == answers.labels)
        write_rung(self._path_of(self._cell, rung), ours)
        rivals = [read_rung(self._path_of(cell, rung), cell, key) for cell, key in self._others()]
        about = (ours.images, len(ours.right_N))
        same = [one for one in rivals if one is not None and (one.images, len(one.right_N)) == about]
        if self._protected or not same:
            return None
        best = max(same, key=lambda one: float(one.right_N.mean()))
        bound = difference_bound(ours.right_N, best.right_N, level=self.level)
        if bound >= -self._delta:
            return None
        return (
            f"dominated after epoch {epoch}: validation accuracy {ours.right_N.mean():.3f}, {best.cell} had "
            f"{best.right_N.mean():.3f} there; lower by at least {-bound:.3f}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"reason": self.reason}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reason = state["reason"]


def write_rung(path: Path, rung: Rung) -> None:
    """Store one run's answers at a rung."""
    right = "".join("1" if right else "0" for right in rung.right_N)
    write_json(path, {"key": rung.key, "images": rung.images, "right": right})


def read_rung(path: Path, cell: Cell, key: str) -> Rung | None:
    """A run's answers at a rung; None where there are none that can be read and belong to it as it is now."""
    if not path.exists():
        return None

    def parse(stored: Any) -> Rung | None:
        if stored["key"] != key:
            return None
        right_N = np.array([digit == "1" for digit in stored["right"]], dtype=bool)
        return Rung(cell, key, str(stored["images"]), right_N)

    try:
        return read_record(path, parse)
    except StudyError as bad:
        log.warning("%s is not compared with: %s", cell, bad)
        return None
