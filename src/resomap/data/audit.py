"""Looks at all images of a data set before anything is trained on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resomap.checks import is_whole
from resomap.data.decode import MAX_PIXELS, decode_rgb
from resomap.data.duplicates import copy_groups
from resomap.data.hashes import content_hashes
from resomap.data.signatures import (
    Signature,
    remember_signatures,
    remembered_signatures,
    signature,
    signature_index,
)
from resomap.errors import BadImageError, ConfigError
from resomap.records import BadFile, ImageDataset, ImageRecord

QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True, slots=True)
class CopyGroup:
    """Images that show the same thing."""

    identical: bool
    """Byte for byte; else near-identical (re-encoded, resized, slightly edited)."""
    image_ids: tuple[str, ...]
    splits: tuple[str, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found. Sizes are of upright images; quantiles are named as in QUANTILES."""

    name: str
    root: str
    images: int
    counts: Mapping[str, Mapping[str, int]]
    """split -> class -> images."""
    imbalance_ratio: Mapping[str, float]
    """split -> images of the largest class / of the smallest (of 1, where that is empty)."""
    height_px: Mapping[str, float]
    width_px: Mapping[str, float]
    short_side_px: Mapping[str, float]
    aspect_ratio: Mapping[str, float]
    """Long side / short side."""
    median_short_side_px: Mapping[str, float]
    """class -> median; where classes differ, size alone can tell them apart."""
    crop_loss: Mapping[str, float]
    """'mean' and 'p95' of the share of an image's area outside its centre square."""
    upsampled_share: Mapping[int, float]
    """resolution -> share of images whose short side is smaller: more pixels carry no more there."""
    bad_files: tuple[BadFile, ...]
    """Everything that cannot be decoded completely. Not in the statistics of sizes."""
    copies: tuple[CopyGroup, ...]
    """Groups across splits first, then across classes, then the rest."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One decoded image."""

    height: int
    width: int
    signature: Signature


def audit_dataset(
    dataset: ImageDataset,
    *,
    resolutions: Sequence[int],
    cache_dir: str | Path,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Decode every image once, completely, and report sizes, balance, bad files and copies.

    Args:
        resolutions: sides in pixels for which upsampling is counted.
        cache_dir: where content hashes and signatures are remembered.
        max_pixels: larger images are bad files.
        workers: decoding threads; None: one a core.
        progress: called with (images done, images in all).
    Raises:
        ConfigError: a resolution is no number of pixels.
    """
    for side in resolutions:
        if not is_whole(side) or side < 1:
            raise ConfigError(f"resolutions: expected whole numbers of pixels from 1, got {side!r}")
    records = [record for split in dataset.splits.values() for record in split]
    hashes = content_hashes(records, cache_dir=cache_dir)
    index = signature_index(records[0], cache_dir=Path(cache_dir))
    known = remembered_signatures(index)
    looks, bad_files = _look_at(records, hashes, known, max_pixels=max_pixels, workers=workers, progress=progress)
    good = [record for record in records if record.image_id in looks]
    signatures = {hashes[record.image_id]: looks[record.image_id].signature for record in good}
    remember_signatures(signatures, index=index)
    sizes_N2 = np.array([(looks[r.image_id].height, looks[r.image_id].width) for r in good]).reshape(-1, 2)
    short_N, long_N = sizes_N2.min(axis=1), sizes_N2.max(axis=1)
    lost_N = 1 - short_N / long_N
    counts = _counts(dataset)
    return AuditReport(
        name=dataset.name,
        root=str(dataset.root),
        images=len(records),
        counts=counts,
        imbalance_ratio={split: max(n.values()) / max(1, min(n.values())) for split, n in counts.items()},
        height_px=_quantiles(sizes_N2[:, 0]),
        width_px=_quantiles(sizes_N2[:, 1]),
        short_side_px=_quantiles(short_N),
        aspect_ratio=_quantiles(long_N / short_N),
        median_short_side_px=_medians(short_N, good, dataset.class_names),
        crop_loss={"mean": float(lost_N.mean()), "p95": float(np.quantile(lost_N, 0.95))} if good else {},
        upsampled_share={r: float((short_N < r).mean()) for r in sorted(resolutions)} if good else {},
        bad_files=tuple(bad_files),
        copies=_copies(dataset, good, hashes, signatures),
        notes=dataset.notes,
    )


def _look_at(
    records: Sequence[ImageRecord],
    hashes: Mapping[str, str],
    known: Mapping[str, Signature],
    *,
    max_pixels: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, _Look], list[BadFile]]:
    """image_id -> look at each readable image, and the bad files in order.

    Args:
        hashes: image_id -> hash of the file's content.
        known: content hash -> signature, of those that need not be computed.
    """

    def look(record: ImageRecord) -> _Look | BadFile:
        try:
            image = decode_rgb(record.path, max_pixels=max_pixels)
        except BadImageError as error:
            return BadFile(str(record.path), error.reason)
        return _Look(image.height, image.width, known.get(hashes[record.image_id]) or signature(image))

    looks, bad_files = {}, []
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        for done, (record, found) in enumerate(zip(records, pool.map(look, records), strict=True), 1):
            if isinstance(found, BadFile):
                bad_files.append(found)
            else:
                looks[record.image_id] = found
            if progress is not None:
                progress(done, len(records))
    return looks, bad_files


def _counts(dataset: ImageDataset) -> dict[str, dict[str, int]]:
    return {
        split: dict(
            zip(
                dataset.class_names,
                np.bincount([r.label for r in records], minlength=dataset.num_classes).tolist(),
                strict=True,
            )
        )
        for split, records in dataset.splits.items()
    }


def _quantiles(values_N: np.ndarray) -> dict[str, float]:
    if not len(values_N):
        return {}
    return dict(zip(QUANTILES, np.quantile(values_N, list(QUANTILES.values())).tolist(), strict=True))


def _medians(short_N: np.ndarray, records: Sequence[ImageRecord], names: Sequence[str]) -> dict[str, float]:
    labels_N = np.array([record.label for record in records])
    return {
        name: float(np.median(short_N[labels_N == label]))
        for label, name in enumerate(names)
        if (labels_N == label).any()
    }


def _copies(
    dataset: ImageDataset,
    records: Sequence[ImageRecord],
    hashes: Mapping[str, str],
    signatures: Mapping[str, Signature],
) -> tuple[CopyGroup, ...]:
    split_of = {r.image_id: split for split, rs in dataset.splits.items() for r in rs}
    _, groups = copy_groups(records, hashes, signatures)
    found = [
        CopyGroup(
            identical=len({hashes[r.image_id] for r in group}) == 1,
            image_ids=tuple(r.image_id for r in group),
            splits=tuple(split for split in dataset.splits if split in {split_of[r.image_id] for r in group}),
            class_names=tuple(sorted({dataset.class_names[r.label] for r in group})),
        )
        for group in groups
    ]
    return tuple(sorted(found, key=lambda g: (-len(g.splits), -len(g.class_names), g.image_ids)))
