"""The bound of the cache of decoded images: stores used longest ago make room for a new one."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from pathlib import Path

from resomap.data.store_build import META, remove
from resomap.lease import Leases

log = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{32}")


def make_room(root: Path, needed: int, limit: int, *, key: str) -> bool:
    """Delete unfinished stores of dead builders, then the stores used longest ago until `needed` more bytes fit.

    False where they do not; no store is deleted if they never can.
    """
    held = _other_stores(root, key)
    used, free = sum(size for _, size, _ in held), shutil.disk_usage(root).free

    def fits() -> bool:
        return used + needed <= limit and needed <= free

    possible = needed <= limit and needed <= free + used
    for last_use, size, folder in sorted(held):
        if (last_use == 0 or (possible and not fits())) and _evict(folder):
            used, free = used - size, free + size
    if not fits():
        log.warning(
            "decoded images need %.2f GiB, data.cache_gib is %.2f and %.2f GiB are free: decoding on the fly, "
            "which is slower",
            needed / 2**30,
            limit / 2**30,
            free / 2**30,
        )
    return fits()


def _other_stores(root: Path, key: str) -> list[tuple[float, int, Path]]:
    """(time of last use, bytes, folder) of the others; unfinished ones have the time 0."""
    found = []
    for folder in root.iterdir():
        if folder.stem == key or not _KEY.fullmatch(folder.stem) or not folder.is_dir():
            continue  # also what is not ours: nobody's folder is deleted because a cache was laid beside it
        with contextlib.suppress(FileNotFoundError):  # another process evicts too
            meta = folder / META
            last_use = meta.stat().st_mtime if folder.suffix != ".tmp" and meta.exists() else 0.0
            found.append((last_use, sum(path.stat().st_size for path in folder.iterdir()), folder))
    return found


def _evict(folder: Path) -> bool:
    """Delete a store unless somebody builds it."""
    lease = Leases(folder.parent).acquire(folder.stem)
    if lease is None:
        return False
    try:
        remove(folder)
        return True
    finally:
        lease.release()
