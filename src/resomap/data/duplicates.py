"""Which images are near-identical pictures.

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
from itertools import combinations, pairwise

import numpy as np

from resomap.data.signatures import Signature
from resomap.records import ImageRecord

MAX_DIFFERENT_BITS = 7
MIN_CORRELATION = 0.98
MAX_COLOUR_DISTANCE = 16.0

_PARTS = 9  # hashes that differ in 7 bits agree in 2 of 9 parts: only those pairs are compared
_BLOCK = 256  # rows compared at once: bounds memory where thousands of images share a hash
_EDGES = 1_000_000  # pairs kept before they are merged into groups


def near_groups(signatures: Mapping[str, Signature]) -> list[list[str]]:
    """Groups of two or more keys, linked by near-identical pairs (a chain of them is one group)."""
    keys = list(signatures)
    labels = np.arange(len(keys))
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for pairs in _near_pairs(list(signatures.values())):
        waiting.append(pairs)
        if sum(len(rows) for rows, _ in waiting) > _EDGES:
            labels, waiting = _merged(labels, waiting), []
    groups = defaultdict(list)
    for key, label in zip(keys, _merged(labels, waiting).tolist(), strict=True):
        groups[label].append(key)
    return [group for group in groups.values() if len(group) > 1]


def copy_groups(
    records: Sequence[ImageRecord], hashes: Mapping[str, str], signatures: Mapping[str, Signature]
) -> tuple[list[list[ImageRecord]], list[list[ImageRecord]]]:
    """(groups of byte-identical images, the same groups grown and joined by near-identical ones).

    Args:
        hashes: image_id -> hash of the file's content.
        signatures: content hash -> signature, of those that can be decoded.
    """
    by_content: dict[str, list[ImageRecord]] = {}
    for record in records:
        by_content.setdefault(hashes[record.image_id], []).append(record)
    linked = near_groups({key: signatures[key] for key in by_content if key in signatures})
    joined = {key for keys in linked for key in keys}
    exact = {key: same for key, same in by_content.items() if len(same) > 1}
    near = [[record for key in keys for record in by_content[key]] for keys in linked]
    return list(exact.values()), near + [same for key, same in exact.items() if key not in joined]


def _merged(labels: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(N,) group numbers once the groups of each pair are one."""
    if not pairs:
        return labels
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = (labels[np.concatenate(side)] for side in zip(*pairs, strict=True))
    links = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(labels),) * 2)
    found: np.ndarray = connected_components(links, directed=False)[1][labels]
    return found


def _near_pairs(signatures: list[Signature]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (n,) and (n,) of images that are near-identical."""
    if len(signatures) < 2:
        return
    alike = _Thumbnails(signatures)
    bits = np.array([s.bits for s in signatures], dtype=np.uint64)
    hashes, starts, counts = np.unique(np.sort(bits), return_index=True, return_counts=True)
    order = np.argsort(bits, kind="stable")  # images of hash h: order[starts[h] : starts[h] + counts[h]]

    def images(h: int) -> np.ndarray:
        return order[starts[h] : starts[h] + counts[h]]

    for h in np.flatnonzero(counts > 1).tolist():
        yield from alike.among(images(h), images(h))
    for one, other in _near_hashes(hashes):
        single = (counts[one] == 1) & (counts[other] == 1)
        yield alike.of_pairs(order[starts[one[single]]], order[starts[other[single]]])
        for g, h in zip(one[~single].tolist(), other[~single].tolist(), strict=True):
            yield from alike.among(images(g), images(h))


def _near_hashes(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (n,) and (n,) of different hashes that differ in few bits; a pair may come more than once.

    Hashes are sorted by two of their parts; neighbours at distance 1, 2, ... within a run of equal parts are compared,
    so the work is that of the pairs that agree in two parts.
    """
    edges = np.linspace(0, 64, _PARTS + 1).astype(int).tolist()
    parts = [(hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1) for low, high in pairwise(edges)]
    for first, second in combinations(parts, 2):
        both = (first << np.uint64(8) | second).astype(np.uint16)
        order = np.argsort(both, kind="stable")
        both, places = both[order], np.arange(len(order))
        for distance in range(1, len(order)):
            places = places[: np.searchsorted(places, len(order) - distance)]
            places = places[both[places] == both[places + distance]]
            if not len(places):
                break
            one, other = order[places], order[places + distance]
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= MAX_DIFFERENT_BITS
            if near.any():
                yield one[near], other[near]


class _Thumbnails:
    """What two images with near hashes must also have in common: the grey thumbnail, and the mean colour."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        self._colours = np.stack([s.colour for s in signatures])
        greys = np.stack([s.grey for s in signatures]).astype(np.float32)
        greys -= greys.mean(axis=1, keepdims=True)
        self._greys = greys / np.maximum(np.linalg.norm(greys, axis=1, keepdims=True), 1e-6)

    def of_pairs(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs (rows[i], columns[i]) that are near-identical."""
        distance = np.abs(self._colours[rows] - self._colours[columns]).max(axis=1, initial=0)
        kept = np.flatnonzero(distance <= MAX_COLOUR_DISTANCE)
        rows, columns = rows[kept], columns[kept]
        near = np.einsum("nk,nk->n", self._greys[rows], self._greys[columns]) >= MIN_CORRELATION
        return rows[near], columns[near]

    def among(self, rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pairs of any row and any column that are near-identical."""
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            near = self._greys[block] @ self._greys[columns].T >= MIN_CORRELATION
            for channel in self._colours.T:
                near &= np.abs(channel[block, None] - channel[columns]) <= MAX_COLOUR_DISTANCE
            row, column = np.nonzero(near)
            yield block[row], columns[column]
