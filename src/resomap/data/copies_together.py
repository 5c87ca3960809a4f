"""Splits in which exact and near-identical copies of an image are kept on one side."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from resomap.data.duplicates import copy_groups
from resomap.data.hashes import content_hashes
from resomap.data.signatures import read_signatures, signature_index
from resomap.data.split import check_splittable, split_images
from resomap.errors import DatasetError
from resomap.records import ImageRecord

_logger = logging.getLogger(__name__)


def split_pool(
    records: tuple[ImageRecord, ...],
    *,
    class_names: tuple[str, ...],
    fractions: Mapping[str, float],
    seed: int,
    cache_dir: Path,
) -> tuple[dict[str, tuple[ImageRecord, ...]], list[str]]:
    """The splits, and notes on how they were made."""
    check_splittable(records, class_names=class_names, fractions=fractions)
    exact, near = _copies(records, cache_dir=cache_dir)
    shares = " and ".join(f"{share:g} for {name}" for name, share in sorted(fractions.items()))
    notes = [f"split by class with seed {seed}: {shares}"]
    split = partial(split_images, records, class_names=class_names, fractions=fractions, seed=seed)
    if not near:
        return split(), notes
    if (parts := _try_split(partial(split, groups=near), fractions)) is not None:
        notes.append(f"{sum(map(len, near))} identical or near-identical images were kept on one side")
        return parts, notes
    notes.append(
        f"near-identical images are too many to keep on one side (largest group: {max(map(len, near))} of "
        f"{len(records)}): only the {sum(map(len, exact))} identical ones were, so splits may share scenes"
    )
    _logger.warning("%s", notes[-1])
    return split(groups=exact), notes


def _copies(
    records: tuple[ImageRecord, ...], *, cache_dir: Path
) -> tuple[list[list[ImageRecord]], list[list[ImageRecord]]]:
    """Groups of byte-identical images, and the same groups grown by near-identical ones."""
    hashes = content_hashes(records, cache_dir=cache_dir)
    paths: dict[str, Path] = {}
    for record in records:
        paths.setdefault(hashes[record.image_id], record.path)
    return copy_groups(records, hashes, read_signatures(paths, index=signature_index(records[0], cache_dir=cache_dir)))


def _try_split(
    split: Callable[[], dict[str, tuple[ImageRecord, ...]]], fractions: Mapping[str, float]
) -> dict[str, tuple[ImageRecord, ...]] | None:
    """The split; None where its groups are so large that a class gets less than half of its share."""
    try:
        parts = split()
    except DatasetError:
        return None
    counts = {name: Counter(record.label for record in part) for name, part in parts.items()}
    for label in counts["train"]:
        total = sum(count[label] for count in counts.values())
        if any(counts[name][label] < total * share / 2 for name, share in fractions.items()):
            return None
    return parts
