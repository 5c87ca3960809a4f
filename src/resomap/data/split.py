"""A seeded, stratified split that keeps copies of an image on one side."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from resomap.errors import DatasetError
from resomap.printable import counted, listed, printable
from resomap.records import ImageRecord

_SHOWN = 10
"""Classes named in a message."""


def split_images(
    records: Sequence[ImageRecord],
    *,
    class_names: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    groups: Sequence[Sequence[ImageRecord]] = (),
) -> dict[str, tuple[ImageRecord, ...]]:
    """Take a share of each class for each of `fractions`; what is left over is 'train'.

    Every class gets round(n * fraction), and at least one, image in each split, so far as groups
    allow. The place of an image depends on the seed and on image ids only, and hardly changes when
    others are added.

    Args:
        fractions: split -> share in (0, 1); their sum is below 1.
        groups: images that must stay together (copies of one another); disjoint.
    Returns:
        'train' and each of `fractions` -> images sorted by image_id.
    Raises:
        DatasetError: a class cannot be in all splits; names it and its counts.
    """
    check_splittable(records, class_names=class_names, fractions=fractions)
    counts = Counter(record.label for record in records)
    quotas = {
        name: Counter({label: max(1, round(n * share)) for label, n in counts.items()})
        for name, share in fractions.items()
    }
    units = _units(records, groups, seed=seed)
    placed = _place(units, quotas)
    _mend(placed, quotas)
    _check(placed, class_names=class_names)
    return {
        name: tuple(sorted((r for unit in units for r in unit), key=lambda r: r.image_id))
        for name, units in placed.items()
    }


_Unit = list[ImageRecord]
_Quotas = dict[str, Counter[int]]


def check_splittable(
    records: Sequence[ImageRecord], *, class_names: Sequence[str], fractions: Mapping[str, float]
) -> None:
    """Refuse what no split can mend, before time is spent on looking for copies.

    Raises:
        DatasetError: the fractions leave nothing for train, or a class has too few images.
    """
    if sum(fractions.values()) >= 1:
        shares = " + ".join(f"{share:g} ({name})" for name, share in fractions.items())
        raise DatasetError(f"expected shares with a sum below 1, so that train keeps some; got {shares}")
    counts = Counter(record.label for record in records)
    needed = len(fractions) + 1
    short = [f"{printable(class_names[k])} has {n}" for k, n in sorted(counts.items()) if n < needed]
    if short:
        raise DatasetError(
            f"a split into train, {' and '.join(sorted(fractions))} needs {needed} images of each class; "
            f"{listed(short, most=_SHOWN)}; add images, remove the class, or bring split folders of your own"
        )


def _units(records: Sequence[ImageRecord], groups: Sequence[Sequence[ImageRecord]], *, seed: int) -> list[_Unit]:
    """Groups and single images, in an order drawn from the seed."""
    grouped = {record.image_id for group in groups for record in group}
    units = [list(group) for group in groups]
    units += [[record] for record in records if record.image_id not in grouped]

    def place(unit: _Unit) -> bytes:
        first = min(record.image_id for record in unit)
        return hashlib.blake2b(f"{seed}:{first}".encode(), digest_size=16).digest()

    return sorted(units, key=place)


def _place(units: list[_Unit], quotas: _Quotas) -> dict[str, list[_Unit]]:
    """Each unit to the first split that still has room for all of it, or to train."""
    placed: dict[str, list[_Unit]] = {"train": [], **{name: [] for name in quotas}}
    room = {name: Counter(quota) for name, quota in quotas.items()}
    for unit in units:
        wanted = Counter(record.label for record in unit)
        fits = (name for name in room if all(n <= room[name][label] for label, n in wanted.items()))
        name = next(fits, "train")
        placed[name].append(unit)
        if name in room:
            room[name].subtract(wanted)
    return placed


def _mend(placed: dict[str, list[_Unit]], quotas: _Quotas) -> None:
    """Give a class that is missing from a split the smallest group that another split can spare."""
    labels = set().union(*quotas.values())
    for name in placed:
        for label in sorted(labels - _labels_of(placed[name])):
            donors = [donor for donor in placed if donor != name]  # train comes first
            spare = [(unit, donor) for donor in donors for unit in _spare_units(placed[donor], label)]
            if spare:
                unit, donor = min(spare, key=lambda pair: len(pair[0]))
                placed[donor].remove(unit)
                placed[name].append(unit)


def _spare_units(units: list[_Unit], label: int) -> list[_Unit]:
    """Units with an image of that class, without which all their classes still have one."""
    have = Counter(k for unit in units for k in _labels_of([unit]))
    return [unit for unit in units if label in (own := _labels_of([unit])) and all(have[k] > 1 for k in own)]


def _labels_of(units: list[_Unit]) -> set[int]:
    return {record.label for unit in units for record in unit}


def _check(placed: Mapping[str, list[_Unit]], *, class_names: Sequence[str]) -> None:
    counts = {name: Counter(r.label for unit in units for r in unit) for name, units in placed.items()}
    missing: dict[int, list[str]] = defaultdict(list)
    for label in sorted(set().union(*counts.values())):
        for name, count in counts.items():
            if not count[label]:
                missing[label].append(name)
    if missing:
        lines = [
            f"{printable(class_names[k])} ({counted(sum(c[k] for c in counts.values()), 'image')}, none left for "
            f"{' and '.join(names)})"
            for k, names in missing.items()
        ]
        raise DatasetError(
            "copies of an image must stay in one split, and too few different images are left in "
            f"{listed(lines, most=_SHOWN)}; add images, or bring your own split folders"
        )
