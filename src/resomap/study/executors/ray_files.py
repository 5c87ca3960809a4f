"""Files that travel between machines: listed with digests, fetched whole or not at all, checked when taken in."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from resomap.errors import StorageError, StudyError
from resomap.layout import LAST_STATE, RUN_RECORD
from resomap.printable import printable
from resomap.serialize import make_dirs, storage_errors

Listing = dict[str, tuple[int, str]]
"""Path relative to the folder -> size in bytes, digest of the content."""


def list_files(folder: Path) -> Listing:
    """Every file below `folder`, hidden ones left out; the saved state first, the run's record last.

    A copy that is cut short is then what a process killed meanwhile would have left.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder))]
    paths.sort(key=lambda path: (path.name != LAST_STATE, path.name == RUN_RECORD, path))
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, file_digest(path)) for path in paths}


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def file_digest(path: Path) -> str:
    """BLAKE2b of the content, 32 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def inside(folder: Path, name: str) -> Path:
    """`folder`/`name`, which must lie below the folder.

    Raises:
        StudyError: it does not.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or not relative.parts or ".." in relative.parts or "\\" in name:
        raise StudyError(f"{printable(name)} is not a path inside the folder it was named for; refused")
    return folder / relative


def fetch(listing: Listing, folder: Path, read: Callable[[str, int], bytes]) -> None:
    """Make `folder` hold the listed files; complete, with the right digests, or not there.

    Args:
        read: (file, offset) -> the next bytes of it; empty at its end.
    Raises:
        StorageError: no room, or what arrived is not what was listed.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_dirs(temporary)
    with storage_errors(temporary):
        for name, (size, digest) in listing.items():
            path = inside(temporary, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch_file(path, name, size, read)
            if path.stat().st_size != size or file_digest(path) != digest:
                raise StorageError(f"{printable(name)} arrived damaged (another digest than was announced)")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)


def _fetch_file(path: Path, name: str, size: int, read: Callable[[str, int], bytes]) -> None:
    with open(path, "wb") as stream:
        while stream.tell() < size and (piece := read(name, stream.tell())):
            stream.write(piece)


def commit(
    incoming: Path, root: Path, *, allowed: tuple[Path, ...], listing: Listing, replaces: tuple[Path, ...]
) -> None:
    """Move the files of an attempt into the study, the run's record last.

    Args:
        root: the study.
        allowed: folders of the study that these files may lie in.
        listing: what the worker says it wrote.
        replaces: folders whose other files are older than these, and go.
    Raises:
        StudyError: a file lies elsewhere, or is not what was listed.
        StorageError: the study cannot be written.
    """
    targets = {name: inside(root, name) for name in listing}
    for name, target in targets.items():
        if not any(folder in target.parents for folder in allowed):
            raise StudyError(f"a worker sent {printable(name)}, which is no file of its run; refused")
        source = inside(incoming, name)
        if not source.is_file() or file_digest(source) != listing[name][1]:
            raise StudyError(f"{printable(name)} arrived damaged (another digest than was announced)")
    for name, target in sorted(targets.items(), key=lambda pair: pair[1].name == RUN_RECORD):
        make_dirs(target.parent)
        with storage_errors(target):
            with open(inside(incoming, name), "rb") as stream:
                os.fsync(stream.fileno())
            if target.name == RUN_RECORD:
                _remove_others(replaces, set(targets.values()))
            os.replace(inside(incoming, name), target)
    shutil.rmtree(incoming, ignore_errors=True)


def _remove_others(folders: tuple[Path, ...], kept: set[Path]) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path not in kept and path.name != RUN_RECORD:
                path.unlink()
