"""One run over several processes of this machine (DistributedDataParallel), started for it and gone with it.

What `torchrun --nproc-per-node N` would start, but a cell at a time, so that an error ends the cell and not the study.
The parent holds the store at which the ranks meet, hence no port is guessed. Each rank is told what to do on its
standard input (the context, then at most "stop") and answers with events, one JSON text a line. A rank whose input ends
has lost its parent: it saves its state and ends too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resomap.errors import RunFailedError, StudyError
from resomap.lease import Lease
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.executors.child import STOPPED, Child, error_of
from resomap.study.executors.events import replay_progress, replay_tracking
from resomap.study.interrupt import StopSignal
from resomap.study.progress import StudyProgress
from resomap.study.run import stored_run
from resomap.tracking.protocol import Tracker

if TYPE_CHECKING:
    from torch.distributed import TCPStore

GRACE_S = 10.0
"""How long the other ranks may take to end once one has failed."""
_LOOK_S = 0.2
_MODULE = "resomap.study.executors.rank"


def run_in_processes(
    context: StudyContext, cell: Cell, *, tracker: Tracker, stop: StopSignal, lease: Lease | None = None
) -> RunRecord:
    """As run.run_cell, over system.processes_per_run processes.

    Raises:
        RunFailedError: a process failed or was killed; the message is the first one's.
        StorageError: it could not write.
        LeaseLostError: another study process took the cell over.
        KeyboardInterrupt: the user stopped; the state is saved.
    """
    count = build.processes_per_run(context.config)
    with tempfile.TemporaryDirectory(prefix="resomap-ranks-") as folder, _started(context, cell, count, folder) as all_:
        with stop.between_updates():
            _watch(context, cell, all_, tracker=tracker, stop=stop, lease=lease)
        _raise_failure(cell, all_)
        if any(rank.process.returncode == STOPPED for rank in all_):
            raise KeyboardInterrupt
    record = stored_run(context, cell)
    if record is None or record.status != "finished":
        raise StudyError(f"{cell}: its processes ended without a result; run the same command again")
    return record


@contextlib.contextmanager
def _started(context: StudyContext, cell: Cell, count: int, folder: str) -> Iterator[list[Child]]:
    """The ranks, told what to run; killed at the end if they are still there."""
    from torch.distributed import TCPStore

    # Held here until the ranks are gone: it is where they meet.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks: list[Child] = []
    try:
        for number in range(count):
            environment = _environment(context, store, rank=number, count=count)
            ranks.append(Child(number, _MODULE, environment, Path(folder) / f"{number}.log"))
        job = pickle.dumps((replace(context, progress=StudyProgress()), cell))
        for rank in ranks:
            rank.send_job(job)
        yield ranks
    finally:
        for rank in ranks:
            rank.close()


def _environment(context: StudyContext, store: TCPStore, *, rank: int, count: int) -> dict[str, str]:
    """What torchrun sets."""
    threads = build.threads_of_a_process(context.config)
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 joins our store instead of opening one
        "OMP_NUM_THREADS": str(threads),
    }


def _watch(
    context: StudyContext,
    cell: Cell,
    ranks: list[Child],
    *,
    tracker: Tracker,
    stop: StopSignal,
    lease: Lease | None,
) -> None:
    """Pass events on until every rank has ended; stop them when asked, end them when one failed."""
    told, deadline = False, None
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.stream, selectors.EVENT_READ, rank)
        while selector.get_map():
            for key, _ in selector.select(_LOOK_S):
                events = key.data.receive()
                if events is None:
                    selector.unregister(key.fileobj)
                    key.data.process.wait()
                    continue
                for event in events:
                    replay_progress(event, cell, context.progress)
                replay_tracking(events, tracker, context.layout.root)
            if lease is not None:
                lease.check()
            if stop.requested and not told:
                told = True
                for rank in ranks:
                    rank.send(b"stop\n", last=True)
            if deadline is None and any(_has_failed(rank) for rank in ranks):
                deadline = time.monotonic() + GRACE_S
            if deadline is not None and time.monotonic() > deadline:
                for rank in ranks:
                    rank.kill()
                deadline = float("inf")


def _has_failed(rank: Child) -> bool:
    return bool(rank.failures) or rank.process.poll() not in (None, 0, STOPPED)


def _raise_failure(cell: Cell, ranks: list[Child]) -> None:
    """The one message that says what went wrong: a killed process before what its end did to the others."""
    for rank in ranks:
        if name := rank.signal_name():
            raise RunFailedError(f"process {rank.number + 1} of {len(ranks)} of this run was ended by {name}")
    failures = [(values["time"], rank.number, values) for rank in ranks for values in rank.failures]
    if failures:
        _, number, first = min(failures, key=lambda failure: failure[:2])
        raise error_of(f"process {number + 1} of {len(ranks)}: ", first)
    for rank in ranks:
        if rank.process.returncode not in (0, STOPPED):
            code, said = rank.process.returncode, rank.last_words()
            raise RunFailedError(f"process {rank.number + 1} of {len(ranks)} ended with {code}{said}")
