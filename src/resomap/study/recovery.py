"""What a run survives: too little memory, and the death of a process that loads data.

Out of memory: the micro-batch is halved at the same effective batch, and the run begins anew. BatchNorm sees the
micro-batch, so it must be the same at all resolutions and seeds of a model: the smaller one is stored for the model
(micro_batches/{model}.json), and runs that were made with a larger one are made again. Where not even one image fits,
the model's other runs keep what they had.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass

from resomap.errors import ResoMapError
from resomap.layout import LAST_STATE
from resomap.models.registry import build_model
from resomap.profiling.memory import predict_memory
from resomap.records import Cell, RunRecord
from resomap.serialize import write_json
from resomap.study import builders
from resomap.study.context import StudyContext
from resomap.study.run import stored_run

log = logging.getLogger(__name__)

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>[^\n]*)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the system, had no memory left."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def dead_worker(error: BaseException) -> str | None:
    """Which data-loading process died and how; None for other errors."""
    found = _DEAD_WORKER.search(str(error)) if isinstance(error, RuntimeError) else None
    return f"data-loading process {found['pids'].strip()} {found['how'].strip()}" if found else None


@dataclass
class Recovery:
    """What was tried for one cell after it failed. On one process: ranks would wait for each other."""

    context: StudyContext
    cell: Cell
    first_limit: int | None = None
    """The model's micro-batch limit before this cell ran out of memory."""
    lost_workers: int = 0
    lowered: bool = False

    def goes_on(self, error: Exception) -> bool:
        """Mend what can be mended; whether the cell should be run again.

        Raises:
            ResoMapError: named, where it was tried in vain.
        """
        if self.context.ranks.world_size > 1:
            return False
        died = dead_worker(error)
        if died is not None:
            return self._after_worker(died)
        return self._with_less_memory(error) if is_out_of_memory(error) else False

    def _after_worker(self, died: str) -> bool:
        self.lost_workers += 1
        if self.lost_workers > 1:
            raise ResoMapError(
                f"{died}, for the second time; the system may be short of memory: lower data.workers or "
                "data.prefetch_factor (data.workers=0 loads in the training process)"
            )
        log.warning("%s: %s; once more from the last saved state", self.cell, died)
        return True

    def _with_less_memory(self, error: Exception) -> bool:
        context, model = self.context, self.cell.model
        now = builders.micro_batch(context.config_of(self.cell), context.ranks)
        if not self.lowered:
            self.first_limit, self.lowered = context.micro_batch_limit(model), True
        if now == 1:
            self._restore_limit()
            raise ResoMapError(f"{self.cell} does not fit: {_need(context, self.cell)}") from error
        path = context.layout.micro_batch_path(model)
        write_json(path, {"micro_batch": now // 2, "cell": str(self.cell), "error": str(error).split("\n")[0][:200]})
        log.warning(
            "%s: out of memory with %d images at once; %d from now on, for all resolutions of %s, at the same "
            "effective batch of %d", self.cell, now, now // 2, model, context.config.training.batch_size,
        )  # fmt: skip
        (context.layout.run_dir(self.cell, builders.family(context.config, model)) / LAST_STATE).unlink(missing_ok=True)
        return True

    def _restore_limit(self) -> None:
        path = self.context.layout.micro_batch_path(self.cell.model)
        if self.first_limit is None:
            path.unlink(missing_ok=True)
        else:
            write_json(path, {"micro_batch": self.first_limit, "cell": None, "error": None})


def _need(context: StudyContext, cell: Cell) -> str:
    """What the cell's training takes at least, in words."""
    specs = builders.model_specs(context.config)
    network = build_model(cell.model, num_classes=context.images.num_classes, specs=specs)
    predicted = predict_memory(
        network,
        input_shape=(1, 3, cell.resolution, cell.resolution),
        precision=context.precision,
        training=True,
        optimizer=builders.optimizer_factory(context.config),
        device=context.device_type,
    )
    return (
        f"even one image at a time needs about {predicted.peak_mib:.0f} MiB besides {predicted.leaves_out}; "
        "free memory, or leave this model out at this resolution"
    )


def is_outgrown(context: StudyContext, record: RunRecord) -> bool:
    """Whether a run was made with a larger micro-batch than its model's runs share by now."""
    limit = context.micro_batch_limit(record.cell.model)
    training = record.determinants.get("protocol", {}).get("training", {})
    return limit is not None and training.get("micro_batch", 0) > limit


def forget_outgrown(context: StudyContext, cell: Cell) -> None:
    """Before a cell is run: delete what it left when its micro-batch was larger. For the holder of its lease."""
    record = stored_run(context, cell)
    if record is None or not is_outgrown(context, record):
        return
    log.warning("%s was made with more images at once than the runs of its model can share; it is made again", cell)
    shutil.rmtree(context.layout.run_dir(cell, record.family), ignore_errors=True)
    shutil.rmtree(context.layout.predictions_dir(cell), ignore_errors=True)
