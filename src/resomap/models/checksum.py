"""A digest inside a safetensors file over all the rest of it, so that one changed bit is noticed.

safetensors checks shapes and sizes, not values. The digest lies in the header's free text, where other readers ignore
it: SHA-256 of the header without it (as canonical JSON), then of the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from resomap.errors import CheckpointError
from resomap.printable import printable

_KEY = "resomap.sha256"
_TEXTS = "__metadata__"
_LENGTH_BYTES = 8
_PIECE_BYTES = 1 << 22


def sealed(payload: bytes) -> tuple[bytes, memoryview]:
    """The head with the digest, and the tensors' bytes: written one after the other they make the sealed file."""
    length = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    header = json.loads(payload[_LENGTH_BYTES : _LENGTH_BYTES + length])
    tensors = memoryview(payload)[_LENGTH_BYTES + length :]
    digest = _begin(header)
    digest.update(tensors)
    header[_TEXTS] = {**header.get(_TEXTS, {}), _KEY: digest.hexdigest()}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, tensors


def check_seal(path: Path) -> None:
    """Compare a safetensors file with the digest in it; a file without one passes.

    Raises:
        CheckpointError: the file is not as it was written.
    """
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        try:
            header = json.loads(stream.read(min(length, path.stat().st_size)))
            stated = header[_TEXTS].pop(_KEY)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return  # no digest, or no header: then reading the tensors will say so
        digest = _begin(header)
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != stated:
        raise CheckpointError(
            f"{printable(path)} is damaged: its checksum differs from the one that was written; put a copy back, or "
            "delete the run's folder and run the study again"
        )


def _begin(header: dict[str, Any]) -> Any:
    """SHA-256 of a header without its digest."""
    return hashlib.sha256(json.dumps({_TEXTS: {}, **header}, sort_keys=True).encode())
