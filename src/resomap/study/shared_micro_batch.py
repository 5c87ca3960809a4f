"""How many images a model's runs take at once since one of them ran out of memory.

BatchNorm sees the micro-batch, so the runs of a model share one. A run that is out of memory tries fewer images by
itself; only once they are known to fit is the number stored for the model (micro_batches/{model}.json), so that a
number with which nothing fits never touches another run. Each run's record names the number that it was made with: the
file is made anew from the records where it is missing or damaged.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from resomap.errors import StudyError
from resomap.layout import MICRO_BATCHES_LEASE, StudyLayout
from resomap.lease import Leases
from resomap.printable import listed, printable
from resomap.records import Cell, RunRecord
from resomap.serialize import DAMAGE, read_record, write_json
from resomap.study.runs import stored_runs

log = logging.getLogger(__name__)

_IN_PROVENANCE = "micro_batch_limit"


@dataclass(frozen=True, slots=True)
class Limit:
    """How many images a run takes at once at most."""

    images: int | None = None
    """None: as configured."""
    is_proven: bool = True
    """Whether they fit into memory; else this run is trying it."""

    def named(self) -> dict[str, Any]:
        """What the provenance of a run's record says about it."""
        return {} if self.images is None else {_IN_PROVENANCE: asdict(self)}


def limit_of(record: RunRecord) -> Limit:
    """The limit that a run was made with."""
    try:
        stored = record.provenance[_IN_PROVENANCE]
        return Limit(int(stored["images"]), bool(stored["is_proven"]))
    except DAMAGE:
        return Limit()


def shared_limit(layout: StudyLayout, model: str) -> int | None:
    """The micro-batch that the model's runs share since one ran out of memory; None: as configured.

    Raises:
        StudyError: what is stored is damaged.
    """
    path = layout.micro_batch_path(model)
    if not path.exists():
        return None
    return read_record(path, _images_of, mend="run the study's `resomap run` again, which makes it anew from the runs")


def _images_of(stored: Any) -> int:
    images = stored["micro_batch"]
    if type(images) is not int or images < 1:
        raise ValueError(f"micro_batch: expected a number of images, got {images!r}")
    return images


def lower_limit(layout: StudyLayout, leases: Leases, cell: Cell, images: int) -> None:
    """From now on the runs of the cell's model take at most this many images at once; never more than before."""
    with leases.hold(MICRO_BATCHES_LEASE):
        known = shared_limit(layout, cell.model)
        if known is None or images < known:
            write_json(layout.micro_batch_path(cell.model), {"micro_batch": images, "cell": str(cell)})


def mend_limits(layout: StudyLayout, leases: Leases) -> None:
    """Make limits whose files are missing or damaged anew, from the records of the runs made with them."""
    named: dict[str, list[int]] = {}
    for record in stored_runs(layout):
        limit = limit_of(record)
        known = named.setdefault(record.cell.model, [])
        if limit.images is not None and limit.is_proven:
            known.append(limit.images)
    for model, known in named.items():
        if _is_intact(layout, model, wanted=bool(known)):
            continue
        with leases.hold(MICRO_BATCHES_LEASE):
            if _is_intact(layout, model, wanted=bool(known)):
                continue
            path = layout.micro_batch_path(model)
            log.warning("%s is missing or damaged; made anew from the runs of %s", printable(path), model)
            if known:
                write_json(path, {"micro_batch": min(known), "cell": None})
            else:
                path.unlink()


def _is_intact(layout: StudyLayout, model: str, *, wanted: bool) -> bool:
    try:
        return shared_limit(layout, model) is not None or not wanted
    except StudyError:
        return False


def is_outgrown(layout: StudyLayout, record: RunRecord) -> bool:
    """Whether a run was made with a larger micro-batch than its model's runs share by now."""
    return exceeds(micro_batch_of(record), shared_limit(layout, record.cell.model))


def micro_batch_of(record: RunRecord) -> int:
    """The most images at once that a run took; 0 where its record does not say."""
    training: Mapping[str, int] = record.determinants.get("protocol", {}).get("training", {})
    return training.get("micro_batch", 0)


def exceeds(micro_batch: int, limit: int | None) -> bool:
    """Whether that is more than the runs of a model share."""
    return limit is not None and micro_batch > limit


def comparable_runs(layout: StudyLayout) -> Iterator[RunRecord]:
    """The study's runs without those that are outgrown: what is compared must have had the same micro-batch."""
    return (record for record in stored_runs(layout) if not is_outgrown(layout, record))


def forget_outgrown(layout: StudyLayout, record: RunRecord | None) -> None:
    """Before a cell is run: delete what it left when its micro-batch was larger. For the holder of its lease."""
    if record is None or not is_outgrown(layout, record):
        return
    log.warning(
        "%s was made with more images at once than the runs of its model can share; it is made again", record.cell
    )
    shutil.rmtree(layout.run_dir(record.cell, record.family), ignore_errors=True)
    shutil.rmtree(layout.predictions_dir(record.cell), ignore_errors=True)


def outgrown_note(layout: StudyLayout) -> str | None:
    """Which finished runs are left out of the tables, and why; None where there are none."""
    if not layout.micro_batches_dir.is_dir():
        return None  # the usual case: no record need be read for it
    left_out = [str(r.cell) for r in stored_runs(layout) if r.status == "finished" and is_outgrown(layout, r)]
    if not left_out:
        return None
    return (
        "left out, since made with more images at once than the runs of their model can share by now: "
        f"{listed(left_out, most=6)}; run these resolutions and seeds again to have them made anew"
    )
