"""Downloads a torchvision data set by name and exports it, once, as folders of image files.

`<cache_dir>/torchvision/raw/<NAME>` holds what torchvision downloaded, `<cache_dir>/torchvision/<NAME>` the
export: {train,val,test}/{class}/{number}_{name}, or class folders alone where there is no official split.
Original files are linked (copied where links are impossible); data sets that keep arrays become PNG.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gzip
import logging
import os
import re
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from resomap.errors import DatasetError
from resomap.lease import Leases
from resomap.printable import printable
from resomap.serialize import make_dirs, storage_errors, write_json

_logger = logging.getLogger(__name__)

_DONE = "resomap.json"
_TIMEOUT_S = 30.0  # torchvision sets none: a network that swallows packets would hang the study
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    ImportError,
    EOFError,
    LookupError,
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
)


_Splits = Mapping[str, Mapping[str, Any]]
"""Constructor arguments of each official split; the split is '' where all images come together."""


def _by_split(**names: str) -> _Splits:
    return {ours: {"split": theirs} for ours, theirs in names.items()}


_WHOLE: _Splits = {"": {}}
_TRAIN_FLAG: _Splits = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = _by_split(train="train", test="test")
_THREE = _by_split(train="train", val="val", test="test")

SOURCES: dict[str, _Splits] = {
    "CIFAR10": _TRAIN_FLAG,
    "CIFAR100": _TRAIN_FLAG,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "Country211": _by_split(train="train", val="valid", test="test"),
    "DTD": _THREE,
    "EuroSAT": _WHOLE,
    "FGVCAircraft": _THREE,
    "FashionMNIST": _TRAIN_FLAG,
    "Flowers102": _THREE,
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "Imagenette": _by_split(train="train", val="val"),
    "KMNIST": _TRAIN_FLAG,
    "MNIST": _TRAIN_FLAG,
    "OxfordIIITPet": _by_split(train="trainval", test="test"),
    "PCAM": _THREE,
    "RenderedSST2": _THREE,
    "STL10": _TRAIN_TEST,
    "SUN397": _WHOLE,
    "SVHN": _TRAIN_TEST,
    "StanfordCars": _TRAIN_TEST,
    "USPS": _TRAIN_FLAG,
}
"""torchvision's image classification sets that have one label an image."""


def export_dataset(name: str, *, cache_dir: Path, download: bool = True) -> tuple[Path, str]:
    """The exported folder of a torchvision data set, and its name as torchvision spells it.

    Raises:
        DatasetError: no such data set, or it is neither here nor to be had.
        StorageError: no room or no permission; the export is made whole or not at all.
    """
    title = canonical_title(name)
    home = cache_dir / "torchvision"
    root = home / title
    make_dirs(home)
    with storage_errors(root), Leases(home).hold(f".{title}"):
        if not (root / _DONE).is_file():
            _export(title, root, raw=make_dirs(home / "raw"), download=download)
    return root, title


def canonical_title(name: str) -> str:
    """The name as torchvision spells it, found whatever its case."""
    spelled = {title.lower(): title for title in SOURCES}
    if name.lower() in spelled:
        return spelled[name.lower()]
    near = [spelled[key] for key in difflib.get_close_matches(name.lower(), spelled, n=3)]
    choices = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(SOURCES)}"
    raise DatasetError(f"torchvision:{printable(name)}: no such image classification set; {choices}")


def _export(title: str, root: Path, *, raw: Path, download: bool) -> None:
    """Write beside `root`, then rename. The caller holds the lock."""
    making = root.with_name(f".{title}.making")
    shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(root, ignore_errors=True)  # incomplete: it has no _DONE
    opened = _open_splits(title, raw=raw, download=download)
    try:
        for split, images in opened.items():
            _logger.info("exporting %d images of %s %s", len(images), title, split)
            _write_split(images, making / split)
        write_json(making / _DONE, {"name": title, "images": {k or "all": len(v) for k, v in opened.items()}})
        os.replace(making, root)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _open_splits(title: str, *, raw: Path, download: bool) -> dict[str, Any]:
    """The torchvision data set objects; what an interrupted download left behind is fetched again.

    torchvision takes a folder that exists for a complete one. What the user put there is not touched.
    """
    home, mark = raw / title, raw / f".{title}.downloading"
    if mark.exists():
        shutil.rmtree(home, ignore_errors=True)
    make_dirs(home)
    if download and not any(home.iterdir()):
        mark.touch()
    try:
        with _socket_timeout(_TIMEOUT_S), _careful_tar():
            opened = {
                split: _construct(title, arguments, root=home, download=download)
                for split, arguments in SOURCES[title].items()
            }
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            with storage_errors(home):
                raise
        raise DatasetError(_refusal(title, error, home=home, download=download)) from error
    mark.unlink(missing_ok=True)
    return opened


def _construct(title: str, arguments: Mapping[str, Any], *, root: Path, download: bool) -> Any:
    from torchvision import datasets

    return getattr(datasets, title)(root=str(root), download=download, **arguments)


def _refusal(title: str, error: BaseException, *, home: Path, download: bool) -> str:
    reason = printable(str(error).strip() or type(error).__name__)[:200]
    if isinstance(error, ImportError):
        return f"torchvision:{title} needs a package that is not installed ({reason}); install it and run again"
    remedy = "connect to the network and run again" if download else "run again with downloads allowed"
    return (
        f"torchvision:{title} could not be had ({reason}); {remedy}, or put the files that torchvision "
        f"expects under {printable(home)}"
    )


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _careful_tar() -> Iterator[None]:
    """torchvision unpacks with tarfile.extractall: let no member, link or device out of its folder."""
    before = tarfile.TarFile.__dict__.get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        if before is None:
            del tarfile.TarFile.extraction_filter
        else:
            tarfile.TarFile.extraction_filter = before


def _write_split(images: Any, folder: Path) -> None:
    files = _files_of(images)
    if files is None:
        for i in range(len(images)):
            image, label = images[i]
            _save(image, _class_folder(images, folder, int(label)) / f"{i:06d}.png")
        return
    for i, (path, label) in enumerate(files):
        _link(path, _class_folder(images, folder, label) / f"{i:06d}_{path.name}")


def _files_of(images: Any) -> list[tuple[Path, int]] | None:
    """Original files and labels, from the attributes that torchvision's data sets keep them in."""
    pairs = getattr(images, "samples", None) or getattr(images, "_samples", None)
    if pairs is None:
        paths = getattr(images, "_image_files", None) or getattr(images, "_images", None)
        labels = getattr(images, "_labels", None)
        if paths is None or labels is None or len(paths) != len(labels):
            return None
        pairs = list(zip(paths, labels, strict=True))
    if len(pairs) != len(images) or not isinstance(pairs[0][0], (str, Path)):
        return None
    return [(Path(path), int(label)) for path, label in pairs]


def _class_folder(images: Any, folder: Path, label: int) -> Path:
    """The class's folder, made where missing: its name, or its number where the set gives no names."""
    names: Sequence[Any] = getattr(images, "classes", None) or getattr(images, "categories", None) or ()
    name = names[label] if label < len(names) else f"{label:04d}"
    text = str(name[0] if isinstance(name, tuple) else name)  # Imagenette: all synonyms
    path = folder / (re.sub(r"[/\\\0]", "_", text.strip().lstrip("."))[:200] or f"{label:04d}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise DatasetError(f"{printable(source)} is missing from the download; delete its folder") from error
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _save(image: Image.Image, path: Path) -> None:
    keeps = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    (image if keeps else image.convert("RGB")).save(path)
