"""What each process of a run does: `python -m resomap.study.executors.rank FD`, started by processes.py alone."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import threading
import time
import traceback
from dataclasses import replace

from resomap.errors import ResoMapError
from resomap.records import Cell
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.executors.events import Event, Tell, TellingProgress, TellingTracker
from resomap.study.executors.processes import STOPPED
from resomap.study.interrupt import StopSignal, stop_on_signals
from resomap.study.progress import StudyProgress
from resomap.study.ranks import connect_ranks
from resomap.study.run import run_cell
from resomap.tracking.null import NullTracker
from resomap.tracking.protocol import Tracker


def main(descriptor: int) -> int:
    """Run one rank; the exit status."""
    events = os.fdopen(descriptor, "wb", buffering=0)

    def tell(event: Event) -> None:
        # A parent that is gone hears nothing; the end of our input says so.
        with contextlib.suppress(BrokenPipeError):
            events.write(json.dumps(event).encode() + b"\n")

    # From the parent's own memory through a private pipe, as multiprocessing does; never from a file.
    size = int.from_bytes(_read(8), "big")
    context, cell = pickle.loads(_read(size))
    with stop_on_signals() as stop:
        threading.Thread(target=_listen, args=(stop,), daemon=True).start()
        try:
            _run(context, cell, stop=stop, tell=tell)
        except KeyboardInterrupt:
            return STOPPED
        except Exception as error:
            # The process's boundary: whatever it is, the parent must hear of it.
            tell(("failed", _failure(error)))
            return 1
    return 0


def _read(size: int) -> bytes:
    """That many bytes of our input. Not sys.stdin: a thread that waits in it would abort Python's end."""
    data = bytearray()
    while len(data) < size:
        some = os.read(0, size - len(data))
        if not some:
            sys.exit(STOPPED)  # the parent is gone already
        data += some
    return bytes(data)


def _listen(stop: StopSignal) -> None:
    """The parent says "stop", or is gone."""
    os.read(0, 1)
    stop.requested = True


def _run(context: StudyContext, cell: Cell, *, stop: StopSignal, tell: Tell) -> None:
    import torch.distributed as dist

    ranks = connect_ranks(build.device_name(context.config))
    try:
        build.settle_process(context.config)
        progress = TellingProgress(tell) if ranks.is_main else StudyProgress()
        tracker: Tracker = TellingTracker(tell, context.layout.root) if ranks.is_main else NullTracker()
        run_cell(replace(context, ranks=ranks, progress=progress), cell, tracker=tracker, stop=stop)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _failure(error: Exception) -> dict[str, object]:
    expected = isinstance(error, ResoMapError)
    return {
        "type": type(error).__name__,
        "message": str(error) if expected else repr(error),
        "expected": expected,
        "traceback": "" if expected else traceback.format_exc(),
        "time": time.monotonic(),
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
