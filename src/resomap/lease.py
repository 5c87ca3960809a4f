"""Leases: which process works on what, on any file system that creates a file only once (NFS too; flock is not used).

    leases = Leases(folder, expiry_s=60)
    lease = leases.acquire("resnet18-224-seed0")      None where a living process holds it
    lease.check()                                     before a result is written; LeaseLostError where it is lost
    lease.release()

A lease is a file `<name>.<generation>.lease`, and whoever made the highest generation holds it. A generation is made in
one atomic step and never twice, since the highest stays when it is released: of several processes that take over what
a dead one left, one wins, also where another comes late. The holder raises a counter in its file; it writes through
the file that it made, so a holder that slept cannot touch its successor's.

Nobody compares clocks. A process judges by its own monotonic clock how long it has watched the counter stand still; a
holder that is known to have ended on this machine is followed at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from resomap.errors import LeaseLostError
from resomap.printable import printable
from resomap.serialize import make_dirs, storage_errors, this_machine

log = logging.getLogger(__name__)

_BEATS_TO_EXPIRY = 6
_HELD, _FREE = b"held", b"free"
_FREE_AT = 13  # '000000000042 held\n{...}'
_PAUSE_S = (0.01, 0.5)  # between two tries to get a lease: the first, the longest


class Lease:
    """A claim that this process holds, kept alive by a thread until release()."""

    def __init__(self, leases: Leases, name: str, generation: int, stream: int) -> None:
        self.name, self._leases, self._generation, self._stream = name, leases, generation, stream
        self._lost, self._done = False, threading.Event()
        self._verified_at = time.monotonic()
        self._thread = threading.Thread(target=self._keep_alive, name=f"lease {name}", daemon=True)
        self._thread.start()

    def is_lost(self) -> bool:
        """Whether another process has taken over; looks at the disk if that was not done lately."""
        is_due = time.monotonic() - self._verified_at > self._leases.interval_s / 2
        if is_due and not self._lost and not self._done.is_set():
            self._verify()
        return self._lost

    def check(self) -> None:
        """Cheap enough for every update.

        Raises:
            LeaseLostError: another process took over, because this one gave no sign of life.
        """
        if self.is_lost():
            raise LeaseLostError(
                f"another process has taken {printable(self.name)} over, because this one gave no sign of life for "
                f"{self._leases.expiry_s:g} s (stopped, or cut off from the disk?); it goes on there"
            )

    def release(self) -> None:
        """Let others have it; does nothing the second time."""
        if self._done.is_set():
            return
        self._done.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a full or vanished disk: this process's end frees it as well
            os.pwrite(self._stream, _FREE, _FREE_AT)
            os.fsync(self._stream)
        os.close(self._stream)

    def _keep_alive(self) -> None:
        beat, failing = 0, False
        while not self._done.wait(self._leases.interval_s) and not self._lost:
            beat += 1
            try:
                os.pwrite(self._stream, b"%012d" % beat, 0)
                os.fsync(self._stream)
                failing = False
            except OSError as error:
                if not failing:
                    log.warning("cannot keep the claim on %s alive: %s", printable(self.name), error.strerror)
                failing = True
            self._verify()

    def _verify(self) -> None:
        """Lost where a higher generation stands, or one that stood has removed ours."""
        path = self._leases.path(self.name, self._generation)
        try:
            with open(path, "rb") as now:  # opening, not stat: that is what NFS clients ask the server about
                same = os.path.sameopenfile(now.fileno(), self._stream)
            self._lost = not same or max(self._leases.generations(self.name), default=0) > self._generation
        except FileNotFoundError:
            self._lost = self._leases.folder.is_dir()
        except OSError:
            return  # a disk out of reach tells nothing
        self._verified_at = time.monotonic()


@dataclass(slots=True)
class _Watched:
    content: bytes
    still_s: float
    looked_at: float


class Leases:
    """The leases in one folder, as this process sees them.

    Args:
        folder: made when the first lease is acquired.
        expiry_s: how long a holder may give no sign of life. Longer than files stay unseen by other machines.
    """

    def __init__(self, folder: Path, *, expiry_s: float = 60.0) -> None:
        self.folder, self.expiry_s = folder, expiry_s
        self.interval_s = expiry_s / _BEATS_TO_EXPIRY
        self._watched: dict[Path, _Watched] = {}

    def acquire(self, name: str) -> Lease | None:
        """The lease, or None where another holds it. Call again from time to time: it may have died.

        Raises:
            StorageError: no room, no permission, read-only.
        """
        make_dirs(self.folder)
        latest = max(self.generations(name), default=0)
        if latest and self._is_taken(self.path(name, latest)):
            return None
        mine = latest + 1
        stream = _create(self.path(name, mine))
        if stream is None:
            return None
        present = self.generations(name)
        if max(present) > mine:  # we came so late that the others had moved on and cleaned up
            os.close(stream)
            with contextlib.suppress(OSError):
                self.path(name, mine).unlink(missing_ok=True)
            return None
        self._clean_up(name, [g for g in present if g < mine])
        return Lease(self, name, mine, stream)

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Lease]:
        """Wait for the lease, hold it inside.

        Raises:
            StorageError: no room, no permission, read-only.
        """
        pause_s, longest_s = _PAUSE_S
        while (lease := self.acquire(name)) is None:
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, longest_s)
        try:
            yield lease
        finally:
            lease.release()

    def is_held(self, name: str) -> bool:
        """Whether somebody holds it, as far as one look can tell; takes nothing."""
        latest = max(self.generations(name), default=0)
        content = _read(self.path(name, latest)) if latest else None
        return content is not None and not _is_free(content) and not _has_ended(content)

    def path(self, name: str, generation: int) -> Path:
        """The file of one generation of a lease."""
        return self.folder / f"{name}.{generation:06d}.lease"

    def generations(self, name: str) -> list[int]:
        """Those on disk, ascending."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        numbers = (
            n[len(name) + 1 : -len(".lease")] for n in names if n.startswith(f"{name}.") and n.endswith(".lease")
        )
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _is_taken(self, path: Path) -> bool:
        """Whether the latest generation's holder must still be thought alive."""
        content, now = _read(path), time.monotonic()
        if content is None:
            return True  # removed while we looked: somebody is at it
        if _is_free(content) or _has_ended(content):
            return False
        seen = self._watched.get(path)
        if seen is None or seen.content != content:
            self._watched[path] = _Watched(content, 0.0, now)
            return True
        # What was not watched does not count: this machine may have slept together with the holder.
        seen.still_s += min(now - seen.looked_at, self.interval_s)
        seen.looked_at = now
        return seen.still_s < self.expiry_s

    def _clean_up(self, name: str, generations: list[int]) -> None:
        """Remove earlier generations, the lowest first, and what kills left of making them."""
        self._watched = {path: seen for path, seen in self._watched.items() if path.exists()}
        with contextlib.suppress(OSError):
            for generation in generations:
                self.path(name, generation).unlink(missing_ok=True)
            # Not glob(), which keeps a compiled pattern for each name that it was ever given.
            for found in os.listdir(self.folder):
                if found.startswith(f".{name}.") and ".lease." in found and found.endswith(".tmp"):
                    (self.folder / found).unlink(missing_ok=True)


