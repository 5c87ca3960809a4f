"""What runs on a node of a Ray cluster: one cell, with the study's own code, in a folder of its own."""

from __future__ import annotations

import importlib
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resomap import __version__
from resomap.data.pyramid import CachedStore, ImageStore, reopen_store
from resomap.errors import StorageError, StudyError
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.records import Cell
from resomap.serialize import make_dirs
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.executors.events import Event, TellingProgress, TellingTracker
from resomap.study.executors.ray_files import fetch, list_files
from resomap.study.executors.ray_hub import PIECE_BYTES, STATE
from resomap.study.failed_runs import attempt
from resomap.study.interrupt import StopSignal
from resomap.study.shared_micro_batch import lower_limit, shared_limit

_TELL_EVERY_S = 0.5
_SHARE_FOR_STATES = 0.02
"""Of a run's time that sending its saved states may take."""
_STATES_APART_S = 20.0
"""Least time between two that are sent: a lost node costs little more than that."""
_BYTES_PER_S = 50e6
"""Guessed speed of sending, before the first time."""


@dataclass(frozen=True)
class Task:
    """One attempt at a cell."""

    name: str
    """Of the attempt: its folder."""
    cell: Cell
    version: str
    has_state: bool
    """Whether the study shares a saved state of the cell."""
    limit: int | None = None
    """The micro-batch that the runs of its model share (study/shared_micro_batch.py)."""


Call = Callable[..., Any]
"""(method of the hub, arguments) -> its result; waits."""


_IMPORTED_BY_A_CELL = ("resomap.study.executors.ray_batch", "resomap.training.trainer")


def warm(threads: int) -> None:
    """Bring into this process what a cell imports, so that the first one finds it."""
    import torch

    torch.set_num_threads(threads)
    for name in _IMPORTED_BY_A_CELL:
        importlib.import_module(name)


def run_task(context: StudyContext, task: Task, call: Call) -> dict[str, Any]:
    """Run the cell; its files are sent to the hub.

    Returns:
        {"status": "finished" | "failed" | "stopped", "listing": of the files sent, "limit": the micro-batch that the
        runs of the model share by now, "error": of a failure or None}
    """
    if task.version != __version__:
        return _failure(f"this node has ResoMap {__version__}, the study {task.version}; install the same everywhere")
    build.settle_process(context.config)
    link = Link(task.name, call)
    try:
        with tempfile.TemporaryDirectory(prefix="resomap-cell-") as folder:
            return _run(context, task, link, Path(folder))
    except StorageError as error:
        return _failure(f"on the node: {error}")
    except StudyError as error:
        return _failure(str(error))
    finally:
        link.close()


def _failure(message: str) -> dict[str, Any]:
    return {"status": "failed", "listing": {}, "limit": None, "error": message}


def _run(context: StudyContext, task: Task, link: Link, folder: Path) -> dict[str, Any]:
    layout = StudyLayout(folder)
    stores = {split: _local_store(context, split, store, link.call) for split, store in context.stores.items()}
    here = replace(
        context,
        layout=layout,
        stores=stores,
        leases=Leases(layout.locks_dir),
        progress=_StateSender(link, layout, task.cell),
    )
    if task.limit is not None:
        lower_limit(layout, here.leases, task.cell, task.limit)
    if task.has_state:
        state, target = (
            f"{STATE}{task.name}",
            layout.run_dir(task.cell, build.family(context.config, task.cell.model)),
        )
        make_dirs(target.parent)
        fetch(link.call("listing", state), target, lambda file, offset: link.call("read", state, file, offset))
    tracker = TellingTracker(link.tell, folder)
    try:
        record = attempt(here, task.cell, tracker=tracker, stop=link.stop, lease=None)
    except KeyboardInterrupt:
        return {"status": "stopped", "error": None, **link.send(layout, task.cell)}
    assert record is not None  # only a lease could be lost
    return {"status": record.status, "error": record.error, **link.send(layout, task.cell)}


