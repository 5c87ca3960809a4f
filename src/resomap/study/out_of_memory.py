"""What a run survives: too little memory, and the death of a process that loads data.

Out of memory: the micro-batch is halved at the same effective batch, and the run begins anew. Once the smaller one is
known to fit, it holds for all runs of the model (shared_micro_batch.py). Where not even one image fits, the model's
other runs keep what they had.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from resomap.errors import ResoMapError
from resomap.models.registry import build_model
from resomap.profiling.memory import predict_memory
from resomap.records import Cell
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.shared_micro_batch import Limit

log = logging.getLogger(__name__)

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>[^\n]*)")


class TrainingMemoryError(Exception):
    """Training had no memory left. Only there do fewer images at once help: what comes after it is not lost."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the system, had no memory left."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


@contextmanager
def memory_of_training(context: StudyContext) -> Iterator[None]:
    """Around fit(): tell its want of memory from that of everything else. On one process: ranks stay in step."""
    try:
        yield
    except Exception as error:
        if context.ranks.world_size == 1 and is_out_of_memory(error):
            raise TrainingMemoryError(str(error)) from error
        raise


def dead_worker(error: BaseException) -> str | None:
    """Which data-loading process died and how; None for other errors."""
    found = _DEAD_WORKER.search(str(error)) if isinstance(error, RuntimeError) else None
    return f"data-loading process {found['pids'].strip()} {found['how'].strip()}" if found else None


@dataclass
class Recovery:
    """What was tried for one cell after it failed. On one process: ranks would wait for each other."""

    context: StudyContext
    cell: Cell
    tried: int | None = None
    """Images at once, fewer than the model's runs share: whether they fit is not known yet."""
    lost_workers: int = 0
    own: StudyContext = field(init=False)
    """The context of the latest attempt."""

    def begin(self) -> StudyContext:
        """The context of the next attempt. Its micro-batch is settled: who lowers it meanwhile does not reach it."""
        shared = self.context.ranks.broadcast(self.context.micro_batch_limit(self.cell.model))
        images = min((n for n in (shared, self.tried) if n is not None), default=None)
        self.own = replace(self.context, limit=Limit(images, is_proven=images == shared))
        return self.own

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
        return self._with_less_memory(error) if isinstance(error, TrainingMemoryError) else False

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
        used = build.micro_batch(self.own.config_of(self.cell), self.own.ranks)
        self.tried = self._fewer(used)
        if self.tried is None:
            raise ResoMapError(f"{self.cell} does not fit: {_need(self.context, self.cell)}") from error
        log.warning(
            "%s: out of memory with %d images at once; once more with %d, at the same effective batch of %d",
            self.cell, used, self.tried, build.training_length(self.context.config)[1],
        )  # fmt: skip
        return True

    def _fewer(self, used: int) -> int | None:
        """Half as many images at once, or fewer, that the model can be trained on at all its resolutions."""
        config, stores = self.context.config, self.context.stores
        try:
            of_side = build.fewest_images(config, self.cell.model, num_classes=self.context.images.num_classes)
        except (MemoryError, RuntimeError):  # memory is short at this moment
            return used // 2 or None
        fewest = max(of_side.values())
        if fewest == 1:
            return used // 2 or None
        images = len(stores["train"])
        halves = range(used // 2, 0, -1)
        return next((n for n in halves if build.smallest_micro_batch(config, n, images=images) >= fewest), None)


def _need(context: StudyContext, cell: Cell) -> str:
    """What the cell's training takes at least, in words."""
    advice = "free memory, or leave this model out at this resolution"
    try:
        specs = build.model_specs(context.config)
        network = build_model(cell.model, num_classes=context.images.num_classes, specs=specs)
        predicted = predict_memory(
            network,
            input_shape=(1, 3, cell.resolution, cell.resolution),
            precision=context.precision,
            training=True,
            optimizer=build.optimizer_factory(context.config),
            gradients_stay=build.gradients_stay(context.config, cell.model, 1, context.ranks),
            device=context.device_type,
        )
    except Exception as error:
        # It only explains a failure, and runs where memory is short or the network is a user's own.
        log.warning("the need of %s cannot be predicted: %r", cell, error)
        return f"not even one image at a time, and how much it needs cannot be predicted; {advice}"
    at_once = "one image" if predicted.batch == 1 else f"{predicted.batch} images"
    return f"even {at_once} at a time needs about {predicted.peak_mib:.0f} MiB besides {predicted.leaves_out}; {advice}"
