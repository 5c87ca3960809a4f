"""A process that this one starts to compute for it, and what the two say to each other.

It is told on its standard input what to do, and answers with events (events.py), one JSON text a line. One whose input
ends has lost its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from resomap.errors import ResoMapError, RunFailedError, StorageError
from resomap.study.executors.events import Event, Tell

STOPPED = 130
"""Exit status of a process that was stopped with its state saved."""


class Child:
    """Another process of this study: its input, its events, and what it printed."""

    def __init__(self, number: int, module: str, environment: Mapping[str, str], log: Path) -> None:
        self.number, self.log = number, log
        self.failures: list[dict[str, Any]] = []
        self.killed_by_us = False
        self._rest = b""
        read, write = os.pipe()
        try:
            with open(log, "wb") as output:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(write)],
                    env={**environment, "PYTHONPATH": _import_path()},
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write,),
                    start_new_session=True,  # Ctrl-C reaches the parent alone, which passes it on in order
                )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.stream: IO[bytes] = os.fdopen(read, "rb", buffering=0)

    def send_job(self, data: bytes) -> None:
        """What read_job() gives in there, pickled; waits until the process has taken it."""
        for part in (pickle.dumps(sys.argv), data):
            self.send(len(part).to_bytes(8, "big") + part)

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Write to its input; a process that has ended already will be noticed by its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(data)
            self.process.stdin.flush()
            if last:
                self.process.stdin.close()

    def receive(self) -> list[Event] | None:
        """Events that have arrived; None at the end."""
        data = self.stream.read(1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        new = [(str(kind), dict(values)) for kind, values in map(json.loads, lines)]
        self.failures += [values for kind, values in new if kind == "failed"]
        return new

    def kill(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.killed_by_us = True
            self.process.kill()

    def close(self) -> None:
        """Kill it if it still runs, and free everything."""
        self.kill()
        self.process.wait()
        self.stream.close()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def last_words(self) -> str:
        """': ' and the last line that it printed; nothing where it printed none."""
        tail = self.log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        return f": {tail[0]}" if tail else ""

    def signal_name(self) -> str | None:
        """'SIGKILL (out of memory?)' where a signal that we did not send has ended it."""
        code = self.process.returncode
        if code is None or code >= 0 or self.killed_by_us:
            return None
        return signal.Signals(-code).name + (" (out of memory?)" if -code == signal.SIGKILL else "")


def _import_path() -> str:
    """Where this process finds modules, the user's own too, which may lie beside the script that was started."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def error_of(prefix: str, failure: dict[str, Any]) -> RunFailedError | StorageError:
    """The error of another process: an expected one as its message, another with its traceback."""
    if failure["type"] == StorageError.__name__:
        return StorageError(failure["message"])
    if failure["expected"]:
        return RunFailedError(failure["message"])
    return RunFailedError(f"{prefix}{failure['message']}\n{failure['traceback']}")


def teller(descriptor: int) -> Tell:
    """In the child: what writes its events."""
    events = os.fdopen(descriptor, "wb", buffering=0)

    def tell(event: Event) -> None:
        # A parent that is gone hears nothing; the end of our input says so.
        with contextlib.suppress(BrokenPipeError):
            events.write(json.dumps(event).encode() + b"\n")

    return tell


def read_job() -> Any:
    """In the child: what it is to do, from the parent's own memory through a private pipe, never from a file.

    Its command line becomes ours: it is what records of runs say that they were made by.
    """
    sys.argv, job = (pickle.loads(_read(int.from_bytes(_read(8), "big"))) for _ in range(2))
    return job


def _read(size: int) -> bytes:
    """That many bytes of our input. Not sys.stdin: a thread that waits in it would abort Python's end."""
    data = bytearray()
    while len(data) < size:
        some = os.read(0, size - len(data))
        if not some:
            sys.exit(STOPPED)  # the parent is gone already
        data += some
    return bytes(data)


def failed_event(error: Exception) -> Event:
    """In the child: what the parent makes its error of (error_of)."""
    expected = isinstance(error, ResoMapError)
    values = {
        "type": type(error).__name__,
        "message": str(error) if expected else repr(error),
        "expected": expected,
        "traceback": "" if expected else traceback.format_exc(),
        "time": time.monotonic(),
    }
    return "failed", values
