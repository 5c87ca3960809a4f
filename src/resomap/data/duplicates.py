"""Which images show the same thing: byte-identical files, and near-identical pictures.

Near-identical means re-encoded, resized or slightly edited copies. A pair must pass three tests on
thumbnails: the 64-bit difference hash (signs of horizontal differences on 9 x 8 grey pixels) differs in
at most 7 bits; 16 x 16 grey thumbnails correlate at 0.98 or more, without which all plain skies and
white pages would be one picture; and the mean colours are within 16 levels, without which a red and a
green sign would be.

Reference: difference hash, N. Krawetz 2013, hackerfactor.com/blog/index.php?/archives/529.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resomap.data.signatures import Signature
from resomap.records import ImageRecord

MAX_DIFFERENT_BITS = 7
MIN_CORRELATION = 0.98
MAX_COLOUR_DISTANCE = 16.0

_PARTS = 8  # hashes that differ in 7 bits agree in one of 8 parts: only those pairs are compared
_BLOCK = 256  # rows compared at once: bounds memory where thousands of images share a part


def exact_groups(records: Sequence[ImageRecord], hashes: Mapping[str, str]) -> list[list[ImageRecord]]:
    """Groups of two or more byte-identical files."""
    by_content = defaultdict(list)
    for record in records:
        by_content[hashes[record.image_id]].append(record)
    return [group for group in by_content.values() if len(group) > 1]


def near_groups(signatures: Mapping[str, Signature]) -> list[list[str]]:
    """Groups of two or more keys, linked by near-identical pairs (a chain of them is one group)."""
    keys = list(signatures)
    labels = np.arange(len(keys))
    for row, columns in _near_rows(list(signatures.values())):
        found = labels[columns]
        others = found[found != labels[row]]
        if others.size:
            labels[np.isin(labels, others)] = labels[row]
    groups = defaultdict(list)
    for key, label in zip(keys, labels.tolist(), strict=True):
        groups[label].append(key)
    return [group for group in groups.values() if len(group) > 1]


def _near_rows(signatures: list[Signature]) -> Iterator[tuple[int, np.ndarray]]:
    """Index of an image and indices (n,) of those near-identical to it; each pair comes once."""
    if len(signatures) < 2:
        return
    bits = np.array([s.bits for s in signatures], dtype=np.uint64)
    colours = np.stack([s.colour for s in signatures])
    greys = np.stack([s.grey for s in signatures]).astype(np.float32)
    greys -= greys.mean(axis=1, keepdims=True)
    greys /= np.maximum(np.linalg.norm(greys, axis=1, keepdims=True), 1e-6)
    parts = bits.astype(">u8").view(np.uint8).reshape(-1, _PARTS)
    for part, members in _buckets(parts):
        for start in range(0, len(members) - 1, _BLOCK):
            rows, columns = members[start : start + _BLOCK], members[start:]
            near = np.bitwise_count(bits[rows, None] ^ bits[columns]) <= MAX_DIFFERENT_BITS
            near = np.triu(near, 1)  # each pair once, none with itself
            for earlier in parts.T[:part]:
                near &= earlier[rows, None] != earlier[columns]
            active = near.any(axis=1)
            rows, near = rows[active], near[active]
            near &= greys[rows] @ greys[columns].T >= MIN_CORRELATION
            for channel in colours.T:
                near &= np.abs(channel[rows, None] - channel[columns]) <= MAX_COLOUR_DISTANCE
            for row, mask in zip(rows.tolist(), near, strict=True):
                yield row, columns[mask]


def _buckets(parts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(N, parts) -> each part's number and the indices of the images that agree in it."""
    for number, part in enumerate(parts.T):
        order = np.argsort(part, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            if len(members) > 1:
                yield number, members
