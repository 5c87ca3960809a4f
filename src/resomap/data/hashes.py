"""Hashes of file contents, remembered between starts, and the fingerprint of a data set.

The index of a root lies in `<cache_dir>/hashes/<root>.json`: absolute path -> size, times, hash. It is
a cache and nothing else: damaged, unwritable or shared by processes, the hashes stay right.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resomap.errors import StorageError
from resomap.lease import Leases
from resomap.records import ImageDataset, ImageRecord
from resomap.serialize import DAMAGE, digest, make_dirs, storage_errors, write_atomic

_FORMAT = 2
_SETTLE_NS = 2_000_000_000  # file times can be this coarse: a younger file may change without showing it
_DIGEST_BYTES = 16

_logger = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]
"""Size in bytes, time of modification and of status change in ns: equal stamps, equal content."""
_Index = dict[str, tuple[_Stamp, str]]


def content_hashes(records: Sequence[ImageRecord], *, cache_dir: str | Path) -> dict[str, str]:
    """image_id -> hash of the file's bytes (32 hexadecimal digits).

    A file that cannot be read gets 'unreadable-' and a hash of its image_id: it equals no other file,
    and whoever decodes it will say what is wrong.
    """
    if not records:
        return {}
    path = index_path(records[0], cache_dir=cache_dir)
    stamps = {record.image_id: _stamp(record.path) for record in records}
    hashes = _looked_up(records, stamps, _read_index(path))
    missing = [record for record in records if record.image_id not in hashes]
    if not missing:
        return hashes
    _logger.info("hashing %d files", len(missing))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        fresh = dict(zip((r.image_id for r in missing), pool.map(_hash_file, missing), strict=True))
    hashes |= fresh
    _remember(path, missing, stamps, fresh)
    return {record.image_id: hashes[record.image_id] for record in records}


def remembered_hashes(records: Sequence[ImageRecord], *, cache_dir: str | Path) -> dict[str, str]:
    """content_hashes() of the files whose hash is known already; no file is read."""
    if not records:
        return {}
    stamps = {record.image_id: _stamp(record.path) for record in records}
    return _looked_up(records, stamps, _read_index(index_path(records[0], cache_dir=cache_dir)))


def _looked_up(records: Sequence[ImageRecord], stamps: Mapping[str, _Stamp | None], known: _Index) -> dict[str, str]:
    entries = {record.image_id: known.get(os.fspath(record.path)) for record in records}
    return {name: entry[1] for name, entry in entries.items() if entry is not None and entry[0] == stamps[name]}


def fingerprint(dataset: ImageDataset, *, cache_dir: str | Path) -> str:
    """Hash of all class names, splits, image ids, labels and file contents; independent of the root.

    Equal fingerprints mean the same images with the same labels in the same splits.
    """
    every = [record for records in dataset.splits.values() for record in records]
    hashes = content_hashes(every, cache_dir=cache_dir)
    rows = (
        (split, record.image_id, record.label, hashes[record.image_id])
        for split in sorted(dataset.splits)
        for record in sorted(dataset.splits[split], key=lambda record: record.image_id)
    )
    return _digest_rows([tuple(dataset.class_names)], rows)


def _digest_rows(*parts: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for rows in parts:
        for row in rows:
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _hash_file(record: ImageRecord) -> str:
    try:
        if not os.path.isfile(record.path):  # a pipe would never end
            raise FileNotFoundError
        with open(record.path, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()
    except OSError:
        return f"unreadable-{_digest_rows([(record.image_id,)])}"


def _stamp(path: Path) -> _Stamp | None:
    """The file's stamp; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def index_path(record: ImageRecord, *, cache_dir: str | Path) -> Path:
    """Where what is known about the files of this image's data set is kept."""
    # The id is the path below the root, so all splits of a data set share one index.
    root = record.path.parents[record.image_id.count("/")]
    key = hashlib.blake2b(os.fsencode(root), digest_size=_DIGEST_BYTES).hexdigest()
    return Path(cache_dir) / "hashes" / f"{key}.json"


def _read_index(path: Path) -> _Index:
    """What is remembered; nothing where the file is missing or damaged."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["format"] != _FORMAT:
            return {}
        if stored["digest"] != digest(stored["files"]):
            raise ValueError("its checksum differs")
        return {str(name): (_as_stamp(stamp), str(value)) for name, (stamp, value) in stored["files"].items()}
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        _logger.warning("the index of file hashes is damaged (%s) and is made again", type(error).__name__)
        return {}


def _as_stamp(values: Sequence[int]) -> _Stamp:
    size, modified, changed = values
    return size, modified, changed


def _remember(path: Path, records: list[ImageRecord], stamps: dict[str, _Stamp | None], hashes: dict[str, str]) -> None:
    """Add what was hashed to the index, beside what other processes have added since."""
    settled = time.time_ns() - _SETTLE_NS
    fresh: _Index = {}
    for record in records:
        # Taken before and after hashing: a file that changed meanwhile is not remembered.
        stamp, value = stamps[record.image_id], hashes[record.image_id]
        if stamp is not None and stamp[2] < settled and stamp == _stamp(record.path):
            fresh[os.fspath(record.path)] = (stamp, value)
    if not fresh:
        return
    try:
        make_dirs(path.parent)
        with storage_errors(path), Leases(path.parent).hold(path.stem):
            files = _read_index(path) | fresh
            text = json.dumps({"format": _FORMAT, "files": files, "digest": digest(files)})
            write_atomic(path, lambda stream: stream.write(text.encode()))
    except StorageError as error:
        _logger.warning("file hashes are not remembered: %s", error)
