"""Writing that is never half done, JSON without NaN, and where a result came from."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import psutil

from resomap.errors import ResoMapError, StorageError, StudyError
from resomap.printable import printable, without_secrets

T = TypeVar("T")

DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError),
    *(EOFError, MemoryError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError),
)
"""What readers of files (json, zipfile, numpy, torch, Pillow) raise on damaged or hostile bytes, found by fuzzing."""

_LARGEST_JSON_BYTES = 2**30
_AGAIN = "delete it and run again"
_TEMPORARY = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})\.(?P<pid>\d{1,10})\.[0-9a-f]{8}\.tmp")
_ELSEWHERE_S = 3600.0
"""Longer than another machine can be at one file, whose last change may lie before a slow fsync."""

_ELSEWHERE = "write elsewhere (another --output or data.cache_dir, or a copy of an existing study)"
_STORAGE_ERRNOS = {
    errno.ENOSPC: "no space left on the device; free some and run the same command again",
    errno.EDQUOT: "the disk quota is exhausted; free some and run the same command again",
    errno.EROFS: f"the file system is read-only; {_ELSEWHERE}",
    errno.EACCES: f"permission denied; change its permissions, or {_ELSEWHERE}",
    errno.EPERM: f"operation not permitted; change its permissions, or {_ELSEWHERE}",
    errno.EISDIR: "a folder stands where a file is needed; give the name of a file",
    errno.EEXIST: "a file stands where a folder is needed; choose another name",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; choose another name",
    errno.EINVAL: "the file system does not take such a name or file; choose another name",
    errno.EFBIG: f"the file system does not take files of that size; {_ELSEWHERE}",
    errno.EBUSY: "it is in use (a mount point?); choose another name",
    errno.EIO: f"the disk reports an error; look into the system's log, and {_ELSEWHERE}",
    errno.ESTALE: "the network file system lost it; mount it anew and run the same command again",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn full disks, read-only file systems, missing permissions and the like into StorageError naming `path`."""
    try:
        yield
    except OSError as error:
        reason = _STORAGE_ERRNOS.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"cannot write {printable(path)}: {reason}") from error


def make_dirs(path: Path) -> Path:
    """Create a folder and its parents; StorageError where that is not allowed."""
    with storage_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # /proc and its like: the parent is there, but takes no folders
            raise OSError(errno.EPERM, "cannot be created") from error
    return path


