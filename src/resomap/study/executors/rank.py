"""What each process of a run does: `python -m resomap.study.executors.rank FD`, started by processes.py alone."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace

from resomap.records import Cell
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.executors.child import STOPPED, failed_event, read_job, teller
from resomap.study.executors.events import Tell, TellingProgress, TellingTracker
from resomap.study.interrupt import StopSignal, stop_on_signals
from resomap.study.progress import StudyProgress
from resomap.study.run import run_cell
from resomap.tracking.null import NullTracker
from resomap.tracking.protocol import Tracker


def main(descriptor: int) -> int:
    """Run one rank; the exit status."""
    tell = teller(descriptor)
    context, cell = read_job()
    with stop_on_signals() as stop:
        threading.Thread(target=_listen, args=(stop,), daemon=True).start()
        try:
            _run(context, cell, stop=stop, tell=tell)
        except KeyboardInterrupt:
            return STOPPED
        except Exception as error:
            # The process's boundary: whatever it is, the parent must hear of it.
            tell(failed_event(error))
            return 1
    return 0


def _listen(stop: StopSignal) -> None:
    """The parent says "stop", or is gone."""
    os.read(0, 1)
    stop.requested = True


def _run(context: StudyContext, cell: Cell, *, stop: StopSignal, tell: Tell) -> None:
    import torch.distributed as dist

    from resomap.training.engine import connect_ranks

    ranks = connect_ranks(build.device_name(context.config))
    try:
        build.settle_process(context.config)
        progress = TellingProgress(tell) if ranks.is_main else StudyProgress()
        tracker: Tracker = TellingTracker(tell, context.layout.root) if ranks.is_main else NullTracker()
        run_cell(replace(context, ranks=ranks, progress=progress), cell, tracker=tracker, stop=stop)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
