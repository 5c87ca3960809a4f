"""Finds images in a folder: which subfolders are splits, which are classes, which files are images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from resomap.errors import DatasetError
from resomap.printable import listed, printable
from resomap.records import ImageRecord

SPLITS: tuple[str, ...] = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "dib", "tif", "tiff", "webp", "avif"),
        *("heic", "heif", "jp2", "j2k", "jpx", "jpc", "j2c", "ppm", "pgm", "pbm", "pnm", "tga", "ico"),
        *("icns", "pcx", "sgi", "qoi", "psd", "dds", "xbm", "xpm", "mpo"),
    )
)
"""Files that claim to be images. One that is not (or that Pillow cannot read) is a bad file, not ignored."""

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What a folder holds: split -> images; `splits` has the single key '' where nothing is split yet."""

    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[ImageRecord, ...]]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Scan:
    """One walk through a root, and what it left out."""

    root: Path
    other_files: list[str] = field(default_factory=list)
    loose_images: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    extra_folders: list[str] = field(default_factory=list)


def find_images(root: Path) -> FoundImages:
    """Images under `root`, which holds split folders of class folders, or class folders.

    Class names are sorted by code point, as torchvision's ImageFolder does, so labels agree with it.
    Files in deeper folders count for their class folder. Hidden files and system litter are skipped.

    Raises:
        DatasetError: `root` is missing, not a folder, has no images, an empty class, one class only,
            or split folders whose classes differ.
    """
    _check_root(root)
    scan = _Scan(root)
    folders = _split_folders(root)
    if not folders:
        folders = {"": root}
    else:
        taken = {folder.name for folder in folders.values()}
        scan.extra_folders = [f.name for f in _folders(root) if f.name not in taken]
        scan.loose_images = [f.name for f in _files(root) if _is_image(f.name)]
    classes = {split: _class_folders(folder, scan) for split, folder in folders.items()}
    names = _agreed_classes(classes, folders)
    splits = {
        split: tuple(sorted(_records(found, names, scan), key=lambda record: record.image_id))
        for split, found in classes.items()
    }
    _check_counts(splits, names, root)
    return FoundImages(tuple(_text(name) for name in names), splits, _notes(scan))


def _check_root(root: Path) -> None:
    if not os.path.exists(root):  # unlike Path.exists, False also where no permission lets one look
        raise DatasetError(
            f"{printable(root)} does not exist; expected a folder of images (train/val/test, or one folder "
            "a class), torchvision:NAME, or acuity; if it was moved, give the new place with --data"
        )
    if not os.path.isdir(root):
        raise DatasetError(f"{printable(root)} is a file; expected the folder that holds the images")


def _split_folders(root: Path) -> dict[str, Path]:
    """split -> folder, where `root` has them; empty where its folders are classes.

    A class may be called 'train': only a folder of folders is a split.
    """
    found: dict[str, Path] = {}
    for folder in _folders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or not any(_folders(folder)) or any(_is_image(f.name) for f in _files(folder)):
            continue
        if split in found:
            raise DatasetError(
                f"{printable(root)}: expected one folder for {split}, got {printable(found[split].name)} and "
                f"{printable(folder.name)}; keep one"
            )
        found[split] = Path(folder.path)
    if found and "train" not in found:
        names = ", ".join(printable(folder.name) for folder in found.values())
        raise DatasetError(f"{printable(root)}: expected a train folder beside {names}; got none")
    return {split: found[split] for split in SPLITS if split in found}


def _class_folders(folder: Path, scan: _Scan) -> dict[str, Path]:
    scan.loose_images += [_relative(scan.root, f.path) for f in _files(folder) if _is_image(f.name)]
    return {entry.name: Path(entry.path) for entry in _folders(folder)}