def check_writable(*paths: Path | None) -> None:
    """What is written after a long computation can be written: found out before it, nothing is left. None: no file.

    Raises:
        StorageError: it cannot.
    """
    for path in filter(None, paths):
        with storage_errors(path):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(path).st_mode):
                    raise IsADirectoryError(errno.EISDIR, "a folder")
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            probe = temporary_beside(folder / path.name)
            try:
                probe.touch(exist_ok=False)
            except FileNotFoundError as error:  # /proc and its like
                raise OSError(errno.EPERM, "cannot be created") from error
            probe.unlink()


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Call `write` on a temporary file beside `path`, fsync, rename over `path`, fsync the folder.

    A reader sees the old content or the new, never a part; a failure leaves the old content.

    Raises:
        StorageError: no room, no permission, read-only.
    """
    make_dirs(path.parent)
    temporary = temporary_beside(path)
    try:
        with storage_errors(path):
            raw = _Remembering(temporary, "xb")
            with io.BufferedWriter(raw) as stream:
                try:
                    write(stream)
                    stream.flush()
                except Exception as error:
                    if raw.failure is not None:
                        raise raw.failure from error
                    raise
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            _fsync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses that even where there is no such file
            temporary.unlink(missing_ok=True)
    return path


class _Remembering(io.FileIO):
    """A file that keeps why it could not be written: torch's and zipfile's own clean-up ends in another error."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def temporary_beside(path: Path) -> Path:
    """A new name in the same folder that says which process writes it."""
    machine = hashlib.blake2b(this_machine().encode(), digest_size=4).hexdigest()
    return path.with_name(f".{path.name[:100]}.{machine}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@lru_cache(maxsize=1)
def this_machine() -> str:
    """What must be equal for process numbers to mean the same: host, boot, and the container's view of processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def remove_leftovers(root: Path, *, of: str | None = None) -> None:
    """Remove temporary files that killed processes left.

    Those of this machine's processes that have ended; another machine's only after an hour (by the disk's own clock),
    since it may be writing.

    Args:
        of: of files in `root` whose names match this pattern; None: of any, anywhere below it.
    """
    found = list(root.rglob(".*.tmp") if of is None else root.glob(f".{of}.*.tmp"))
    if not found:
        return
    here = _TEMPORARY.fullmatch(temporary_beside(root / "x").name)
    assert here is not None
    with storage_errors(root), tempfile.TemporaryFile(dir=root) as probe:
        now = os.fstat(probe.fileno()).st_mtime
    for path in found:
        named = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if named is None:
                continue
            if named["machine"] == here["machine"]:
                is_left = not psutil.pid_exists(int(named["pid"]))
            else:
                is_left = now - path.stat().st_mtime > _ELSEWHERE_S
            if is_left:
                path.unlink()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_atomic(path, lambda stream: stream.write(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: object) -> Path:
    """Write `value` (records, numpy scalars and arrays allowed) as strict JSON; NaN and inf become null."""
    return write_text(path, to_json(value) + "\n")


def to_json(value: object, *, indent: int | None = 2) -> str:
    """`value` as strict JSON text, keys in their own order."""
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """`value` in JSON's own types: records to dicts, arrays to lists, NaN and inf to None, paths to text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


def read_json(path: Path, *, mend: str = _AGAIN, error: type[ResoMapError] = StorageError) -> Any:
    """Read JSON; a missing or damaged file raises `error` with the path, and `mend`, what to do then."""
    check_regular(path, most_bytes=_LARGEST_JSON_BYTES, error=error)
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise error(f"{printable(path)} is missing") from None
    except OSError as os_error:
        raise error(f"cannot read {printable(path)}: {os_error.strerror}") from os_error
    except (ValueError, RecursionError) as bad:
        raise error(f"{printable(path)} is damaged (not JSON: {bad}); {mend}") from bad


def read_record(
    path: Path, parse: Callable[[Any], T], *, mend: str = _AGAIN, error: type[ResoMapError] = StudyError
) -> T:
    """What `parse` makes of a JSON file's content.

    Args:
        parse: raises what it likes (of DAMAGE) where the content is not what it should be.
        mend: what to do where it is damaged, in words.
    Raises:
        ResoMapError: an `error`: the file is missing or not JSON, or parse refused it.
    """
    content = read_json(path, mend=mend, error=error)
    try:
        return parse(content)
    except DAMAGE as bad:
        why = str(bad) if isinstance(bad, ValueError) else repr(bad)
        raise error(f"{printable(path)} is damaged ({printable(why)}); {mend}") from bad


def check_regular(path: Path, *, most_bytes: int, error: type[ResoMapError]) -> None:
    """Raise `error` for what must not be opened: a pipe would wait for ever, a device has no end.

    A missing file passes: whoever opens it says so.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(status.st_mode):
        reason = "Is a directory" if stat.S_ISDIR(status.st_mode) else "it is a pipe or a device, not a file"
        raise error(f"cannot read {printable(path)}: {reason}")
    if status.st_size > most_bytes:
        raise error(f"{printable(path)} has {status.st_size:,} bytes, more than the {most_bytes:,} that it may have")


def check_unpacked(archive: Any, *, most_bytes: int) -> None:
    """ValueError where an opened npz would unpack to more than `most_bytes`: a file of megabytes can hold terabytes."""
    held = sum(info.file_size for info in archive.zip.infolist())
    if held > most_bytes:
        raise ValueError(f"it unpacks to {held:,} bytes, more than the {most_bytes:,} that it may hold")


def digest(value: object) -> str:
    """A 32-digit hash of `value` (as canonical JSON): equal settings, equal digest."""
    text = json.dumps(plain(value), sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@lru_cache(maxsize=256)
def package_version(name: str) -> str | None:
    """Installed version of a distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _git_sha() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def provenance(**extra: object) -> dict[str, Any]:
    """Where a result comes from: versions, git commit, machine, command line, UTC time, plus `extra`."""
    packages = [
        "resomap",
        "torch",
        "torchvision",
        "timm",
        "accelerate",
        "numpy",
        "pillow",
        "pandas",
        "mlflow",
    ]
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [without_secrets(printable(a)) for a in sys.argv],
        "git_sha": _git_sha(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {name: package_version(name) for name in packages},
        **extra,
    }
