"""What a helper does: `python -m resomap.study.executors.side_by_side_helper FD`, started by side_by_side.py alone."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
from dataclasses import replace

import psutil

from resomap.records import Cell
from resomap.study import build
from resomap.study.executors.child import STOPPED, failed_event, read_job, teller
from resomap.study.executors.events import TellingProgress, TellingTracker
from resomap.study.failed_runs import attempt
from resomap.study.interrupt import StopSignal, stop_on_signals

_LOOK_S = 1.0


def main(descriptor: int) -> int:
    """Run the cells that we are told, one after the other; the exit status."""
    tell = teller(descriptor)
    context = replace(read_job(), progress=TellingProgress(tell))
    build.settle_process(context.config)
    tracker = TellingTracker(tell, context.layout.root)
    cells: queue.SimpleQueue[Cell | None] = queue.SimpleQueue()
    with stop_on_signals() as stop:
        threading.Thread(target=_listen, args=(cells, stop), daemon=True).start()
        try:
            while (cell := cells.get()) is not None:
                attempt(context, cell, tracker=tracker, stop=stop, lease=None)
                tell(("ended", {}))
        except KeyboardInterrupt:
            pass
        except Exception as error:
            # The process's boundary: whatever it is, the parent must hear of it.
            tell(failed_event(error))
            return 1
    return STOPPED


def _listen(cells: queue.SimpleQueue[Cell | None], stop: StopSignal) -> None:
    """The parent names a cell ("resnet18 224 0"), says "stop", or is gone.

    Then somebody else may claim our cell at any moment: nothing more is written. What is saved is whole. While it is
    stopped (Ctrl-Z), so are we, since nobody keeps our claim alive; it wakes us.
    """
    rest, parent = b"", os.getppid()
    while True:
        while not select.select([0], [], [], _LOOK_S)[0]:
            with contextlib.suppress(psutil.Error):
                if psutil.Process(parent).status() == psutil.STATUS_STOPPED:
                    os.kill(os.getpid(), signal.SIGSTOP)
        data = os.read(0, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"stop":
                stop.requested = True
                cells.put(None)
            else:
                model, resolution, seed = line.decode().rsplit(" ", 2)
                cells.put(Cell(model, int(resolution), int(seed)))
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