def _local_store(context: StudyContext, split: str, store: ImageStore, call: Call) -> ImageStore:
    """The decoded images on this node: from its cache, else fetched into it; not-cached ones are read where they lie.

    The folder's name is a hash of the images' contents and of the settings, so what is there is the same.
    """
    if not isinstance(store, CachedStore):
        if build.fingerprint(context.config, context.images) != context.fingerprint:
            raise StudyError(
                "the images cannot be read at the same paths on this node, and they are too many to be sent decoded; "
                "mount them there, or raise data.cache_gib"
            )
        return store
    images, name = context.images.splits[split], store.folder.name
    root = make_dirs(build.cache_dir(context.config) / "pyramid")
    with Leases(root).hold(name):  # the same claim as of a study on this node that builds or evicts it
        try:
            return reopen_store(root / name, images, store.settings)
        except StorageError:
            fetch(call("listing", name), root / name, lambda file, offset: call("read", name, file, offset))
        return reopen_store(root / name, images, store.settings)


class Link:
    """Talks to the hub: events in batches from a thread, files from whoever sends them.

    stop: set once the study wants this attempt to end.
    """

    def __init__(self, attempt_name: str, call: Call) -> None:
        self.attempt, self.call = attempt_name, call
        self.stop = StopSignal()
        self._waiting: list[Event] = []
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._talk, name="resomap link", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Told within a fraction of a second."""
        with self._lock:
            self._waiting.append(event)

    def send(self, layout: StudyLayout, cell: Cell, into: str = "") -> dict[str, Any]:
        """Send every file that the cell made.

        Returns:
            {"listing": of what was sent, "limit": the micro-batch of the model's runs, which the study writes itself}
        """
        own = layout.micro_batches_dir.name
        listing = {name: what for name, what in list_files(layout.root).items() if name.partition("/")[0] != own}
        for name, (size, _) in listing.items():
            with open(layout.root / name, "rb") as stream:
                for offset in range(0, size, PIECE_BYTES) or [0]:
                    self.call("write", self.attempt, f"{into}{name}", offset, stream.read(PIECE_BYTES))
        return {"listing": listing, "limit": shared_limit(layout, cell.model)}

    def close(self) -> None:
        """Everything is told when this returns."""
        self._closed.set()
        self._thread.join()

    def _talk(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closed.wait(_TELL_EVERY_S)
            with self._lock:
                events, self._waiting = self._waiting, []
            if self.call("tell", self.attempt, events):
                self.stop.requested = True


class _StateSender(TellingProgress):
    """Tells progress, and after an epoch sends the saved state where that is cheap, for the case that the node is lost.

    At the first update of the next epoch: then the state on disk is that of the epoch's end.
    """

    def __init__(self, link: Link, layout: StudyLayout, cell: Cell) -> None:
        super().__init__(link.tell)
        self._link, self._layout, self._cell = link, layout, cell
        self._is_due, self._count = False, 0
        self._started = self._last = time.monotonic()
        self._took_s: float | None = None

    def epoch_ended(self, cell: Cell, record: Any) -> None:
        super().epoch_ended(cell, record)
        self._is_due = True

    def update_ended(self, cell: Cell, *, epoch: int, update: int, images: int) -> None:
        super().update_ended(cell, epoch=epoch, update=update, images=images)
        if self._is_due and self._is_cheap():
            self._send()
        self._is_due = False

    def _is_cheap(self) -> bool:
        since_s = time.monotonic() - self._last
        if since_s < _STATES_APART_S:
            return False
        size = sum(path.stat().st_size for path in self._layout.root.rglob("*") if path.is_file())
        took_s = self._took_s if self._took_s is not None else size / _BYTES_PER_S
        return took_s < _SHARE_FOR_STATES * since_s

    def _send(self) -> None:
        began = time.monotonic()
        self._count += 1
        into = f"state{self._count}/"
        self._link.tell(("state_sent", {"into": into, **self._link.send(self._layout, self._cell, into)}))
        self._last = time.monotonic()
        self._took_s = self._last - began
