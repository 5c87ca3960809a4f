"""Saved training states: written atomically with a checksum, read without running anything that is in them.

A state is a torch file followed by MARK and the SHA-256 of it: torch itself does not notice a changed value.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import time
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from resomap.checks import is_number
from resomap.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from resomap.printable import printable
from resomap.serialize import DAMAGE, check_regular, remove_leftovers, write_atomic

FORMAT = "resomap-training-state"
VERSION = 2
MARK = b"\nresomap-sha256:"
_TRAILER_BYTES = len(MARK) + hashlib.sha256().digest_size
_PIECE_BYTES = 2**20

# A saved state may cost at most this share of the time, however large the model.
_SHARE_OF_TIME = 0.05


class StateKeeper:
    """Where and how often the state of training is saved.

    Args:
        path: None: nowhere.
        every_s: seconds between two states within an epoch; 0: at every update.
    """

    def __init__(self, path: str | Path | None, *, every_s: float) -> None:
        if not (is_number(every_s) and every_s >= 0):
            raise ConfigError(f"save_every_s: expected seconds, at least 0, got {every_s!r}")
        self.path = Path(path) if path is not None else None
        self.every_s = every_s
        self._saved_at, self._took_s = time.monotonic(), 0.0

    @property
    def every_update(self) -> bool:
        return self.path is not None and self.every_s == 0

    def due(self) -> bool:
        """Whether it is time to save; a large state is saved less often, so that it takes 5 % of the time."""
        if self.path is None:
            return False
        wait_s = max(self.every_s, self._took_s / _SHARE_OF_TIME) if self.every_s > 0 else 0.0
        return time.monotonic() - self._saved_at >= wait_s

    def clean_up(self) -> None:
        """Remove what a kill in the middle of writing left behind."""
        if self.path is not None:
            remove_leftovers(self.path.parent, of=self.path.name)

    def write(self, state: dict[str, Any]) -> None:
        """Save now, where a path was given.

        Raises:
            StorageError: no room, no permission, read-only; the state before it is still there.
        """
        if self.path is None:
            return
        started = time.monotonic()
        write_state(self.path, state)
        self._saved_at = time.monotonic()
        self._took_s = self._saved_at - started


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state; a kill or a full disk leaves the previous one as it was.

    Raises:
        StorageError: no room, no permission, read-only.
    """
    payload = {"format": FORMAT, "version": VERSION, **state}

    def write(stream: BinaryIO) -> None:
        hashing = _Hashing(stream)
        torch.save(payload, cast("IO[bytes]", hashing))
        stream.write(MARK + hashing.sha256.digest())

    write_atomic(path, write)


class _Hashing(io.RawIOBase):
    """Passes on what is written and hashes it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.sha256 = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self.stream.write(data)


def read_state(path: Path) -> dict[str, Any]:
    """Read a state to the CPU, tensors and plain values only.

    Raises:
        CheckpointError: missing, damaged, or no training state.
        UnsafeCheckpointError: it is a pickle that would run code.
    """
    where = printable(path)
    check_regular(path, most_bytes=sys.maxsize, error=CheckpointError)
    try:
        with open(path, "rb") as stream:
            is_sealed = _is_sealed(stream, where)
            stream.seek(0)
            if not zipfile.is_zipfile(stream):
                raise CheckpointError(f"{where} is damaged or no training state; delete it to start anew")
            stream.seek(0)
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{where} is missing; there is nothing to resume") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {where}: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{where} is damaged, or holds more than tensors and plain values and could run code; it was not "
            "loaded, delete it to start anew"
        ) from error
    except DAMAGE as error:
        raise CheckpointError(f"{where} is damaged ({type(error).__name__}); delete it to start anew") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("version") != VERSION:
        raise CheckpointError(f"{where} is no training state of this version; delete it to start anew")
    if not is_sealed:
        raise CheckpointError(f"{where} is damaged (its checksum is cut off); delete it to start anew")
    return state


def _is_sealed(stream: BinaryIO, where: str) -> bool:
    """Whether a checksum says that the file is as it was written; one that says otherwise is an error.

    A state can be as large as the memory that is free: the file is read in pieces.
    """
    length = stream.seek(0, io.SEEK_END) - _TRAILER_BYTES
    stream.seek(max(0, length))
    trailer = stream.read()
    if not trailer.startswith(MARK):
        return False
    stream.seek(0)
    sha256 = hashlib.sha256()
    while length > 0 and (piece := stream.read(min(length, _PIECE_BYTES))):
        sha256.update(piece)
        length -= len(piece)
    if sha256.digest() != trailer[len(MARK) :]:
        raise CheckpointError(f"{where} is damaged (its checksum differs); delete it to start anew")
    return True


def check_same(saved: dict[str, Any], now: dict[str, Any], *, path: Path | None = None) -> None:
    """Refuse a state that other settings produced.

    Raises:
        CheckpointError: names the first settings that differ.
    """
    different = [
        f"{name} {saved.get(name)!r} (now {now.get(name)!r})"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise CheckpointError(
            f"{printable(path) if path else 'the state'} was saved by a run with other settings: "
            f"{'; '.join(different[:3])}; restore them, or delete it to start anew"
        )