def _create(path: Path) -> int | None:
    """A descriptor of the new file, complete from its first moment; None where it was there already."""
    token = secrets.token_hex(16)
    content = b"%012d %s\n%s\n" % (0, _HELD, json.dumps({"token": token, **this_process()}).encode())
    temporary = path.with_name(f".{path.name}.{token[:8]}.tmp")
    with storage_errors(path):
        try:
            _write_new(temporary, content)
            _link(temporary, path, content)
        except (FileExistsError, FileNotFoundError):  # the latter: our temporary file was cleaned up by the winner
            return None
        finally:
            temporary.unlink(missing_ok=True)
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


def _write_new(path: Path, content: bytes) -> None:
    with open(path, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _link(source: Path, target: Path, content: bytes) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        # A network file system may repeat a request whose answer got lost: then the file is ours.
        if _read(target) != content:
            raise
    except FileNotFoundError:
        raise
    except OSError:  # no links on this file system
        _write_new(target, content)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _is_free(content: bytes) -> bool:
    return content[_FREE_AT : _FREE_AT + len(_FREE)] == _FREE


def _has_ended(content: bytes) -> bool:
    try:
        holder = json.loads(content.partition(b"\n")[2])
    except ValueError:
        return False  # half written: its counter stands still, and time will tell
    return has_ended(holder)


def has_ended(process: Mapping[str, Any]) -> bool:
    """Whether what this_process() has named was a process of this machine that is no more; False also where that is
    unknown."""
    try:
        if process["machine"] != this_machine():
            return False
        return not psutil.pid_exists(process["pid"]) or _start_of(process["pid"]) != process["start"]
    except (ValueError, LookupError, TypeError, OverflowError):
        return False


def this_process() -> dict[str, object]:
    """What tells this process from others, on this machine and elsewhere."""
    return {
        "host": socket.gethostname(),
        "machine": this_machine(),
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
    }


def _start_of(pid: int) -> int | None:
    """When a process started, in ticks since boot, which no change of the clock moves.

    None where the system does not tell (then the number alone counts) or the process is a zombie or gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