def _agreed_classes(classes: Mapping[str, Mapping[str, Path]], folders: Mapping[str, Path]) -> list[str]:
    """Sorted class names; DatasetError unless every split has the same."""
    first, *others = classes
    names = sorted(classes[first])
    for split in others:
        missing = sorted(set(names) - set(classes[split]))
        unexpected = sorted(set(classes[split]) - set(names))
        if missing or unexpected:
            parts = [f"{word} {_some(them)}" for word, them in (("lacks", missing), ("adds", unexpected)) if them]
            raise DatasetError(
                f"{printable(folders[split])}: expected the class folders of "
                f"{printable(folders[first].name)}; this one {' and '.join(parts)}"
            )
    return names


def _records(classes: Mapping[str, Path], names: list[str], scan: _Scan) -> Iterator[ImageRecord]:
    for label, name in enumerate(names):
        for path in _image_paths(classes[name], scan):
            yield ImageRecord(image_id=_relative(scan.root, str(path)), path=path, label=label)


def _image_paths(folder: Path, scan: _Scan) -> Iterator[Path]:
    """All images in a class folder and below; each real folder once, so that links cannot loop."""
    seen = {_identity(parent) for parent in (scan.root, *folder.parents) if parent.is_relative_to(scan.root)}
    pending = [folder]
    while pending:
        here = pending.pop()
        if (identity := _identity(here)) in seen:
            scan.links.append(_relative(scan.root, str(here)))
            continue
        seen.add(identity)
        folders = []
        for entry in _entries(here):
            if _is_folder(entry):
                folders.append(Path(entry.path))
            elif _is_image(entry.name):
                yield Path(entry.path)
            else:
                scan.other_files.append(_relative(scan.root, entry.path))
        pending += reversed(folders)


def _check_counts(splits: Mapping[str, tuple[ImageRecord, ...]], names: list[str], root: Path) -> None:
    if not any(splits.values()):
        raise DatasetError(
            f"{printable(root)}: no images found; expected train/val/test folders with one folder a class, "
            f"or one folder a class, with image files in them{_hint(root)}"
        )
    if len(names) < 2:
        raise DatasetError(
            f"{printable(root)}: expected two classes (folders) or more, got only {printable(names[0])}{_hint(root)}"
        )
    present = {(split, record.label) for split, records in splits.items() for record in records}
    empty = [
        f"{split}/{name}".lstrip("/")
        for split in splits
        for label, name in enumerate(names)
        if (split, label) not in present
    ]
    if empty:
        raise DatasetError(
            f"{printable(root)}: no images in class folder {_some(empty)}; add images or remove the class"
        )


def _hint(root: Path) -> str:
    """Where the classes may be meant to be: one folder further down."""
    folders = list(_folders(root))
    if len(folders) == 1 and len(list(_folders(folders[0]))) > 1:
        return f"; did you mean {printable(folders[0].path)}?"
    return ""


def _notes(scan: _Scan) -> tuple[str, ...]:
    what = {
        "folders beside the splits": scan.extra_folders,
        "images outside class folders": scan.loose_images,
        "files that are not images": scan.other_files,
        "links to folders already read": scan.links,
    }
    return tuple(f"left out {text} ({len(names)}): {_some(names)}" for text, names in what.items() if names)


def _some(names: list[str]) -> str:
    return listed(map(_text, names), most=_SHOWN)


def _entries(folder: str | Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _LITTER]
    except OSError as error:
        name = printable(os.fspath(folder))
        raise DatasetError(
            f"cannot read the folder {name}: {error.strerror}; change its permissions or leave it out"
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _folders(folder: str | Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if _is_folder(entry)]


def _files(folder: str | Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if not _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _relative(root: Path, path: str) -> str:
    """Below `root`, with forward slashes; by cutting the root off, as relpath costs 20 us a file."""
    return _text(path[len(str(root)) :].lstrip(os.sep).replace(os.sep, "/"))


def _text(name: str) -> str:
    """`name` without the surrogates of a file name that is not UTF-8, which no report could hold."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
