"""Opens a data source: a folder, a torchvision data set by name, or the generated set."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from resomap.data.copies_together import split_pool
from resomap.data.folder import SPLITS, FoundImages, find_images
from resomap.errors import DatasetError
from resomap.printable import printable
from resomap.records import ImageDataset
from resomap.serialize import digest

_logger = logging.getLogger(__name__)


def open_dataset(
    data: str | Path,
    *,
    cache_dir: str | Path,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    split_seed: int = 0,
    download: bool = True,
    acuity_options: Mapping[str, object] | None = None,
) -> ImageDataset:
    """Find, label and split the images of a source.

    - A folder with train/val/test, train/val or train/test is taken as it is (val is then split off
      train); a folder of class folders is split by class and seed, copies of an image on one side.
    - 'torchvision:NAME' is downloaded and exported once to `cache_dir`, then opened with its own splits.
    - 'acuity', 'acuity:null', 'acuity:shortcut' are generated once in `cache_dir`.

    Args:
        val_fraction: share of each class for validation where the source has no such split.
        test_fraction: share of each class for test where the source is one folder of classes; 0: none.
        acuity_options: keyword arguments of make_acuity.
    Raises:
        DatasetError: the images cannot make a study; says what was expected and found.
    """
    cache_dir = Path(cache_dir)
    fractions = {"test": test_fraction, "val": val_fraction}
    for name, share in fractions.items():
        if not 0 <= share < 1 or (name == "val" and share == 0):
            raise DatasetError(f"{name}_fraction: expected a share between 0 and 1; got {share:g}")
    if not os.fspath(data):
        raise DatasetError("data.source: expected a folder of images, torchvision:NAME, or acuity; got nothing")
    scheme, name = _scheme(data)
    if scheme == "acuity":
        return _open_acuity(name, acuity_options or {}, cache_dir=cache_dir)
    if scheme == "torchvision":
        from resomap.data.torchvision_source import export_dataset

        root, title = export_dataset(name, cache_dir=cache_dir, download=download)
    else:
        root = Path(found_anywhere(data))
        _check_scheme(scheme, root)
        title = root.resolve().name or "images"
    return _split(title, root, find_images(root), fractions=fractions, split_seed=split_seed, cache_dir=cache_dir)


def found_anywhere(data: str | Path) -> str:
    """The source so that it means the same in every working directory: a folder as its absolute path."""
    if not os.fspath(data) or _scheme(data)[0] in ("acuity", "torchvision"):
        return os.fspath(data)
    return os.path.abspath(Path(data).expanduser())


def _scheme(data: str | Path) -> tuple[str, str]:
    """('torchvision', 'EuroSAT'); what a folder has before its first colon, and what after."""
    scheme, _, name = data.partition(":") if isinstance(data, str) else ("", "", "")
    return scheme, name


def _check_scheme(scheme: str, root: Path) -> None:
    """'torchvison:EuroSAT' and 'acutiy' are slips, not folders."""
    near = difflib.get_close_matches(scheme, ["torchvision", "acuity"], n=1)
    if near and not root.exists():
        raise DatasetError(f"{printable(root)} does not exist; did you mean {near[0]}?")


def _open_acuity(variant: str, options: Mapping[str, object], *, cache_dir: Path) -> ImageDataset:
    from resomap.data.acuity import FORMAT, make_acuity

    settings = {**options, **({"variant": variant} if variant else {})}
    root = cache_dir / "acuity" / digest([FORMAT, settings])
    make_acuity(root, **settings)  # type: ignore[arg-type]
    found = find_images(root)
    variant = str(settings.get("variant", "standard"))
    name = "acuity" if variant == "standard" else f"acuity-{variant}"
    return ImageDataset(name, root, found.class_names, found.splits)  # its masks are no news: no notes


def _split(
    name: str,
    root: Path,
    found: FoundImages,
    *,
    fractions: Mapping[str, float],
    split_seed: int,
    cache_dir: Path,
) -> ImageDataset:
    """Make the splits that the source lacks."""
    dataset = ImageDataset(name, root, found.class_names, found.splits, found.notes)
    given = set(found.splits)
    if "val" in given:
        if "test" in given:
            return dataset
        note = "no test split: results on val are also what the best epoch was chosen by"
        return replace(dataset, notes=(*found.notes, note))
    wanted = {"val": fractions["val"]} if "test" in given else {k: v for k, v in fractions.items() if v > 0}
    pool = found.splits["train" if "train" in given else ""]
    parts, notes = split_pool(
        pool, class_names=found.class_names, fractions=wanted, seed=split_seed, cache_dir=cache_dir
    )
    splits = {**found.splits, **parts}
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return replace(dataset, splits=ordered, notes=(*found.notes, *notes))
